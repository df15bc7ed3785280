"""What a network answers to the sequences in a file, slice by slice, into another file that is whole or not there.

Answers are kept beside that file as they come: the same command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from numpy.lib import format as npy

from s5c.atomic import UNFINISHED, write_text, written
from s5c.data.base import Split
from s5c.data.padded import Padding
from s5c.data.progress import progress
from s5c.errors import UserError
from s5c.given import as_split, padded_batches, padded_to
from s5c.model.classifier import Classifier
from s5c.model.layerwise import log_probs
from s5c.pipeline.slices import SUFFIX, Slices, members
from s5c.pipeline.weights import fingerprint
from s5c.training.exclusive import LOCK
from s5c.training.loop import to_device
from s5c.types import Params

INPUTS, LENGTHS = "inputs", "lengths"
PACKED = ".npz"
SLICE_BYTES = 2**26
"""Of padded sequences that are held at a time, and"""
BATCHES = 16
"""of batches, after which what is answered is kept."""
KEY, ROWS = "question.json", "rows"


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Sequences in a file, with their valid steps.

    Attributes:
        inputs: ids (n, l) or (n, 2, l), or real numbers (n, l, features) or (n, l).
        lengths: (n,) or (n, 2); None if every step is valid.
    """

    inputs: Slices
    lengths: np.ndarray | None

    @classmethod
    def find(cls, path: Path, lengths: Path | None = None) -> Sequences:
        """Finds them: `inputs`, and `lengths` if there are any, in an `.npz`, or an `.npy`.

        Args:
            path: the file.
            lengths: file of the lengths, if they are not in the same.

        Raises:
            UserError: a file is missing, damaged or holds something else.
        """
        inputs, found = Slices.find(path, INPUTS), None
        if lengths is not None:
            found = Slices.find(lengths, LENGTHS)
        elif inputs.member is not None and LENGTHS in members(path):
            found = Slices.find(path, LENGTHS)
        if not len(inputs) or 0 in inputs.header.shape:
            raise UserError(f"{path}: {INPUTS} has shape {inputs.header.shape}, so there is no sequence.")
        if found is not None and (len(found) != len(inputs) or found.header.row_bytes > 16):
            raise UserError(
                f"{found.path}: {LENGTHS} has shape {found.header.shape}, but there are {len(inputs):,} sequences in "
                f"{path}: give one number for each."
            )
        if found is not None and found.header.dtype.kind not in "iu":
            raise UserError(f"{found.path}: {LENGTHS} must be whole numbers, not {found.header.dtype}.")
        return cls(inputs, None if found is None else found.whole())

    def steps(self, network: Classifier) -> int:
        """Returns the steps that all of them have, padding included."""
        shape = self.inputs.header.shape
        return shape[2 if network.spec.pairs else 1] if len(shape) > 1 + network.spec.pairs else 1

    def describe(self, network: Classifier) -> str:
        """Returns what they are, in words."""
        valid = "all" if self.lengths is None else f"{self.lengths.min():,} to {self.lengths.max():,}"
        inside = [] if self.inputs.member is None else members(self.inputs.path)
        others = [name for name in inside if name not in (INPUTS, LENGTHS)]
        ignored = f" ({', '.join(others)}: not looked at)" if others else ""
        return f"{len(self.inputs):,} sequences of {self.steps(network):,} steps, {valid} of them valid{ignored}"

    def splits(self, network: Classifier, rows: int, start: int = 0) -> Iterator[tuple[int, Split]]:
        """Yields the number of a first sequence, and some sequences from there on.

        Raises:
            UserError: they do not fit the network; the message says which.
        """
        first = start
        for x in self.inputs.read(rows, start):
            valid = None if self.lengths is None else self.lengths[first : first + len(x)]
            yield first, as_split(network.spec, x, valid, first=first)
            first += len(x)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A network with all that decides its answers.

    Attributes:
        network: the module.
        weights: `{"params": ..., "batch_stats": ...}`.
        step_rescale: multiplies every Delta.
        padding: what sequences are padded to; None to take them as they are.
        batch_size: sequences at a time.
    """

    network: Classifier
    weights: Params
    step_rescale: float
    padding: Padding | None
    batch_size: int

    @property
    def called(self) -> str:
        """Returns what its answers are: log-probabilities of classes, or real numbers."""
        return "log_probs" if getattr(self.network.spec, "targets", None) is None else "outputs"

    def check(self, split: Split) -> None:
        """Raises `UserError` if a sequence is longer than it may be padded to."""
        if self.padding is not None:
            padded_to(split, self.padding, pairs=self.network.spec.pairs)

    def answers(self, split: Split, steps: int, progress: Callable[[int], None]) -> np.ndarray:
        """Returns the answers, float32, one row per sequence; one with an answer per step has so many steps."""
        spec, rows, places = self.network.spec, [], []
        for batch in padded_batches(split, self.padding, self.batch_size, pairs=spec.pairs):
            ready, real = to_device(batch), batch.weights > 0
            said = log_probs(self.network, self.weights, ready.inputs, ready.lengths, self.step_rescale)
            valid = None if batch.lengths is None or spec.pairs else batch.lengths[real]
            rows.append(_steps(np.asarray(jax.device_get(said), np.float32)[real], steps, valid))
            places.append(batch.places[real])  # type: ignore[index]
            progress(int(real.sum()))
        return np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]

    def rows_at_a_time(self, sequences: Sequences) -> int:
        """Returns how many sequences, padded, take up a slice: whole batches."""
        spec = self.network.spec
        steps = max(sequences.steps(self.network), self.padding.lengths[-1] if self.padding else 0)
        padded = 4 * steps * (1 + spec.pairs) * (1 if spec.tokens else spec.features)
        batch = max(padded, sequences.inputs.header.row_bytes) * self.batch_size
        return min(max(SLICE_BYTES // max(batch, 1), 1), BATCHES) * self.batch_size


Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows progress: of what, and of how many; what it gives is called with numbers of sequences, as they are done."""


