"""What a task is, how it is found, and how its splits come about.

A task is one file in this folder with a frozen dataclass `Task`, whose fields are the keys of its yaml and whose
`load()` returns a `Dataset`. Nothing else needs to know it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from s5c.errors import UserError, unknown

MACHINERY = {"base", "batching"}
"""Modules of this folder that are no tasks."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples in memory.

    Attributes:
        inputs: token ids (n, l), real channels (n, l, features) or, for pairs, ids (n, 2, l).
        labels: class of each example, (n,), int32.
        lengths: valid steps, (n,) or (n, 2) for pairs; None if nothing is padded.
    """

    inputs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """Returns the examples `rows`, in that order."""
        return Split(self.inputs[rows], self.labels[rows], None if self.lengths is None else self.lengths[rows])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A loaded task.

    Attributes:
        name: the task.
        source: where the data came from; printed in every result row.
        train, test: the splits as they are published.
        validation: the published validation split; None if the task has none.
        features: channels of a real input, or number of token ids.
        classes: number of classes.
        tokens: inputs are token ids.
        pairs: two sequences per example.
        vocabulary: the tokens in id order, for token tasks.
    """

    name: str
    source: str
    train: Split
    test: Split
    features: int
    classes: int
    validation: Split | None = None
    tokens: bool = False
    pairs: bool = False
    vocabulary: Sequence[str] | None = None

    @property
    def length(self) -> int:
        """Steps per sequence, padding included."""
        return self.train.inputs.shape[2 if self.pairs else 1]

    def fingerprint(self) -> str:
        """Returns a checksum of the data itself, so that a changed source is never mistaken for the old one."""
        digest = hashlib.sha256(self.source.encode())
        for split in (self.train, self.validation, self.test):
            if split is not None:
                for array in (split.inputs, split.labels, split.lengths):
                    if array is not None:
                        digest.update(f"{array.dtype}{array.shape}".encode())
                        digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@runtime_checkable
class Task(Protocol):
    """The surface of a task file: a frozen dataclass whose fields are its yaml keys."""

    def load(self) -> Dataset:
        """Reads, or makes, the data."""
        ...


@dataclasses.dataclass(frozen=True)
class Splits:
    """The three roles of the data in one experiment.

    Attributes:
        train: what the weights are fitted to.
        selection: what the best epoch is chosen on.
        test: read once, at the end.
        selected_on: "validation", or "test" where the papers do so.
    """

    train: Split
    selection: Split
    test: Split
    selected_on: str


def names() -> list[str]:
    """Returns the tasks found in this folder."""
    folder = Path(__file__).parent
    return sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if m.name not in MACHINERY)


def task_class(name: str) -> type[Any]:
    """Imports a task by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in names():
        raise unknown("task", name, names())
    return importlib.import_module(f"s5c.data.{name}").Task


def assign_splits(dataset: Dataset, *, protocol: str, validation_fraction: float, seed: int) -> Splits:
    """Decides what is trained on, selected on and tested on.

    A task without a validation split gets one carved from its training split, unless `protocol` is "paper": then the
    best epoch is chosen on the test split, as the papers do for such tasks, and every result row says so.

    Args:
        dataset: the task.
        protocol: "validation" | "paper".
        validation_fraction: share of the training split to carve.
        seed: of the carving permutation; a property of the task, not of the run, so that all runs share the split.

    Raises:
        UserError: unknown protocol, or a fraction that leaves a split empty.
    """
    if protocol not in ("validation", "paper"):
        raise unknown("protocol", protocol, ("validation", "paper"))
    if dataset.validation is not None:
        return Splits(dataset.train, dataset.validation, dataset.test, "validation")
    if protocol == "paper":
        return Splits(dataset.train, dataset.test, dataset.test, "test")
    n = len(dataset.train)
    held_out = round(validation_fraction * n)
    if not 0 < held_out < n:
        raise UserError(
            f"task.validation_fraction={validation_fraction} leaves {held_out} of {n} training examples for "
            "validation: choose a fraction strictly between 0 and 1 that leaves both parts some examples."
        )
    order = np.random.default_rng(seed).permutation(n)
    return Splits(
        dataset.train.take(order[held_out:]), dataset.train.take(order[:held_out]), dataset.test, "validation"
    )
