"""`greedy`: the state goes next whose removal adds the least error, relative to its own layer's whole."""

from __future__ import annotations

import jax.numpy as jnp

from s5c.types import Array, Float


def priority(ranked: Float[Array, "p"]) -> Float[Array, "p"]:
    """Share of a layer's summed scores that a state holds.

        priority_(i) = h_(i) / sum_j h_(j)

    Where scores are the error that a removal adds (AIRE's energies, the costs of an elimination), following one
    threshold minimises the sum over the layers of the errors relative to the layers' norms, for any budget.

    Args:
        ranked: scores of one layer, descending. Negative ones count nothing in the sum. A layer of zeros gets zeros.

    Source: ours; greedy descent on the layers' error curves.
    """
    total = jnp.sum(jnp.maximum(ranked, 0))
    return jnp.where(total > 0, ranked / jnp.where(total > 0, total, 1), 0)