def answer(asked: Asked, sequences: Sequences, out: Path, said: Callable[[str], None], bar: Bar = progress) -> int:
    """Writes the answers to all sequences; what an earlier call has answered is not asked again.

    Args:
        asked: the network.
        sequences: what it is asked. All of them are looked at before one is answered.
        out: `.npz` or `.npy`; replaced once the new one is whole.
        said: called with what a person should know.
        bar: shows progress.

    Returns:
        How many sequences have an answer that is no finite number.

    Raises:
        UserError: sequences do not fit the network, in which case nothing is left behind, or another process writes
            the same file.
    """
    rows, count = asked.rows_at_a_time(sequences), len(sequences.inputs)
    with _kept(out, _question(asked, sequences)) as (place, kept):
        if "fit" not in kept:
            with bar("sequences looked at", count) as advance:
                for _, split in sequences.splits(asked.network, rows):
                    asked.check(split)
                    advance(len(split))
            _keep(place, kept, fit=True)
        if done := _done(place, kept):
            said(f"{done:,} of {count:,} sequences were answered before.")
        with bar("sequences answered", count) as advance, (place / ROWS).open("ab") as file:
            advance(done)
            for _, split in sequences.splits(asked.network, rows, done):
                found = asked.answers(split, sequences.steps(asked.network), advance)
                if "shape" not in kept:
                    _keep(place, kept, shape=list(found.shape[1:]))
                file.write(np.ascontiguousarray(found).tobytes())
                file.flush()
        shape = (count, *kept["shape"])
        _put(out, asked.called, place / ROWS, shape)
        lost = _not_finite(place / ROWS, shape, sequences.lengths)
        shutil.rmtree(place)
    return lost


def check_place(out: Path, *others: Path) -> None:
    """Raises `UserError` unless answers can be written to a file."""
    if out.suffix not in (PACKED, SUFFIX):
        raise UserError(f"out={out}: the name of the answers' file ends in {PACKED} or {SUFFIX}.")
    if out.is_dir():
        raise UserError(f"out={out} is a folder: give the name of a file, such as {out / 'answers.npz'}.")
    for other in others:
        if out.exists() and other.exists() and out.samefile(other):
            raise UserError(f"out={out} is what is read: give the answers a file of their own.")


