"""What a caller in Python hands in: turned into what the code below works with, or refused in words."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from s5c.data.base import Split
from s5c.data.batching import Batch, eval_batches
from s5c.data.padded import Padding, asked_for
from s5c.errors import UserError
from s5c.model.classifier import InputSpec
from s5c.model.config import ModelConfig

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
        x: as for `s5c.api.Model.predict`.
        lengths: valid steps.
        y: classes; zeros if None.
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
    labels = np.zeros(n, np.int32) if y is None else array(y, "The classes")
    if labels.shape != (n,) or labels.dtype.kind not in "iub" or not 0 <= labels.min() <= labels.max() < spec.classes:
        raise UserError(f"The classes must be {n} whole numbers from 0 to {spec.classes - 1}, one for each sequence.")
    valid = None if lengths is None else array(lengths, "lengths")
    steps = inputs.shape[2] if spec.pairs else inputs.shape[1]
    if valid is not None:
        shaped = valid.shape == ((n, 2) if spec.pairs else (n,)) and valid.dtype.kind in "iu"
        if not shaped or valid.min() < 1 or valid.max() > steps:
            which = f"; sequence {_first(first, (valid < 1) | (valid > steps))} has another" if shaped else ""
            raise UserError(f"lengths must be whole numbers from 1 to {steps}, one for each sequence{which}.")
    return Split(inputs, labels.astype(np.int32), None if valid is None else valid.astype(np.int32))


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
        part = dataclasses.replace(split.take(rows), inputs=inputs, lengths=lengths[rows], rows=None)
        for batch in eval_batches(part, batch_size):
            yield batch._replace(places=rows[batch.places])


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
    return dataclasses.replace(split, inputs=padding.fitted(split.inputs, longest, axis), lengths=lengths)


def _lengths(split: Split, steps: int, pairs: bool) -> np.ndarray:
    """Returns the valid steps of every sequence."""
    return np.full((len(split), *[2] * pairs), steps, np.int32) if split.lengths is None else split.lengths
