"""Scores that say in which order states were removed, and at what cost."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from s5c.types import Array, Float, Int

GAP = 1e-12
"""Relative step between equal scores: wider than the rounding of an allocation, far too narrow to be seen in one."""


def scores_of(order: Int[Array, "p"], costs: Float[Array, "p"]) -> Float[Array, "p"]:
    """Returns scores whose ascending order is the order of removal.

        score of the k-th removed = max_{j <= k} cost_j

    The cost of a removal depends on those before it and may fall below an earlier one; the running maximum is the
    price of removing that state and all before it, at the dearest. Equal scores are told apart by a step of `GAP`.

    Args:
        order: states, first removed first.
        costs: by how much each removal raised the error, in the same order; infinite for states never removed.

    Returns:
        One positive score per state.
    """
    tiny = jnp.finfo(costs.dtype).tiny

    def step(last: Array, cost: Array) -> tuple[Array, Array]:
        score = jnp.maximum(cost, jnp.maximum(last * (1 + GAP), tiny))
        return score, score

    rising = jax.lax.scan(step, jnp.zeros_like(costs[0]), costs)[1]
    return jnp.zeros_like(costs).at[order].set(rising)
