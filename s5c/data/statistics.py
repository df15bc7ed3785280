"""Statistics of a split by which channels and targets are scaled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from s5c.data.base import Split
from s5c.data.ragged import Ragged
from s5c.units import Scale

STANDARD, MINMAX, NONE = SCALES = ("standard", "minmax", "none")


class Moments(NamedTuple):
    """Mean, standard deviation, least and largest value, each one number per channel; (4, channels), float64."""

    inputs: np.ndarray
    targets: np.ndarray | None

    @classmethod
    def of(cls, split: Split) -> Moments:
        """Returns those of a split's channels and targets, over all of its valid steps."""
        assert isinstance(split.inputs, Ragged)
        rows = np.arange(len(split)) if split.rows is None else split.rows
        inputs = _of_flat(split.inputs, rows)
        if isinstance(split.targets, Ragged):
            return cls(inputs, _of_flat(split.targets, rows))
        if split.labels.dtype.kind != "f":
            return cls(inputs, None)
        values = split.labels.astype(np.float64)
        return cls(inputs, np.stack([values.mean(0), values.std(0), values.min(0), values.max(0)]))


def _of_flat(ragged: Ragged, rows: np.ndarray) -> np.ndarray:
    """Returns the moments of some sequences, one after the other: they may be too large to hold at once."""
    count, mean, squares = 0, np.zeros(ragged.flat.shape[1]), np.zeros(ragged.flat.shape[1])
    least, most = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
    for row in rows.tolist():
        x = np.asarray(ragged.flat[ragged.offsets[row] : ragged.offsets[row + 1]], np.float64)
        # Chan, Golub and LeVeque 1983, (2.1): sums of squares about the mean, of two parts together.
        own, change = x.mean(0), x.mean(0) - mean
        total = count + len(x)
        squares += ((x - own) ** 2).sum(0) + change**2 * count * len(x) / total
        mean += change * len(x) / total
        count, least, most = total, np.minimum(least, x.min(0)), np.maximum(most, x.max(0))
    return np.stack([mean, np.sqrt(squares / max(count, 1)), least, most])


def scale_of(how: str, moments: np.ndarray | None) -> Scale | None:
    """Returns the scaling of channels or targets; a constant one is shifted alone.

    Args:
        how: standard: mean 0 and standard deviation 1; minmax: 0 to 1; none.
        moments: (4, channels).
    """
    if how == NONE or moments is None:
        return None
    mean, deviation, least, most = moments
    shift, size = (mean, deviation) if how == STANDARD else (least, most - least)
    # Of a constant, rounding leaves a deviation of the order of its own last digit.
    size = np.where(size > 1e-9 * np.maximum(np.abs(most), np.abs(least)), size, 1.0)
    size = np.where(size > 0, size, 1.0)
    return Scale(tuple(map(float, shift)), tuple(map(float, size)))
