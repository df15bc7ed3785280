"""`tolerance`: every layer loses the same share of its summed scores."""

from __future__ import annotations

import jax.numpy as jnp

from s5c.types import Array, Float


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """Share of the scores that goes with a state and all those behind it.

        priority_(i) = sum_{j >= i} h_(j) / sum_j h_(j)

    A network-wide threshold then leaves every layer with the same predicted relative error.

    Args:
        ranked: scores of one layer, descending. Negative ones cost nothing and go first. A layer of zeros gets zeros.

    Source: ours; truncation to a share of the energy, the same share in every layer.
    """
    tail = jnp.cumsum(jnp.maximum(ranked, 0)[::-1])[::-1] + jnp.minimum(ranked, 0)
    return jnp.where(tail[0] > 0, tail / jnp.where(tail[0] > 0, tail[0], 1), 0)
