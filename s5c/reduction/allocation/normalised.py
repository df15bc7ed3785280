"""`normalised`: a state's score relative to the scores of the states that outlive it (LAST, LAMP)."""

from __future__ import annotations

import jax.numpy as jnp

from s5c.types import Array, Float


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """Energy normalisation within a layer.

        priority_(i) = h_(i) / sum_{j <= i} h_(j),    h_(1) >= h_(2) >= ...

    The order inside a layer is unchanged, the best state of every layer gets 1, and the priorities do not depend on a
    layer's scale. It is the static form of greedily removing the state with the least relative effect on its layer.

    Negative scores, AIRE's of unstable modes, come last and go first. Where they outweigh all others the sum is
    negative from there on and the quotient positive, as in the published code.

    Args:
        ranked: scores of one layer, descending. A layer of zeros gets zeros.

    Source: LAST (arXiv 2411.02824), section 4; the same construction as LAMP (Lee et al. 2021).
    """
    total = jnp.cumsum(ranked)
    return jnp.where(total != 0, ranked / jnp.where(total != 0, total, 1), 0)
