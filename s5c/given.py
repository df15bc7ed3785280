"""What a caller in Python hands in: turned into what the code below works with, or refused in words."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from s5c.data.base import Split
from s5c.data.batching import Batch, eval_batches
from s5c.data.padded import Padding, asked_for
from s5c.data.ragged import Ragged
from s5c.errors import UserError
from s5c.evaluation.metrics import Said, Values
from s5c.model.classifier import InputSpec
from s5c.model.config import ModelConfig
from s5c.types import Params

log = logging.getLogger(__name__)

TRAINED, GIVEN = "trained", "given"
"""What `pad=` says in words: pad as in training, or take the sequences as they are."""


def native(value: Any) -> Any:
    """Returns a value with Python's own numbers and lists in the place of NumPy's, as configurations have them."""
    if isinstance(value, Mapping):
        return {key: native(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [native(part) for part in value]
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    return value


def whole(value: Any, what: str, example: str) -> int:
    """Returns a number of things, at least one.

    Args:
        value: as given.
        what: the argument's name.
        example: how it may be written.

    Raises:
        UserError: it is no whole number, or not positive.
    """
    number = native(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UserError(f"{what}={value!r}: give a whole number of at least 1, such as {example}.")
    return number


def array(value: Any, what: str) -> np.ndarray:
    """Returns numbers as an array.

    Args:
        value: as given.
        what: their name in messages.

    Raises:
        UserError: they make no array.
    """
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise UserError(
            f"{what} are no array: {error}. Sequences of different lengths are filled up to the longest, and lengths= "
            "says how long each is."
        ) from error


def as_split(spec: InputSpec, x: Any, lengths: Any = None, y: Any = None, *, first: int = 0) -> Split:
    """Returns arrays as examples for a network.

    Args:
        spec: what it reads.
        x: as for `s5c.networks.Model.predict`.
        lengths: valid steps.
        y: classes or targets; zeros if None.
        first: number of the first sequence, for messages about one of them.

    Raises:
        UserError: they do not fit.
    """
    given = inputs = array(x, "The inputs")
    if spec.tokens:
        wanted = "(n, 2, length) of ids" if spec.pairs else "(n, length) of ids"
        fits = inputs.ndim == 2 + spec.pairs and np.issubdtype(inputs.dtype, np.integer) and inputs.size > 0
        if fits and not 0 <= inputs.min() <= inputs.max() < spec.features:
            wrong = _first(first, (inputs < 0) | (inputs >= spec.features))
            raise UserError(
                f"Ids from {inputs.min()} to {inputs.max()}, the first wrong one in sequence {wrong}: this network "
                f"knows 0 to {spec.features - 1}."
            )
    else:
        inputs = inputs[..., None] if inputs.ndim == 2 and spec.features == 1 else inputs
        wanted = f"(n, length, {spec.features}) of real numbers"
        fits = inputs.ndim == 3 and inputs.shape[2] == spec.features and inputs.dtype.kind in "fiub" and inputs.size > 0
        if fits:
            with np.errstate(over="ignore"):  # what single precision cannot hold is refused as infinite
                inputs = inputs.astype(np.float32)
            if not np.isfinite(inputs).all():
                where = _first(first, ~np.isfinite(inputs))
                raise UserError(f"The inputs hold numbers that are not finite, the first in sequence {where}.")
    if not fits:
        raise UserError(f"The inputs have shape {given.shape}, {given.dtype}; this network reads {wanted}.")
    n = len(inputs)
    valid = None if lengths is None else array(lengths, "lengths")
    steps = inputs.shape[2] if spec.pairs else inputs.shape[1]
    if valid is not None:
        shaped = valid.shape == ((n, 2) if spec.pairs else (n,)) and valid.dtype.kind in "iu"
        if not shaped or valid.min() < 1 or valid.max() > steps:
            which = f"; sequence {_first(first, (valid < 1) | (valid > steps))} has another" if shaped else ""
            raise UserError(f"lengths must be whole numbers from 1 to {steps}, one for each sequence{which}.")
    ends = None if valid is None else valid.astype(np.int32)
    if spec.targets is not None:
        return _with_targets(spec, inputs, ends, y)
    labels = np.zeros(n, np.int32) if y is None else array(y, "The classes")
    if labels.shape != (n,) or labels.dtype.kind not in "iub" or not 0 <= labels.min() <= labels.max() < spec.classes:
        raise UserError(f"The classes must be {n} whole numbers from 0 to {spec.classes - 1}, one for each sequence.")
    return Split(_filled(spec, inputs, ends), labels.astype(np.int32), ends)


def _filled(spec: InputSpec, inputs: np.ndarray, ends: np.ndarray | None) -> np.ndarray:
    """Returns inputs whose padding is what it was in training where channels are scaled: their shifts."""
    if spec.scale is None or ends is None:
        return inputs
    valid = np.arange(inputs.shape[1]) < ends[:, None]
    return np.where(valid[..., None], inputs, np.asarray(spec.scale.shift, inputs.dtype))


def _with_targets(spec: InputSpec, inputs: np.ndarray, ends: np.ndarray | None, y: Any) -> Split:
    assert spec.targets is not None
    shape = (len(inputs), *inputs.shape[1:2], spec.classes) if spec.targets.per_step else (len(inputs), spec.classes)
    targets = np.zeros(shape, np.float32) if y is None else array(y, "The targets")
    if spec.classes == 1 and targets.ndim == len(shape) - 1:
        targets = targets[..., None]
    valid = np.ones(shape[:-1], bool)
    if spec.targets.per_step and ends is not None:
        valid = np.arange(shape[1]) < ends[:, None]
    if targets.shape != shape or targets.dtype.kind not in "fiub" or not np.isfinite(targets[valid]).all():
        each = "step" if spec.targets.per_step else "sequence"
        raise UserError(f"The targets must be finite real numbers of shape {shape}, one row for each {each}.")
    targets = np.where(valid[..., None], targets, 0).astype(np.float32)
    if not spec.targets.per_step:
        return Split(_filled(spec, inputs, ends), targets, ends)
    return Split(_filled(spec, inputs, ends), np.zeros(len(inputs), np.int32), ends, targets=targets)


def by_step(said: Said, split: Split) -> np.ndarray:
    """Returns the answers to every step of some sequences, (n, l, k); NaN after the valid steps."""
    assert isinstance(said, Values) and isinstance(split.inputs, np.ndarray)
    found = np.full((len(split), split.inputs.shape[1], said.outputs.shape[1]), np.nan)
    found[np.arange(found.shape[1]) < said.steps[:, None]] = said.outputs
    return found


def _first(first: int, wrong: np.ndarray) -> int:
    """Returns the number of the first sequence in which something is wrong."""
    return first + int(wrong.reshape(len(wrong), -1).any(axis=1).argmax())


# ---- padding


def padding_of(config: ModelConfig, facts: Mapping[str, Any], pad: Any) -> Padding | None:
    """Returns what the sequences that a network is asked with are padded to; None to take them as they are.

    Args:
        config: configuration of the network.
        facts: metadata of its checkpoint.
        pad: trained: as in training, if answers depend on it | given: as they are | lengths, one or several.

    Raises:
        UserError: `pad` is none of that.
    """
    known = Padding.known(facts)
    if isinstance(pad, str) and pad == TRAINED:
        return known if config.sees_padding else None
    if isinstance(pad, str) and pad == GIVEN:
        return None
    return dataclasses.replace(asked_for(pad), step=None if known is None else known.step)


def in_words(config: ModelConfig, padding: Padding | None, pad: Any) -> str:
    """Returns a sentence on what `padding_of` has decided."""
    if padding is None:
        why = "pad=given" if pad == GIVEN else "no padding was there in training, or none is known of"
        why = why if config.sees_padding else "padding changes no answer of this network"
        return f"Sequences are taken as they are: {why}."
    lengths = " or ".join(map(str, padding.lengths))
    if pad != TRAINED:
        return f"Sequences are padded to {lengths} steps, as pad= says."
    return (
        f"Sequences are padded to {lengths} steps, as in training: this network sees padding, and its answers depend "
        f"on it. pad={GIVEN} leaves them as they are."
    )


def padded_batches(split: Split, padding: Padding | None, batch_size: int, *, pairs: bool) -> Iterator[Batch]:
    """Yields evaluation batches of examples, each padded as a training pads it.

    Args:
        split: what `as_split` returned.
        padding: what to pad to; None to take them as they are.
        batch_size: examples at a time.
        pairs: two sequences per example; the longer one decides.

    Raises:
        UserError: a sequence is longer than `padding` allows.
    """
    axis = 2 if pairs else 1
    assert isinstance(split.inputs, np.ndarray)
    steps = split.inputs.shape[axis]
    places = None if padding is None else padded_to(split, padding, pairs=pairs)
    if padding is None or places is None or (split.lengths is None and (places == steps).all()):
        yield from eval_batches(split, batch_size)
        return
    lengths = _lengths(split, steps, pairs)
    for length in np.unique(places):
        rows = np.flatnonzero(places == length)
        inputs = padding.fitted(split.inputs[rows], int(length), axis)
        taken = split.take(rows)
        targets = None if taken.targets is None else _steps(taken.answers(np.arange(len(rows))), int(length))
        part = dataclasses.replace(taken, inputs=inputs, lengths=lengths[rows], rows=None, targets=targets)
        for batch in eval_batches(part, batch_size):
            yield batch._replace(places=rows[batch.places])


def _steps(targets: np.ndarray | Ragged, length: int) -> np.ndarray:
    """Returns targets of every step for so many steps, filled up with zeros."""
    assert isinstance(targets, np.ndarray)
    missing = max(length - targets.shape[1], 0)
    return np.pad(targets[:, :length], [(0, 0), (0, missing), (0, 0)])


def padded_to(split: Split, padding: Padding, *, pairs: bool) -> np.ndarray:
    """Returns what each example is padded to; raises `UserError` where one is too long."""
    assert isinstance(split.inputs, np.ndarray)
    steps = split.inputs.shape[2 if pairs else 1]
    return padding.places(_lengths(split, steps, pairs).reshape(len(split), -1).max(axis=1), steps)


def padded_alike(split: Split, padding: Padding | None, *, pairs: bool) -> Split:
    """Returns examples padded to one length, the longest of a training, or as they are."""
    if padding is None or not len(split):
        return split
    axis = 2 if pairs else 1
    assert isinstance(split.inputs, np.ndarray)
    steps = split.inputs.shape[axis]
    lengths = _lengths(split, steps, pairs)
    longest = max(padding.lengths[-1], int(lengths.max()))
    if longest == steps:
        return split
    targets = None if split.targets is None else _steps(split.targets, longest)
    inputs = padding.fitted(split.inputs, longest, axis)
    return dataclasses.replace(split, inputs=inputs, lengths=lengths, targets=targets)


def _lengths(split: Split, steps: int, pairs: bool) -> np.ndarray:
    """Returns the valid steps of every sequence."""
    return np.full((len(split), *[2] * pairs), steps, np.int32) if split.lengths is None else split.lengths


def check_finite(name: str, weights: Params) -> None:
    """Raises `UserError` where weights are not finite.

    Args:
        name: of the network.
        weights: `{"params": ..., "batch_stats": ...}`.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        if not np.isfinite(leaf).all():
            place = "/".join(str(key.key) for key in path)
            raise UserError(
                f"{name}: {place} holds numbers that are not finite, and no answer of such a network means anything. "
                "Load an intact checkpoint."
            )
