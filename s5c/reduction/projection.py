"""The squared H2 error of the best outputs on given poles and inputs, as a function to be minimised over these.

For fixed poles and B the best C is known (`s5c.reduction.refit.h2`), and with it the error is

    J(a_r, B_r) = 1 - sum_j ||C_j X_j L_j^{-T}||^2 / sum_j tr(C_j P_j C_j^T),    L_j L_j^T = P_r,j

summed over the parts j of `s5c.reduction.energy`, whose covariances have weight_j^2 B B^T for lag 0. By the envelope
theorem its gradient is that of the full error at the best C: the outputs need no variables of their own (variable
projection, Golub and Pereyra 1973). The feedthrough is that of the full layer.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from s5c.reduction.energy import Parts, squared_norm
from s5c.ssm.gramian import cross_gramian
from s5c.ssm.modal import real_outputs, real_rows
from s5c.types import Array, Bool, Complex, Float

RIDGE = 1e-12
"""Added to the covariance of the reduced states, whose diagonal is of the size of 1: poles may coincide."""
SLOWEST = 1e-6
"""Least decay per step: |a| <= 1 - 1e-6."""


class Target(NamedTuple):
    """A full layer in the fewest inputs and outputs: orthogonal changes of either leave the error as it is.

    Attributes:
        log_a: logarithms of the poles.
        B: input matrix, of at most 2p inputs.
        outputs: output matrices of the parts in the coordinates of `s5c.ssm.modal.real_form`, of at most 2p rows.
        weight: what lag 0 counts in every part.
        energy: squared norm of the layer without its feedthrough.
        basis: the input matrix of the layer is B basis^T.
    """

    log_a: Complex[Array, "p"]
    B: Complex[Array, "p k"]
    outputs: Float[Array, "parts q n"]
    weight: Float[Array, "parts"]
    energy: Float[Array, ""]
    basis: Float[Array, "m k"]


class Variables(NamedTuple):
    """The unknowns, real: a_r = exp(-decay + i angle) with decay = SLOWEST + exp(nu), stable wherever they go.

    Attributes:
        nu: logarithm of the decay per step.
        turn: angle less the starting angle, in units of the width of the pole's peak: the starting decay, at most 1.
        B: real and imaginary part of the rows of B, scaled to states of deviation 1; unused where there is one input.
    """

    nu: Float[Array, "r"]
    turn: Float[Array, "r"]
    B: Float[Array, "2 r k"]


class Start(NamedTuple):
    """Where a search starts: what is not varied, too.

    Attributes:
        log_a: logarithms of the poles.
        B: input matrix in the inputs of the `Target`.
        free: slots that take part; the others are empty or belong to unstable modes.
    """

    log_a: Complex[Array, "r"]
    B: Complex[Array, "r k"]
    free: Bool[Array, "r"]


def target_of(parts: Parts, *, horizon: int | None) -> Target:
    """Returns the layer of these parts in the fewest inputs and outputs."""
    log_a, B, C, _, weight = parts
    n, basis = 2 * len(log_a), jnp.eye(B.shape[1])
    if B.shape[1] > n:
        basis = jnp.linalg.qr(real_rows(B).T)[0]
        B = B @ basis
    outputs = jax.vmap(real_outputs)(C)
    if outputs.shape[1] > n:
        outputs = jnp.linalg.qr(outputs, mode="r")
    energy = squared_norm(parts._replace(D=jnp.zeros_like(parts.D)), horizon=horizon)
    return Target(log_a, B, outputs, weight, energy, basis)


def variables(start: Start) -> Variables:
    """Returns the unknowns at the start."""
    decay = jnp.where(start.free, jnp.maximum(-start.log_a.real - SLOWEST, SLOWEST), 1)
    B = start.B / _deviation(start.log_a, start.B)[:, None]
    return Variables(jnp.log(decay), jnp.zeros_like(decay), jnp.stack([B.real, B.imag]))


def at(found: Variables, start: Start) -> tuple[Complex[Array, "r"], Complex[Array, "r k"]]:
    """Returns (log_a, B) of the free slots at a point of the search; B = 0 in the others."""
    width = jnp.clip(-start.log_a.real, SLOWEST, 1)
    log_a = jax.lax.complex(-SLOWEST - jnp.exp(found.nu), start.log_a.imag + width * found.turn)
    B = jnp.ones_like(start.B) if start.B.shape[1] == 1 else jax.lax.complex(found.B[0], found.B[1])
    return jnp.where(start.free, log_a, -1), jnp.where(start.free[:, None], B, 0)


def squared_error(
    log_a: Complex[Array, "r"], B: Complex[Array, "r k"], target: Target, *, horizon: int | None
) -> Float[Array, ""]:
    """Returns J, the squared error with the best outputs over the squared norm; right to 1e-12.

    Args:
        log_a: logarithms of the poles.
        B: input matrix in the target's inputs; the scale of its rows is of no account.
        target: the full layer.
        horizon: number of lags, or None for all.
    """
    B = B / _deviation(log_a, B)[:, None]
    X = cross_gramian(target.log_a, target.B, log_a, B, horizon=horizon)
    P = cross_gramian(log_a, B, log_a, B, horizon=horizon)
    of_target, of_reduced = real_rows(target.B), real_rows(B)

    def of_part(outputs: Array, weight: Array) -> Array:
        lag_0 = (weight**2 - 1) * of_reduced
        return explained(outputs @ (X + of_target @ lag_0.T), P + of_reduced @ lag_0.T)

    return 1 - jnp.sum(jax.vmap(of_part)(target.outputs, target.weight)) / target.energy


@jax.custom_vjp
def explained(N: Float[Array, "q n"], P: Float[Array, "n n"]) -> Float[Array, ""]:
    """Returns tr(N P^{-1} N^T), the energy of outputs whose covariance with states of covariance P is N.

    Its derivative, 2 W for N and -W^T W for P with W = N P^{-1}, needs no triangular solve: of many matrices XLA makes
    one a loop on a CPU.

    Args:
        N: covariance of outputs and states.
        P: covariance of the states, with a diagonal of the size of 1.
    """
    return _explained(N, P)[0]


def _explained(N: Array, P: Array) -> tuple[Array, tuple[Array, Array]]:
    # The factor of [[P, 1], [1, c]] holds that of P and its inverse, transposed.
    n, one = len(P), jnp.eye(len(P))
    T = jnp.linalg.cholesky(jnp.block([[P + RIDGE * one, one], [one, 1e3 / RIDGE * one]]))[n:, :n]
    Z = N @ T
    return jnp.sum(Z**2), (Z, T)


def _gradient(saved: tuple[Array, Array], rate: Array) -> tuple[Array, Array]:
    Z, T = saved
    W = Z @ T.T
    return 2 * rate * W, -rate * (W.T @ W)


explained.defvjp(_explained, _gradient)


def _deviation(log_a: Complex[Array, "r"], B: Complex[Array, "r k"]) -> Float[Array, "r"]:
    energy = jnp.sum(B.real**2 + B.imag**2, axis=1)
    empty = energy == 0
    return jnp.sqrt(jnp.where(empty, 1, energy) / -jnp.expm1(2 * jnp.minimum(log_a.real, -1e-16)))
