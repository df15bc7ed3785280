"""Descent on the h2 error of the LQO form: poles, inputs and outputs together, stable by construction."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from s5c.reduction import descent
from s5c.reduction.quadratic import LQO, Covariances, output_covariance, squared_error, squared_norm
from s5c.ssm.modal import ModalSystem
from s5c.types import Array, Bool, Float

TOLERANCE = 1e-4
"""Relative decrease of the squared error per step below which the descent has arrived, five times in a row."""


class _Point(NamedTuple):
    """What is moved, in real numbers: a = exp(-exp(nu) + i theta), |a| < 1 for every nu; [Re, Im] of B and C; D."""

    nu: Float[Array, "r"]
    theta: Float[Array, "r"]
    B: Float[Array, "two r h"]
    C: Float[Array, "two q r"]
    D: Float[Array, "h"]


@partial(jax.jit, static_argnames=("horizon", "weight", "optimiser", "steps"))
def descend(
    full: LQO,
    start: ModalSystem,
    gain: Float[Array, "h"],
    *,
    horizon: int | None,
    weight: float = 1.0,
    optimiser: str = "lbfgs",
    steps: int = 300,
) -> tuple[ModalSystem, Float[Array, ""]]:
    """Lowers the squared error of a reduced layer behind the gate of the full one.

    The outputs' quadratic part follows from C, since the gate stays what it is. Poles that are not stable are not
    moved, empty slots stay empty, a real pole stays real. Every state is measured in units of its deviation at the
    start. A step costs about 30 h^3 operations.

    Args:
        full: the layer under white noise, float64.
        start: reduced layer, its inputs not scaled by the gain: dividing by it would fail where it is 0.
        gain: deviation of the inputs.
        horizon: number of steps, or None for infinitely many.
        weight: weight of the quadratic part, as in `squared_norm`.
        optimiser: "lbfgs" or "adam", of `s5c.reduction.descent`.
        steps: most evaluations of the error and its gradient.

    Returns:
        The reduced layer, and its squared error relative to the squared norm: never above that of the start.
    """
    V = output_covariance(full.linear, full.linear, horizon=horizon)
    norm = squared_norm(full.form, V, weight=weight)
    norm = jnp.where(norm > 0, norm, 1)
    fixed = start.log_a.real >= 0
    units = _deviations(start, gain, fixed)

    def system(point: _Point) -> ModalSystem:
        return _system(point, start, units, fixed)

    def loss(point: _Point) -> Float[Array, ""]:
        reduced = system(point)
        reduced = reduced._replace(B=reduced.B * gain, D=reduced.D * gain)
        X, Vr = (output_covariance(a, reduced, horizon=horizon) for a in (full.linear, reduced))
        return squared_error(full.form, Covariances(V, X, Vr), weight=weight) / norm

    point = _point(start, units, fixed)
    found = descent.descend(loss, point, optimiser=optimiser, evaluations=steps, tolerance=TOLERANCE)
    return system(found.parameters), found.value


def _deviations(start: ModalSystem, gain: Float[Array, "h"], fixed: Bool[Array, "r"]) -> Float[Array, "r"]:
    energy = jnp.sum(jnp.abs(start.B * gain) ** 2, axis=1)
    energy = energy / jnp.where(fixed, 1, -jnp.expm1(2 * jnp.where(fixed, -1, start.log_a.real)))
    return jnp.where(energy > 0, jnp.sqrt(energy), 1)


def _point(start: ModalSystem, units: Float[Array, "r"], fixed: Bool[Array, "r"]) -> _Point:
    log_a, B, C, D = start
    B, C = B / units[:, None], C * units
    return _Point(
        jnp.log(jnp.where(fixed, 1, -log_a.real)),
        log_a.imag,
        jnp.stack([B.real, B.imag]),
        jnp.stack([C.real, C.imag]),
        jnp.diagonal(D[: B.shape[1]]),
    )


def _system(point: _Point, start: ModalSystem, units: Float[Array, "r"], fixed: Bool[Array, "r"]) -> ModalSystem:
    nu, theta, B, C, D = point
    log_a = jnp.where(fixed, start.log_a, jax.lax.complex(-jnp.exp(nu), theta))
    h = len(D)
    return ModalSystem(
        log_a,
        jax.lax.complex(*B) * units[:, None],
        jax.lax.complex(*C) / units,
        jnp.zeros_like(start.D).at[:h].set(jnp.diag(D)),
    )
