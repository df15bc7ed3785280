"""`equal`: every system, a layer or each of its channels, gives up the same share of its states."""

from __future__ import annotations

from s5c.reduction.allocation import uniform
from s5c.types import Array, Float

PER_CHANNEL = True


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """Rank alone counts, as in `uniform`, but each channel of a layer is a competition of its own.

    Where a layer is one system (S5) it equals `uniform`. Ours, so that balanced truncation of single-input layers gives
    every channel the same order, as a rectangular array of parameters asks for.

    Args:
        ranked: scores of one system, descending.
    """
    return uniform.priority(ranked)
