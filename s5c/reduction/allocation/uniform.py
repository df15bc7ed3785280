"""`uniform`: every layer gives up the same share of its states."""

from __future__ import annotations

import jax.numpy as jnp

from s5c.types import Array, Float


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """Rank alone counts: priority = 1 - rank / p, so a network-wide threshold cuts every layer at the same share.

    Where the budget does not divide evenly, earlier layers keep one state more.

    Args:
        ranked: scores of one layer, descending.

    Source: the "uniform" ablation of LAST (arXiv 2411.02824, section 5).
    """
    p = ranked.shape[0]
    return 1 - jnp.arange(p) / p
