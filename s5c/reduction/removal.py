"""Scores that say in which order states were removed, and at what cost; or what each further state gains."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from s5c.types import Array, Float, Int

GAP = 1e-12
"""Relative step between equal scores: wider than the rounding of an allocation, far too narrow to be seen in one."""


def scores_of(order: Int[Array, "p"], costs: Float[Array, "p"]) -> Float[Array, "p"]:
    """Returns scores whose ascending order is the order of removal.

        score of the k-th removed = max_{j <= k} cost_j

    The cost of a removal depends on those before it and may fall below an earlier one; the running maximum is the
    highest price on the way to removing that state and all before it. Equal scores are told apart by a step of `GAP`.

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


def marginal_gains(errors: Float[np.ndarray, "orders"]) -> Float[np.ndarray, "p"]:
    """Returns what each further slot takes off an error, made non-increasing.

    They are the slopes of the greatest convex minorant of the curve: where a slot pays only together with the next
    ones, they share the gain. A threshold on them is the best allocation among those on the minorant.

    Args:
        errors: squared error, or another that falls, with 0, ..., p slots.
    """
    corners = [0]
    for k in range(1, len(errors)):
        while len(corners) > 1 and _slope(errors, corners[-2], corners[-1]) >= _slope(errors, corners[-1], k):
            corners.pop()
        corners.append(k)
    return np.concatenate([np.full(b - a, max(-_slope(errors, a, b), 0.0)) for a, b in itertools.pairwise(corners)])


def _slope(errors: Float[np.ndarray, "orders"], a: int, b: int) -> float:
    return float((errors[b] - errors[a]) / (b - a))
