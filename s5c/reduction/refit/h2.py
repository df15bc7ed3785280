"""`h2`: the output matrix and feedthrough of least H2 error for given poles and inputs, in closed form."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.reduction.energy import minus, parts_of, tail_factor, taps
from s5c.reduction.layer import Layer
from s5c.reduction.slots import padded
from s5c.ssm.modal import real_outputs, real_rows
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float

RCOND = 1e-6
"""Directions of the reduced state whose deviation is below this share of the largest are not used: what they add is
below 1e-12 of the energy, and the large outputs that they call for would not survive single precision."""
OWN_INPUT = 1e-6
"""Share of an input that the reduced states must leave unexplained for its feedthrough to be solved too."""


@dataclasses.dataclass(frozen=True)
class Refit:
    """Solves C (and the diagonal D) of a reduced layer for white input, its poles and B kept.

        min over C_r, D_r of  sum_k E ||y_k - y_r,k||^2:    C_r = C X P_r^{-1},    X = E[x x_r^T],  P_r = E[x_r x_r^T]

    on the conjugate-closed system, with both directions' states as regressors in a bidirectional layer, so that the
    input at lag 0, which both see, is not counted twice. Computed as a correction by least squares on a factor of the
    joint covariance: it cannot raise the error. Unstable modes take no part: those that are left keep their outputs,
    and nothing makes up for those that were removed.

    Attributes:
        feedthrough: solve D together with C; else D stays.
        horizon: `infinite`, or `sequence`: the lags up to the length of the sequences count.

    Source: the optimality condition of Wilson (1970) for C, as in Sakamoto and Sato (arXiv 2507.10078); bidirectional
    layers and feedthrough are ours.
    """

    needs_moments: ClassVar[bool] = False

    feedthrough: bool = True
    horizon: str = "infinite"

    def __post_init__(self) -> None:
        if self.horizon not in ("infinite", "sequence"):
            raise unknown("value for the refit's horizon", self.horizon, ("infinite", "sequence"))

    def __call__(self, layer: Layer, reduced: DiagonalSSM) -> DiagonalSSM:
        """Returns `reduced` with the best outputs.

        Args:
            layer: the full layer.
            reduced: a system with the same inputs and outputs, any poles, double precision.

        Raises:
            UserError: the horizon is the length of the sequences, and the layer does not know it.
        """
        with jax.enable_x64(True):
            roots = white(layer.system)
            return solve(layer, reduced, roots, horizon=taps(self.horizon, layer), feedthrough=self.feedthrough)


def white(system: DiagonalSSM) -> Float[Array, "*channels h h"]:
    """Returns the root of the covariance of inputs that have nothing to do with each other."""
    h = system.B.shape[-1]
    return jnp.broadcast_to(jnp.eye(h), (*system.D.shape[:-1], h, h))


def solve(
    layer: Layer, reduced: DiagonalSSM, roots: Float[Array, "*channels h h"], *, horizon: int | None, feedthrough: bool
) -> DiagonalSSM:
    """Returns the reduced layer with the best C and D; call inside `jax.enable_x64(True)`.

    Args:
        layer: the full layer.
        reduced: the reduced one.
        roots: square root of the covariance of the inputs, of each channel where there are several.
        horizon: lags that count, or None for all.
        feedthrough: solve D too.
    """
    # One program for all orders: empty slots cost less than another compilation.
    wide, r = padded(reduced, layer.system.state_dim), reduced.state_dim
    found, _ = best_outputs(layer.system, wide, roots, horizon=horizon, feedthrough=feedthrough)
    C_backward = None if found.C_backward is None else found.C_backward[..., :r]
    return dataclasses.replace(reduced, C=found.C[..., :r], C_backward=C_backward, D=found.D)


@partial(jax.jit, static_argnames=("horizon", "feedthrough"))
def best_outputs(
    full: DiagonalSSM,
    reduced: DiagonalSSM,
    roots: Float[Array, "*systems h h"],
    *,
    horizon: int | None,
    feedthrough: bool,
) -> tuple[DiagonalSSM, Float[Array, "*systems"]]:
    """Returns reduced systems with the best C and D, and the squared H2 norm of what they leave.

    Args:
        full: one system, or several on a leading axis.
        reduced: one reduced system for each of them.
        roots: one square root of an input covariance for each of them.
        horizon: lags that count, or None for all.
        feedthrough: solve D too.
    """
    one = partial(_best_outputs, horizon=horizon, feedthrough=feedthrough)
    if full.Lambda.ndim == 1:
        return one(full, reduced, roots)
    # Not `jax.vmap`: several batched LAPACK calls in one program can block each other for ever (jaxlib 0.10, CPU).
    return jax.lax.map(lambda systems: one(*systems), (full, reduced, roots))


def _best_outputs(
    full: DiagonalSSM, reduced: DiagonalSSM, root: Array, *, horizon: int | None, feedthrough: bool
) -> tuple[DiagonalSSM, Array]:
    error = minus(parts_of(full), parts_of(reduced))
    error = error._replace(B=error.B @ root, D=error.D @ root)
    outputs, p, r = jax.vmap(real_outputs)(error.C), full.Lambda.shape[0], reduced.Lambda.shape[0]
    tail, first = tail_factor(error, horizon=horizon), real_rows(error.B)
    size = jnp.linalg.norm(root, axis=1)
    own = feedthrough * root / jnp.where(size == 0, 1, size)[:, None]

    def of_part(outputs: Array, weight: Array, D: Array, own: Array) -> tuple[Array, Array, Array]:
        signals = jnp.concatenate([tail, weight * first], axis=1)
        target = (outputs @ signals).at[:, -len(D) :].add(D)
        return least_squares(signals.reshape(2, p + r, -1)[:, p:].reshape(2 * r, -1), target, own)

    nothing = jnp.zeros_like(error.D)  # the second part has no feedthrough
    solved = [
        of_part(outputs[i], error.weight[i], nothing if i else error.D, nothing if i else own)
        for i in range(len(outputs))
    ]
    rows, alone, left = map(jnp.stack, zip(*solved, strict=True))
    change = jax.lax.complex(rows[..., :r], -rows[..., r:]) / jnp.sqrt(2.0)
    D = reduced.D + alone[0] / jnp.where(size == 0, 1, size)
    if reduced.C_backward is None:
        return dataclasses.replace(reduced, C=reduced.C + change[0], D=D), jnp.sum(left)
    C, C_backward = (change[0] + change[1]) / jnp.sqrt(2.0), (change[0] - change[1]) / jnp.sqrt(2.0)
    return dataclasses.replace(reduced, C=reduced.C + C, C_backward=reduced.C_backward + C_backward, D=D), jnp.sum(left)


def least_squares(
    regressors: Float[Array, "n k"], target: Float[Array, "q k"], own: Float[Array, "q m"]
) -> tuple[Float[Array, "q n"], Float[Array, "q"], Float[Array, ""]]:
    """Returns the X and d of least ||target - X regressors - diag(d) [0, own]||^2, and that minimum.

    Directions that the regressors barely have (`RCOND`) are left out. Every row has a further regressor of its own, so
    each would need a factorisation of its own: with the rows v of `own` in an orthonormal basis of the common
    regressors it is a correction of rank one to a common solution.

    Args:
        regressors: common to all rows.
        target: one row per output.
        own: the last m columns of each row's own regressor, of unit length; zero for none.
    """
    size = jnp.linalg.norm(regressors, axis=1)
    size = jnp.where(size == 0, 1, size)
    U, s, V = jnp.linalg.svd(regressors / size[:, None], full_matrices=False)
    used = s > RCOND * s[0]
    V = jnp.where(used[:, None], V, 0)
    m = own.shape[1]
    common, across = target @ V.T, own @ V[:, -m:].T
    alone = jnp.sum(target[:, -m:] * own, axis=1)
    left = 1 - jnp.sum(across**2, axis=1)
    free = left > OWN_INPUT
    without = common - alone[:, None] * across
    correction = jnp.sum(across * without, axis=1) / jnp.where(free, left, 1)
    found = jnp.where(free[:, None], without + correction[:, None] * across, common)
    d = jnp.where(free, alone - jnp.sum(found * across, axis=1), 0)
    residual = (target - found @ V).at[:, -m:].add(-d[:, None] * own)
    return (found / jnp.where(used, s, 1)) @ U.T / size, d, jnp.sum(residual**2)
