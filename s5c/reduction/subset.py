"""Subset selection on measured moments: states removed one by one, always the one the others make up for best.

The states that a diagonal layer keeps are the same signals as before. So with poles, B and D fixed, the best output
matrix on any subset of the states is a least-squares problem (`s5c.reduction.regression`), and by how much its optimum
J rises is known in advance for every state: with M the inverse of the normal matrix and T the minimiser, removing the
rows g of a state costs tr(T_g^T M_gg^-1 T_g). Both are then downdated by a matrix of rank |g|: 2, or 4 in a
bidirectional layer. All p removals together cost as much as a few inversions, and one order serves every ratio.

This is Optimal Brain Surgeon (Hassibi and Stork 1993) on groups of weights, where its expansion is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from s5c.reduction.moments import Moments
from s5c.reduction.regression import normal_equations
from s5c.ssm.modal import log_poles
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float, Int


class Removal(NamedTuple):
    """States in the order of their removal.

    Attributes:
        order: positions, first removed first; unstable modes, which stay, come last.
        costs: by how much each removal raises min J, all outputs together; infinite for unstable modes.
    """

    order: Int[Array, "p"]
    costs: Float[Array, "p"]


def eliminate(system: DiagonalSSM, moments: Moments, ridge: Float[Array, ""] | float) -> Removal:
    """Removes all states of a system, the one whose removal raises J least first.

    Args:
        system: one system, double precision.
        moments: second moments of its states.
        ridge: pull towards the present C, relative to the energy of each state.

    Returns:
        The order and the costs. The sum of the first k costs is the rise of J after k removals, C and the output
        constant solved again. A state that was zero throughout costs nothing.
    """
    p = system.state_dim
    S, R, *_ = normal_equations(system, moments, ridge, D=system.D)
    # M = S^{-1} of the states left and T = M R, their best outputs: kept up to date instead of solved for each state.
    M = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(S), jnp.eye(len(S)))
    parts = len(S) // p  # features that a state owns
    stable = log_poles(system).real < 0

    def remove(carry: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        M, T, left = carry
        # What it costs to do without state i: its outputs, weighed by the inverse of its own block of M.
        blocks = jnp.einsum("aibi->iab", M.reshape(parts, p, parts, p))
        inverses = jnp.linalg.inv(jnp.where(left[:, None, None], blocks, jnp.eye(parts)))
        rows = T.reshape(parts, p, -1)
        costs = jnp.maximum(jnp.einsum("aij,iab,bij->i", rows, inverses, rows), 0)
        # The cheapest goes: unstable ones after all others, those that are gone never.
        places = jnp.where(left, jnp.where(stable, costs, jnp.finfo(costs.dtype).max), jnp.inf)
        i = p - 1 - jnp.argmin(places[::-1])  # of equals the first ones stay
        # M and T without it (Schur complement); its rows and columns are zero from here on.
        own = jnp.arange(parts) * p + i
        gain = M[:, own] @ inverses[i]
        carry = M - gain @ M[own], T - gain @ T[own], left.at[i].set(False)
        return carry, (i, jnp.where(stable[i], costs[i], jnp.inf))

    _, (order, costs) = jax.lax.scan(remove, (M, M @ R, jnp.ones(p, bool)), None, length=p)
    return Removal(order, costs)
