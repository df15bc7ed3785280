"""What a caller in Python hands in: turned into what the code below works with, or refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from s5c.data.base import Split
from s5c.errors import UserError
from s5c.evaluation.metrics import Said, Values
from s5c.model.classifier import InputSpec


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


def as_split(spec: InputSpec, x: Any, lengths: Any = None, y: Any = None) -> Split:
    """Returns arrays as examples for a network.

    Args:
        spec: what it reads.
        x: as for `s5c.api.Model.predict`.
        lengths: valid steps.
        y: classes or targets; zeros if None.

    Raises:
        UserError: they do not fit.
    """
    given = inputs = array(x, "The inputs")
    if spec.tokens:
        wanted = "(n, 2, length) of ids" if spec.pairs else "(n, length) of ids"
        fits = inputs.ndim == 2 + spec.pairs and np.issubdtype(inputs.dtype, np.integer) and inputs.size > 0
        if fits and not 0 <= inputs.min() <= inputs.max() < spec.features:
            raise UserError(f"Ids from {inputs.min()} to {inputs.max()}: this network knows 0 to {spec.features - 1}.")
    else:
        inputs = inputs[..., None] if inputs.ndim == 2 and spec.features == 1 else inputs
        wanted = f"(n, length, {spec.features}) of real numbers"
        fits = inputs.ndim == 3 and inputs.shape[2] == spec.features and inputs.dtype.kind in "fiub" and inputs.size > 0
        if fits:
            with np.errstate(over="ignore"):  # what single precision cannot hold is refused as infinite
                inputs = inputs.astype(np.float32)
            if not np.isfinite(inputs).all():
                raise UserError("The inputs hold numbers that are not finite.")
    if not fits:
        raise UserError(f"The inputs have shape {given.shape}, {given.dtype}; this network reads {wanted}.")
    n = len(inputs)
    valid = None if lengths is None else array(lengths, "lengths")
    steps = inputs.shape[2] if spec.pairs else inputs.shape[1]
    if valid is not None and (
        valid.shape != ((n, 2) if spec.pairs else (n,))
        or valid.dtype.kind not in "iu"
        or valid.min() < 1
        or valid.max() > steps
    ):
        raise UserError(f"lengths must be whole numbers from 1 to {steps}, one for each sequence.")
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
