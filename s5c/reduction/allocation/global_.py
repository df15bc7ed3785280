"""`global`: one threshold over the raw scores of all layers."""

from __future__ import annotations

from s5c.types import Array, Float


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """The score itself: layers with small scores may lose nearly everything.

    Args:
        ranked: scores of one layer, descending.

    Source: the "global" ablation of LAST (arXiv 2411.02824, section 5).
    """
    return ranked
