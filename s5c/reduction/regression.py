"""The best output matrix, feedthrough and constant for given states: least squares on measured moments, closed form.

    J = sum_k |y_k - C x_k - D u_k - c|^2 + ridge (sum_i d_i |C_i - C0_i|^2 + sum_j e_j (D_j - D0_j)^2)

with d_i and e_j the energies of state i and input j. The ridge pulls towards the present C0 and D0 and makes the
minimum unique; D is diagonal, so that every output has a feature of its own next to the shared states.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from s5c.reduction.moments import Moments, coefficients, with_coefficients
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Float

SINGULAR = 1e-11
"""Added to every ridge: with ridge 0 and linearly dependent states the answer stays finite."""


class NormalEquations(NamedTuple):
    """J for fixed D as a quadratic form of T, C = (T / scale)^T: J = tr(T^T S T) - 2 tr(R^T T) + what has no T.

    Attributes:
        S: normal matrix with the ridge, the constant eliminated. Features are scaled to energy 1.
        R: right-hand side, one column per output.
        scale: sqrt(d_i), 1 for a feature that is zero throughout.
        moved: the others.
    """

    S: Float[Array, "n n"]
    R: Float[Array, "n h"]
    scale: Float[Array, "n"]
    moved: Bool[Array, "n"]


def centred(
    moments: Moments, *, constant: bool, bias: Float[Array, "h"] | None = None
) -> tuple[Float[Array, "k k"], Float[Array, "h k"]]:
    """Returns the sums of z z^T and y z^T, z = [x, u], after the best constant, or a given one, is taken off y.

    Args:
        moments: second moments of one system.
        constant: the best constant is taken off, which is the same as taking the means off y and z.
        bias: with `constant` off, the one that is; None for zero.
    """
    zz, yz, z, y = moments.zz[:-1, :-1], moments.yz[:, :-1], moments.zz[-1, :-1], moments.yz[:, -1]
    if constant:
        count = jnp.maximum(moments.count, 1)
        return zz - jnp.outer(z, z) / count, yz - jnp.outer(y, z) / count
    return zz, yz if bias is None else yz - jnp.outer(bias, z)


def normal_equations(
    system: DiagonalSSM,
    moments: Moments,
    ridge: Float[Array, ""] | float,
    *,
    constant: bool = True,
    D: Float[Array, "h"] | None = None,
) -> NormalEquations:
    """Sets up the regression of y - D u on the states.

    Args:
        system: the system of these states.
        moments: second moments of one system.
        ridge: relative to the energy of each feature.
        constant: the regression has a constant; else the system's bias is taken off y.
        D: taken off the target; None for zero.
    """
    n = moments.states
    zz, yz = centred(moments, constant=constant, bias=system.bias)
    energy = jnp.diagonal(moments.zz)[:n]
    moved = energy > 0
    scale = jnp.sqrt(jnp.where(moved, energy, 1))
    ridge = ridge + SINGULAR
    S = zz[:n, :n] / (scale[:, None] * scale) + jnp.diag(jnp.where(moved, ridge, 1))
    target = yz[:, :n] if D is None else yz[:, :n] - D[:, None] * zz[n:, :n]
    R = (target / scale + ridge * jnp.where(moved, coefficients(system) * scale, 0)).T
    return NormalEquations(S, R, scale, moved)


@jax.jit
def settled(system: DiagonalSSM, moments: Moments, ridge: Float[Array, ""] | float) -> DiagonalSSM:
    """Returns the system with the best feedthrough and constant for its output matrix, which is kept.

    Args:
        system: one system, double precision.
        moments: second moments of its states.
        ridge: pull of the feedthrough towards the present one, relative to the energy of each input.
    """
    n, matrix = moments.states, coefficients(system)
    zz, yz = centred(moments, constant=True)
    pull = (ridge + SINGULAR) * jnp.diagonal(moments.zz)[n:-1]
    left = jnp.diagonal(zz[n:, n:]) + pull
    right = jnp.diagonal(yz[:, n:]) - jnp.sum(matrix * zz[:n, n:].T, axis=1) + pull * system.D
    D = jnp.where(pull > 0, right / jnp.where(pull > 0, left, 1), system.D)
    rest = moments.yz[:, -1] - matrix @ moments.zz[:n, -1] - D * moments.zz[n:-1, -1]
    return dataclasses.replace(system, D=D, bias=rest / jnp.maximum(moments.count, 1))


@partial(jax.jit, static_argnames=("feedthrough", "constant"))
def regress(
    system: DiagonalSSM,
    moments: Moments,
    ridge: Float[Array, ""] | float,
    *,
    feedthrough: bool = True,
    constant: bool = True,
) -> DiagonalSSM:
    """Returns the system whose output is nearest to the measured one, poles and B unchanged.

    Args:
        system: one system, double precision.
        moments: second moments of its states. A state that was zero throughout keeps its C.
        ridge: relative to the energy of each feature.
        feedthrough: solve for the diagonal feedthrough too.
        constant: solve for an output constant too.
    """
    n = moments.states
    zz, yz = centred(moments, constant=constant, bias=system.bias)
    S, R, scale, moved = normal_equations(system, moments, ridge, constant=constant)
    factor = jax.scipy.linalg.cho_factor(S)
    V = zz[:n, n:] / scale[:, None]  # states against each output's own input
    W = jax.scipy.linalg.cho_solve(factor, V)
    D = system.D
    if feedthrough:
        pull = (ridge + SINGULAR) * jnp.diagonal(moments.zz)[n:-1]
        left = jnp.diagonal(zz[n:, n:]) + pull - jnp.sum(V * W, axis=0)
        right = jnp.diagonal(yz[:, n:]) + pull * D - jnp.sum(R * W, axis=0)
        D = jnp.where(pull > 0, right / jnp.where(pull > 0, left, 1), D)
    T = jax.scipy.linalg.cho_solve(factor, R) - D * W
    matrix = jnp.where(moved, T.T / scale, coefficients(system))
    bias = system.bias
    if constant:
        rest = moments.yz[:, -1] - matrix @ moments.zz[:n, -1] - D * moments.zz[n:-1, -1]
        bias = rest / jnp.maximum(moments.count, 1)
    return dataclasses.replace(with_coefficients(system, matrix), D=D, bias=bias)
