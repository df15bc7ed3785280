"""Backward elimination of states on the h2 norm of the LQO form, the outputs of the others solved again every time.

Under white noise the best outputs of the states S that stay regress C x on them, C_S = C R, R = X P_S^{-1}. That is the
optimum of the linear and of the quadratic part at once: the best M_i is R^T M_i R, and this is what the gate makes of
C_S. With V_S the covariance of the regression the squared error is a difference of two norms, J(S) = e(V) - e(V_S),
e(V) = tr(L V L^T) + sum_i tr(V N_i V N_i). e is quadratic, and without state s V_S loses a matrix of rank 2 (4 in a
bidirectional layer), so that the price of s is known exactly:

    J(S - s) - J(S) = <grad e(V_S), Delta_s> - sum_i tr(Delta_s N_i Delta_s N_i)
    Delta_s = C_S,s ((P_S^{-1})_ss)^{-1} C_S,s^T

D stays as it is. It shares the current input with the states, which the prices neglect and the errors returned do not.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve

from s5c.reduction.quadratic import LQO, Covariances, QuadraticForm, squared_error, squared_norm
from s5c.ssm.gramian import cross_gramian
from s5c.ssm.modal import ModalSystem, real_outputs, real_rows
from s5c.types import Array, Bool, Complex, Float, Int

RIDGE = 1e-12
"""Added to covariances scaled to a unit diagonal, which rounding may leave slightly indefinite."""


class Elimination(NamedTuple):
    """Nested sets of states.

    Attributes:
        order: slots, first removed first.
        errors: squared error with 0, ..., p slots left.
        squared_norm: squared norm of the layer, D included, as errors are measured by.
    """

    order: Int[Array, "p"]
    errors: Float[Array, "orders"]
    squared_norm: Float[Array, ""]

    def kept(self, count: int) -> Int[np.ndarray, "kept"]:
        """Returns the last `count` slots to go, by index."""
        return np.sort(np.asarray(self.order)[len(self.order) - count :])


class _States(NamedTuple):
    """The states of both directions in real form: covariance, outputs, answer to the current input."""

    P: Float[Array, "n n"]
    C: Float[Array, "h n"]
    B: Float[Array, "n h"]


@partial(jax.jit, static_argnames=("horizon", "weight"))
def eliminate(full: LQO, protected: Bool[Array, "p"], *, horizon: int | None, weight: float = 1.0) -> Elimination:
    """Removes one slot after the other, always the one whose loss raises the squared error least (see the module).

    Costs about 12 h^3 + 2 n^3 operations a slot, n real states in both directions.

    Args:
        full: the layer, float64.
        protected: slots that go last.
        horizon: number of steps, or None for infinitely many.
        weight: weight of the quadratic part, as in `squared_norm`.
    """
    linear, form = full
    p, h = linear.B.shape
    C = real_outputs(linear.C).reshape(-1, h, 2 * p)
    states = _States(_covariance(linear, linear, horizon), jnp.concatenate(list(C), axis=1), _inputs(linear))
    D = linear.D.reshape(-1, h, h).sum(0)
    slots = np.arange(p)[:, None] + p * np.arange(len(states.P) // p)
    energy = partial(squared_norm, form, weight=weight)

    def step(kept: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        rows = jnp.zeros(len(states.P), bool).at[slots].set(kept[:, None])
        inverse = _inverse(states.P, rows)
        C = states.C @ states.P @ inverse
        found = _outputs(states, D, C)
        absent = jnp.where(kept, 0, 1)[:, None, None] * jnp.eye(slots.shape[1])
        blocks = inverse[slots[:, :, None], slots[:, None, :]] + absent
        root = jnp.linalg.cholesky(jnp.linalg.inv(blocks))
        U = jnp.einsum("hpb,pbc->phc", C[:, slots], root)
        slope = jnp.einsum("phc,hj,pjc->p", U, jax.grad(energy)(found.reduced), U, optimize=True)
        price = slope - weight * _squares(form, U)
        ranked = jnp.where(kept, jnp.where(protected, jnp.finfo(float).max, price), jnp.inf)
        worst = jnp.argmin(ranked)
        return kept.at[worst].set(False), (worst, squared_error(form, found, weight=weight))

    order, errors = jax.lax.scan(step, jnp.ones(p, bool), None, length=p)[1]
    emptied = _outputs(states, D, 0 * states.C)
    errors = jnp.append(errors, squared_error(form, emptied, weight=weight))[::-1]
    return Elimination(order, errors, energy(emptied.full))


@partial(jax.jit, static_argnames="horizon")
def best_outputs(
    full: ModalSystem, log_a: Complex[Array, "r"], B: Complex[Array, "r h"], *, horizon: int | None
) -> Complex[Array, "q r"]:
    """Returns the outputs of given states that come nearest to C x, D apart: C_r = C X P_r^{-1} (see the module).

    Args:
        full: the layer under white noise.
        log_a: poles.
        B: inputs under the same noise; a slot with B = 0 gets C = 0.
        horizon: number of steps, or None for infinitely many.
    """
    h, r = full.B.shape[1], len(log_a)
    reduced = ModalSystem(log_a, B, jnp.zeros((len(full.C), r), complex), full.D)
    C = jnp.concatenate(list(real_outputs(full.C).reshape(-1, h, 2 * len(full.log_a))), axis=1)
    P = _covariance(reduced, reduced, horizon)
    used = jnp.tile(jnp.any(B != 0, axis=1), len(P) // r)
    C = C @ _covariance(full, reduced, horizon) @ _inverse(P, used)
    parts = jnp.moveaxis(C.reshape(h, -1, 2, r), 0, 2) / jnp.sqrt(2.0)
    return jax.lax.complex(parts[:, 0], -parts[:, 1]).reshape(-1, r)


def _covariance(a: ModalSystem, b: ModalSystem, horizon: int | None) -> Float[Array, "n _n"]:
    """Returns the covariance of the states, of both directions if there are two: they share the current input alone."""
    P = cross_gramian(a.log_a, a.B, b.log_a, b.B, horizon=horizon)
    if len(a.C) == a.B.shape[1]:
        return P
    now = real_rows(a.B) @ real_rows(b.B).T
    return jnp.block([[P, now], [now, P]])


def _inputs(linear: ModalSystem) -> Float[Array, "n h"]:
    return jnp.tile(real_rows(linear.B), (len(linear.C) // linear.B.shape[1], 1))


def _inverse(P: Float[Array, "n n"], used: Bool[Array, "n"]) -> Float[Array, "n n"]:
    """Returns the inverse of the used rows and columns, zero elsewhere."""
    size = jnp.sqrt(jnp.diagonal(P))
    size = jnp.where(used & (size > 0), size, 1)
    both, eye = used[:, None] & used, jnp.eye(len(P))
    scaled = jnp.where(both, P / size / size[:, None], 0) + jnp.where(used, RIDGE, 1) * eye
    return jnp.where(both, cho_solve(cho_factor(scaled), eye), 0) / size / size[:, None]


def _outputs(states: _States, D: Float[Array, "h h"], C: Float[Array, "h n"]) -> Covariances:
    """Returns the covariances of the layer's outputs and of those that the same states have through `C`."""
    P, full, B = states
    now, now_r, through = full @ B @ D.T, C @ B @ D.T, D @ D.T
    return Covariances(
        full @ P @ full.T + now + now.T + through,
        full @ P @ C.T + now + now_r.T + through,
        C @ P @ C.T + now_r + now_r.T + through,
    )


def _squares(form: QuadraticForm, U: Float[Array, "p h b"]) -> Float[Array, "p"]:
    """Returns sum_i tr(Delta N_i Delta N_i) for every Delta = U U^T."""
    product = (form.F @ U)[..., :, None] * (form.G @ U)[..., None, :]
    diagonal = jnp.einsum("ij,pjb,pjc->pibc", form.K, U, U, optimize=True)
    return jnp.sum(((product + jnp.swapaxes(product, -1, -2)) / 2 + diagonal) ** 2, axis=(1, 2, 3))
