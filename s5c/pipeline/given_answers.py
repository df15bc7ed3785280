"""Answers of the original network, and which options would give them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from s5c.data.base import Split
from s5c.errors import UserError
from s5c.evaluation.metrics import predict
from s5c.given import as_split
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.pipeline.trained import batches
from s5c.upstream.network import Converted

log = logging.getLogger(__name__)

BATCH = 32
TRIED = 8
"""Answers that other options are tried on."""

INPUTS, LENGTHS = ("inputs", "batch0/inputs"), ("lengths", "batch0/lengths")
LOG_PROBS = ("log_probs", "logits_after", "logits")
"""Names of the arrays; the second ones are those of the reference files of tests/reference."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """Inputs and what the original network said of them.

    Attributes:
        path: their file.
        inputs: as `s5c.networks.Model.predict` takes them, or with the rows of all first documents before those of all
            second ones.
        lengths: valid steps; None if nothing is padded.
        log_probs: (n, classes), double precision.
        split: the same as examples for a network, from `fitting` on.
    """

    path: Path
    inputs: np.ndarray
    lengths: np.ndarray | None
    log_probs: np.ndarray
    split: Split | None = None

    @property
    def tokens(self) -> bool:
        """Whether the inputs are token ids."""
        return bool(np.issubdtype(self.inputs.dtype, np.integer)) and self.inputs.ndim < 3 + self._apart

    @property
    def length(self) -> int:
        """Steps of the sequences."""
        return self.inputs.shape[2 if self._apart else 1]

    @property
    def _apart(self) -> bool:
        """Whether documents of a pair have an axis of their own: (n, 2, l) of ids."""
        return self.inputs.ndim == 3 and self.inputs.shape[1] == 2 and np.issubdtype(self.inputs.dtype, np.integer)

    def fitting(self, spec: InputSpec) -> Answers:
        """Returns the same answers, once they are known to be those of a network.

        Raises:
            UserError: shapes, ids or numbers of answers do not fit.
        """
        inputs, lengths = self.inputs, self.lengths
        if spec.pairs and inputs.ndim == 2 and len(inputs) % 2 == 0:
            inputs = np.stack(np.split(inputs, 2), axis=1)
            lengths = None if lengths is None or lengths.ndim == 2 else np.stack(np.split(lengths, 2), axis=1)
        try:
            split = as_split(spec, inputs, lengths)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        if self.log_probs.shape != (len(split), spec.classes):
            raise UserError(
                f"{self.path}: the answers have shape {self.log_probs.shape}; {len(split)} sequences and "
                f"{spec.classes} classes make {(len(split), spec.classes)}."
            )
        return dataclasses.replace(self, split=split)

    def deviation(self, converted: Converted, most: int | None = None) -> float:
        """Returns the largest difference of two log-probabilities; infinity if some are not finite.

        Args:
            converted: the network.
            most: sequences that are looked at, the first ones; all if None.
        """
        assert self.split is not None, "fitted before"
        rows = np.arange(len(self.split))[:most]
        config = dataclasses.replace(converted.config, precision="float32")
        model = Classifier(config, converted.spec, converted.state_dims)
        said = predict(model, converted.weights, batches(self.split.take(rows), BATCH)()).outputs
        if not np.isfinite(said).all():
            return float("inf")
        return float(np.abs(said - self.log_probs[rows]).max())


def read(path: Path) -> Answers:
    """Reads inputs and answers.

    Raises:
        UserError: there is no such file, an array is missing in it, or numbers are not finite.
    """
    arrays = arrays_of(path, "check=")
    inputs, lengths, said = (_first(arrays, names) for names in (INPUTS, LENGTHS, LOG_PROBS))
    if inputs is None or said is None:
        lacking = INPUTS[0] if inputs is None else LOG_PROBS[0]
        raise UserError(
            f"{path} has no array {lacking!r}: it takes inputs, lengths where sequences are padded, and log_probs (n, "
            f"classes) of the original network. It has {', '.join(sorted(arrays)[:10]) or 'nothing'}."
        )
    if said.ndim != 2 or said.dtype.kind not in "fiu" or not np.isfinite(said).all():
        raise UserError(f"{path}: the answers must be finite real numbers of shape (n, classes), not {said.shape}.")
    if lengths is not None and lengths.dtype.kind == "f" and np.array_equal(lengths, np.round(lengths)):
        lengths = lengths.astype(np.int64)
    return Answers(path, inputs, lengths, scipy.special.log_softmax(said.astype(np.float64), axis=1))


def arrays_of(path: Path, what: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file; nothing in it is run.

    Args:
        path: the file.
        what: the option that names it, for messages.

    Raises:
        UserError: it is not there, or no such file.
    """
    if not path.is_file():
        raise UserError(f"{what}{path} is no file: give an .npz file.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("it is a single array")
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        said = " ".join(str(error).split())[:150]
        raise UserError(f"{what}{path} cannot be read as .npz of arrays: {said}.") from error


def _first(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


class Search:
    """Other values of options that the file says nothing about, one or two at a time, tried on the answers.

    Args:
        arrays: of the file.
        module: its layout.
        given: options as they were.
        converted: the network that they give.
        answers: what is to come out.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        module: Any,
        given: Mapping[str, Any],
        converted: Converted,
        answers: Answers,
    ) -> None:
        self._arrays, self._module, self._given, self._answers = arrays, module, given, answers
        self._open = converted.open

    @property
    def names(self) -> list[str]:
        """The options that are tried."""
        return list(self._open)

    def run(self, tolerance: float) -> tuple[list[tuple[float, dict[str, Any]]], tuple[float, dict[str, Any]] | None]:
        """Returns the changes that make the answers agree, best first, and else the one that comes nearest.

        Args:
            tolerance: how far the answers may differ.
        """
        alone = {key: self._tried(dict([key])) for key in ((n, v) for n, values in self._open.items() for v in values)}
        pairs = sorted(itertools.combinations(alone, 2), key=lambda two: sum(alone[key] for key in two))
        every: list[tuple[float, dict[str, Any]]] = [(off, dict([key])) for key, off in alone.items()]
        if not any(off <= tolerance for off, _ in every):
            for off, changes in self._two(pairs):
                every.append((off, changes))
                if off <= tolerance:
                    break
        every.sort(key=lambda one: one[0])
        whole = [(self._tried(changes, None), changes) for off, changes in every if off <= tolerance]
        fits = sorted((one for one in whole if one[0] <= tolerance), key=lambda one: one[0])
        return fits, every[0] if every else None

    def _two(self, pairs: list[tuple[Any, Any]]) -> Iterator[tuple[float, dict[str, Any]]]:
        for one, other in pairs:
            if one[0] != other[0]:
                yield self._tried(dict([one, other])), dict([one, other])

    def _tried(self, changes: Mapping[str, Any], most: int | None = TRIED) -> float:
        try:
            found = self._module.convert(self._arrays, {**self._given, **changes})
        except UserError:  # the two do not go together
            return float("inf")
        off = self._answers.deviation(found, most)
        log.info("  %s: off by %.3g", " ".join(f"{key}={value}" for key, value in changes.items()), off)
        return off
