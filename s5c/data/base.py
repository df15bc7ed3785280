"""What a task is, how it is found, and how its splits come about.

A task is one file in the folder `task` with a frozen dataclass `Task`, whose fields are the keys of its yaml and whose
`load()` returns a `Dataset`. Nothing else needs to know it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from s5c import lookup
from s5c.data import task as tasks
from s5c.data.decode import Decode
from s5c.data.ragged import Ragged
from s5c.data.schema import Schema
from s5c.errors import UserError, unknown
from s5c.units import Scale, Targets

ADDED_LATER = {"added_later": True}
"""Metadata of a task's key that older trainings do not know: at its default it does not enter their identity."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, decoded only when a batch asks for them.

    Attributes:
        inputs: the examples as stored, usually memory-mapped: an array whose first axis counts them, or `Ragged`.
        labels: class of each example, (n,), int32; or its targets, (n, k), float32.
        lengths: valid steps after decoding, (n,) or (n, 2) for pairs; None if nothing is padded.
        decode: from stored to what the network reads: token ids (b, l), real channels (b, l, features) or, for pairs,
            ids (b, 2, l). None if `inputs` is that already.
        rows: which of the stored examples, in this order; None for all.
        buckets: stored lengths that sequences may be padded to, increasing, the last that of `inputs`; empty to pad
            every one to that.
        targets: of every step, (l, k), float32, stored and padded as `inputs` are; None where there is one answer for a
            whole sequence. `labels` only counts the examples then.
    """

    inputs: np.ndarray | Ragged
    labels: np.ndarray
    lengths: np.ndarray | None = None
    decode: Decode | None = None
    rows: np.ndarray | None = None
    buckets: tuple[int, ...] = ()
    targets: np.ndarray | Ragged | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """Returns the examples `rows`, in that order; nothing but labels and lengths is copied."""
        return dataclasses.replace(
            self,
            labels=self.labels[rows],
            lengths=None if self.lengths is None else self.lengths[rows],
            rows=rows if self.rows is None else self.rows[rows],
        )

    def padded_alike(self) -> Split:
        """Returns the same examples, all padded to the longest of the buckets."""
        return dataclasses.replace(self, buckets=())

    def read(self, rows: np.ndarray, *, pad_to: int | None = None) -> np.ndarray:
        """Returns the decoded inputs of some examples.

        Args:
            rows: positions in this split.
            pad_to: stored steps of `Ragged` inputs; their full length if None.
        """
        stored = rows if self.rows is None else self.rows[rows]
        raw = self.inputs.read(stored, pad_to) if isinstance(self.inputs, Ragged) else self.inputs[stored]
        return raw if self.decode is None else self.decode(raw)

    def answers(self, rows: np.ndarray, *, pad_to: int | None = None) -> np.ndarray:
        """Returns what is right for some examples: classes (b,), targets (b, k), or targets of every step (b, l, k)."""
        if self.targets is None:
            return self.labels[rows]
        stored = rows if self.rows is None else self.rows[rows]
        return self.targets.read(stored, pad_to) if isinstance(self.targets, Ragged) else self.targets[stored]

    def stored_lengths(self) -> np.ndarray:
        """Returns the stored steps of each example of `Ragged` inputs, of the longer one in a pair."""
        assert isinstance(self.inputs, Ragged)
        lengths = self.inputs.lengths if self.rows is None else self.inputs.lengths[self.rows]
        return lengths if lengths.ndim == 1 else lengths.max(axis=1)

    def padded_lengths(self) -> np.ndarray:
        """Returns the stored steps that each example of `Ragged` inputs is padded to, itself included."""
        assert isinstance(self.inputs, Ragged)
        lengths = np.array(self.buckets or (self.inputs.length,))
        return lengths[np.searchsorted(lengths, self.stored_lengths())]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A loaded task.

    Attributes:
        name: the task.
        source: where the data came from; printed in every result row.
        train, test: the splits as they are published.
        validation: the published validation split; None if the task has none.
        features: channels of a real input, or number of token ids.
        classes: number of classes, or of targets.
        tokens: inputs are token ids.
        pairs: two sequences per example.
        vocabulary: the tokens in id order, for token tasks.
        step_rescale: factor on Delta that the sampling rate of these inputs asks for (2 at half the rate).
        steps: length of the longest sequences, where there is no example to tell; None to ask the first one.
        checksum: checksum of everything stored; None if the data is small and in memory, and can be read whole for one.
        targets: how targets are scaled, and whether there is one for every step; None where there are classes.
        scale: how the network scales the channels of a real input before it looks at them; None for not at all.
        metric: what networks are compared by (`s5c.metric`).
        schema: what the data is, for checkpoints and for whoever gives a network other data; None if that goes without
            saying.
        place: folder or file of the data, where no other has data of this task; None if the usual places have it.
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
    step_rescale: float = 1.0
    checksum: str | None = None
    steps: int | None = None
    targets: Targets | None = None
    scale: Scale | None = None
    metric: str = "accuracy"
    schema: Schema | None = None
    place: str | None = None

    @property
    def length(self) -> int:
        """Steps of the longest sequences, padding included."""
        if self.steps is not None:
            return self.steps
        return self.train.read(np.zeros(1, np.int64)).shape[2 if self.pairs else 1]

    @property
    def splits(self) -> dict[str, Split]:
        """The published splits by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    def fingerprint(self) -> str:
        """Returns a checksum of the data itself, so that a changed source is never mistaken for the old one.

        Stored data is not read for it: the checksum made when it was written stands for it.
        """
        digest = hashlib.sha256(self.source.encode())
        if self.checksum is not None:
            digest.update(self.checksum.encode())
        for split in self.splits.values():
            arrays = [split.labels, split.lengths]
            if self.checksum is None:
                arrays.insert(0, split.read(np.arange(len(split))))
            else:
                digest.update(repr((split.decode, split.buckets)).encode())
                arrays.append(split.rows)
            for array in arrays:
                if array is not None:
                    digest.update(f"{array.dtype}{array.shape}".encode())
                    digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@runtime_checkable
class Task(Protocol):
    """The surface of a task file: a frozen dataclass whose fields are its yaml keys.

    Three more attributes of the class are optional: `licence`, a sentence on the terms of its data; `few`, options
    that make little data quickly, for tests; and `reads_tokens`, which says that its inputs are ids to who has no data
    to look at. A task whose data does not come with its code is `Located` (`s5c.data.origin`).
    """

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
    """Returns the names of the tasks that are found (`s5c.lookup`)."""
    return lookup.names(tasks)


def task_class(name: str) -> type[Any]:
    """Imports a task by its name.

    Raises:
        UserError: there is none of that name, or its file is incomplete.
    """
    return lookup.schema(tasks, "task", name, "Task", ("load",))


def assign_splits(dataset: Dataset, *, protocol: str, validation_fraction: float, seed: int) -> Splits:
    """Decides what is trained on, selected on and tested on.

    A task without a validation split gets one carved from its training split, unless `protocol` is "paper": then the
    best epoch is chosen on the test split, as the papers do for such tasks, and every result row says so.

    Args:
        dataset: the task.
        protocol: "validation" | "paper".
        validation_fraction: share of the training split to carve.
        seed: seeds the carving permutation; a property of the task, not of the run, so that all runs share the split.

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
