"""What a caller in Python hands in: turned into what the code below works with, or refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from s5c.data.base import Split
from s5c.errors import UserError
from s5c.model.classifier import InputSpec
from s5c.types import Params


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
        y: classes; zeros if None.

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
    labels = np.zeros(n, np.int32) if y is None else array(y, "The classes")
    if labels.shape != (n,) or labels.dtype.kind not in "iub" or not 0 <= labels.min() <= labels.max() < spec.classes:
        raise UserError(f"The classes must be {n} whole numbers from 0 to {spec.classes - 1}, one for each sequence.")
    valid = None if lengths is None else array(lengths, "lengths")
    steps = inputs.shape[2] if spec.pairs else inputs.shape[1]
    if valid is not None and (
        valid.shape != ((n, 2) if spec.pairs else (n,))
        or valid.dtype.kind not in "iu"
        or valid.min() < 1
        or valid.max() > steps
    ):
        raise UserError(f"lengths must be whole numbers from 1 to {steps}, one for each sequence.")
    return Split(inputs, labels.astype(np.int32), None if valid is None else valid.astype(np.int32))


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