# ---- what is kept on the way


@contextmanager
def _kept(out: Path, question: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Gives the folder of unfinished answers, and what is known about them; answers to another question go."""
    place = out.with_name(f"{UNFINISHED}-{out.name}")
    missing = [path for path in place.parents if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(f"Another process writes {out}: wait for it, or give another out=.") from error
    try:
        try:
            kept = json.loads((place / KEY).read_text("utf-8"))
        except (OSError, ValueError):
            kept = {}
        if not isinstance(kept, dict) or kept.get("question") != question:
            (place / ROWS).unlink(missing_ok=True)
            kept = {}
            _keep(place, kept, question=question)
        try:
            yield place, kept
        except UserError:
            shutil.rmtree(place)
            for path in missing:
                path.rmdir()
            raise
    finally:
        lock.release()


def _keep(place: Path, kept: dict[str, Any], **facts: Any) -> None:
    kept |= facts
    write_text(place / KEY, json.dumps(kept))


def _question(asked: Asked, sequences: Sequences) -> dict[str, Any]:
    """Returns what decides the answers, in JSON values."""
    facts, lengths = sequences.inputs.path.stat(), sequences.lengths
    return {
        "weights": fingerprint(dict(asked.weights)),
        "model": json.loads(json.dumps(asked.network.config.to_dict())),
        "inputs": [str(sequences.inputs.path.absolute()), facts.st_size, facts.st_mtime_ns],
        "lengths": None if lengths is None else hashlib.sha256(np.ascontiguousarray(lengths).tobytes()).hexdigest(),
        "padding": None if asked.padding is None else asked.padding.record(),
        "step_rescale": asked.step_rescale,
        "batch_size": asked.batch_size,
    }


def _done(place: Path, kept: dict[str, Any]) -> int:
    """Returns how many sequences have been answered; what was written of a row in part is cut off."""
    path = place / ROWS
    if "shape" not in kept or not path.exists():
        path.unlink(missing_ok=True)
        return 0
    row = 4 * int(np.prod(kept["shape"]))
    done = path.stat().st_size // row
    with path.open("r+b") as file:
        file.truncate(done * row)
    return done


def _put(out: Path, name: str, rows: Path, shape: tuple[int, ...]) -> None:
    def write(file: Any) -> None:
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with rows.open("rb") as source:
            shutil.copyfileobj(source, file, 2**20)

    with written(out) as unfinished:
        if out.suffix == SUFFIX:
            with unfinished.open("wb") as plain:
                write(plain)
        else:
            with (
                zipfile.ZipFile(unfinished, "w") as packed,
                packed.open(f"{name}{SUFFIX}", "w", force_zip64=True) as one,
            ):
                write(one)


def _not_finite(rows: Path, shape: tuple[int, ...], lengths: np.ndarray | None) -> int:
    """Returns how many sequences have an answer, of a valid step, that is no finite number."""
    answers = np.memmap(rows, np.float32, "r", shape=shape)
    at_a_time, lost = max(SLICE_BYTES // (4 * int(np.prod(shape[1:]))), 1), 0
    for first in range(0, len(answers), at_a_time):
        part = slice(first, first + at_a_time)
        wrong = ~np.isfinite(answers[part])
        if len(shape) == 3 and lengths is not None:
            wrong &= (np.arange(shape[1]) < lengths[part, None])[..., None]
        lost += int(wrong.reshape(len(wrong), -1).any(axis=1).sum())
    return lost


def _steps(answers: np.ndarray, steps: int, lengths: np.ndarray | None) -> np.ndarray:
    """Returns answers, those of every step for as many steps as the sequences came with, NaN after the valid ones."""
    if answers.ndim < 3:
        return answers
    found = np.full((len(answers), steps, answers.shape[2]), np.nan, np.float32)
    found[:, : answers.shape[1]] = answers[:, :steps]
    if lengths is not None:
        found[np.arange(steps) >= lengths[:, None]] = np.nan
    return found
