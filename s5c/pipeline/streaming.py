"""Samples that arrive one after another, and a stream's state in a file.

A sample is what a network reads in one step: its channels as numbers, or one token id.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s5c.atomic import save_arrays
from s5c.errors import UserError, unknown
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.model.stream import StreamState, initial_state
from s5c.pipeline.weights import fingerprint

FORMATS = ("lines", "text", "float32", "int16")
"""How samples are written: numbers in lines, characters, or little-endian numbers without separators; whole numbers of
16 bits are divided by 32768, as sound files are read."""

UNKNOWN = "<unk>"


def samples(
    file: io.BufferedIOBase, form: str, spec: InputSpec, vocabulary: Sequence[str] | None
) -> Iterator[np.ndarray]:
    """Yields samples as they arrive: channels (features,), or a token id ().

    Args:
        file: where they come from.
        form: one of `FORMATS`.
        spec: what the network reads.
        vocabulary: its tokens in id order; None of a network that reads numbers.

    Raises:
        UserError: unknown form, or one that does not fit the network, or a sample that does not; the message has its
            place.
    """
    if form not in FORMATS:
        raise unknown("value for format", form, FORMATS)
    if spec.pairs:
        raise UserError("This network compares two documents; a stream is one. Ask it by s5c.predict.")
    if form == "text":
        yield from _characters(file, vocabulary)
    elif form == "lines":
        yield from _ids(file, spec.features) if spec.tokens else _lines(file, spec.features)
    elif spec.tokens:
        raise UserError(f"format={form} is of real channels, and this network reads token ids: format=lines, or text.")
    else:
        yield from _binary(file, form, spec.features)


def _lines(file: io.BufferedIOBase, features: int) -> Iterator[np.ndarray]:
    for number, line in _numbered(file):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != features:
            raise UserError(f"Line {number} has {len(words)} numbers, and a step of this network has {features}.")
        yield np.array([_real(word, number) for word in words], np.float32)


def _real(word: str, line: int) -> float:
    try:
        value = float(word)
    except ValueError:
        raise UserError(f"Line {line}: {word!r} is no number.") from None
    if not math.isfinite(value):
        raise UserError(f"Line {line}: {word} is not finite; from there on no answer would be.")
    return value


def _ids(file: io.BufferedIOBase, tokens: int) -> Iterator[np.ndarray]:
    for number, line in _numbered(file):
        for word in line.replace(",", " ").split():
            if not word.isdecimal() or int(word) >= tokens:
                raise UserError(f"Line {number}: {word!r} is no token id; they are 0 to {tokens - 1}.")
            yield np.asarray(int(word), np.int32)


def _numbered(file: io.BufferedIOBase) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(iter(file.readline, b""), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"Line {number} is no text: format=lines has numbers in lines; format=float32 and int16 are binary."
            ) from None


def _characters(file: io.BufferedIOBase, vocabulary: Sequence[str] | None) -> Iterator[np.ndarray]:
    if not vocabulary or any(len(token) > 1 and not token.startswith("<") for token in vocabulary):
        raise UserError("format=text is for networks that read characters, and this one does not: format=lines.")
    ids = {token: i for i, token in enumerate(vocabulary)}
    decoder = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")  # type: ignore[type-var]
    while character := decoder.read(1):
        yield np.asarray(ids.get(character, ids.get(UNKNOWN, 0)), np.int32)


def _binary(file: io.BufferedIOBase, form: str, features: int) -> Iterator[np.ndarray]:
    kind, scale = (np.dtype("<f4"), 1.0) if form == "float32" else (np.dtype("<i2"), 1 / 32768)
    size, step = features * kind.itemsize, 0
    while block := file.read(size):
        if len(block) < size:
            raise UserError(f"Step {step + 1} is cut: {len(block)} bytes of {size}.")
        found = np.frombuffer(block, kind).astype(np.float32) * np.float32(scale)
        if not np.isfinite(found).all():
            raise UserError(f"Step {step + 1} is not finite; from there on no answer would be.")
        yield found
        step += 1


def grouped(found: Iterable[np.ndarray], every: int) -> Iterator[np.ndarray]:
    """Yields samples together, `every` at a time and at the end those that are left: (l, features), or (l,)."""
    waiting: list[np.ndarray] = []
    for sample in found:
        waiting.append(sample)
        if len(waiting) == every:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def write_state(path: Path, state: StreamState, weights: dict[str, Any]) -> None:
    """Writes a state to an .npz file, whole or not at all, with the checksum of the network that it is of."""
    layers = {f"layer{i}": np.asarray(layer) for i, layer in enumerate(state.layers)}
    rest = {"features": np.asarray(state.features), "steps": np.asarray(state.steps)}
    save_arrays(path, {"network": np.array(fingerprint(weights)), **rest, **layers})


def read_state(path: Path, model: Classifier, weights: dict[str, Any]) -> StreamState:
    """Reads a state.

    Args:
        path: file that `write_state` wrote.
        model: the network that goes on from it.
        weights: its weights.

    Raises:
        UserError: the file is none, is damaged, or is of another network.
    """
    fresh = initial_state(model, 1)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = StreamState(
            tuple(arrays[f"layer{i}"] for i in range(len(fresh.layers))), arrays["features"], arrays["steps"]
        )
        of = str(arrays["network"])
    except Exception as error:  # zipfile, zlib, numpy and struct have their own
        raise UserError(
            f"{path} holds no state of a stream ({error}): delete it to begin at the first step, or give another file."
        ) from error
    if of != fingerprint(weights) or not _alike(found, fresh):
        raise UserError(f"{path} is the state of another network: give this one's, or a file that is not there yet.")
    return found


def _alike(found: StreamState, fresh: StreamState) -> bool:
    pairs = zip((*found.layers, found.features), (*fresh.layers, fresh.features), strict=True)
    return all(one.shape == other.shape and one.dtype == other.dtype for one, other in pairs)
