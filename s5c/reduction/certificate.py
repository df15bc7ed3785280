"""What turns the bound of balanced truncation into one of the layer that is stored.

The theorem speaks of the system that was balanced, in exact numbers. What runs is a layer of single-precision
parameters, so that its bound has five parts:

    both directions     the bound of the stacked system times 2, or sqrt(2) for one input (`s5c.ssm.modal.from_ssm`)
    the diagonal of D   a layer of several inputs has no other; the norm of what was cut off the settled D
    double precision    balancing and diagonalising, to first order (`of_cut`, `of_settling`, `of_tail`)
    single precision    the stored poles and outputs, mode by mode (`_moved`)
    evaluation          poles are products of parameters and exponentials, right to some units in the last place

Rounding is nothing to a mode of damping 1e-3, and all there is to one of 1e-8, whose angle moves by more than its
width. No bound exceeds the sum of the gains of all modes, which holds whatever happens.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.reduction.balanced import Balanced
from s5c.ssm.modal import ModalSystem, expm1, log_poles
from s5c.ssm.system import DiagonalSSM
from s5c.types import Complex, Float, Int

DOUBLE, SINGLE = np.finfo(float).eps, np.finfo(np.float32).eps / 2
"""A unit in the last place of double precision; the rounding error of single precision."""
BACKWARD = 8 * DOUBLE
"""Backward error of balancing and diagonalising, relative and per real state; a twentieth of it was the most seen."""
EVALUATED = 8
"""Units in the last place by which an evaluated logarithm of a pole may differ from the next."""
SLOWEST = 1e-30
"""Least damping rate of a mode, 1/s, that every family can store."""


# ---- double precision


def of_cut(
    hsv: Float[np.ndarray, "k n"],
    A: Float[np.ndarray, "k r r"],
    E: Complex[np.ndarray, "k r r"],
    B: Complex[np.ndarray, "k r m"],
    C: Complex[np.ndarray, "k q r"],
    log_a: Complex[np.ndarray, "k r"],
) -> Float[np.ndarray, "k"]:
    """Returns what rounding of balanced matrices and of their eigenvalues does to the transfer function, at most.

    A backward error dA, |dA_ij| <= epsilon ||A|| sigma_1 / sqrt(sigma_i sigma_j), changes it, to first order, by
    C (z - A)^{-1} dA (z - A)^{-1} B. With |z - mu_k| >= 1 - |mu_k|, that is in the eigenvectors at most

        epsilon ||A|| sum_i |c_i| |e^i W| / (1 - |mu_i|) sum_j |W e_j| |b_j| / (1 - |mu_j|),   W = sqrt(sigma_1 / sigma)

    Args:
        hsv: Hankel singular values of the full systems.
        A: reduced matrices, minus 1.
        E: their eigenvectors e_j as columns; the rows of the inverse are e^i.
        B: inputs b_j in these.
        C: outputs c_i.
        log_a: logarithms of the poles mu.
    """
    weights = np.sqrt(hsv[:, :1] / hsv[:, : A.shape[1]])
    margin = np.maximum(-np.expm1(log_a.real), np.finfo(float).tiny)
    left = np.linalg.norm(np.linalg.inv(E) * weights[:, None, :], axis=2) * np.linalg.norm(C, axis=1)
    right = np.linalg.norm(E * weights[:, :, None], axis=1) * np.linalg.norm(B, axis=2)
    with np.errstate(over="ignore"):
        both: np.ndarray = np.sum(left / margin, axis=1) * np.sum(right / margin, axis=1)
    return hsv.shape[1] * BACKWARD * np.linalg.norm(A, axis=(1, 2)) * both


def of_settling(balanced: Balanced) -> Float[np.ndarray, "k"]:
    """Returns the same for the gain for a constant, D - C A^{-1} B, all that is left where every state has settled."""
    A, B, C, _, hsv = balanced
    present = hsv > 0
    A = np.where(present[:, :, None] & present[:, None, :], A, -np.eye(A.shape[1]))
    weights = np.sqrt(hsv[:, :1] / np.where(present, hsv, 1))[:, :, None] * present[:, :, None]
    right = np.linalg.norm(weights * np.linalg.solve(A, B), axis=(1, 2))
    left = np.linalg.norm(weights * np.linalg.solve(A.swapaxes(1, 2), C.swapaxes(1, 2)), axis=(1, 2))
    return A.shape[1] * BACKWARD * np.linalg.norm(A, axis=(1, 2)) * left * right


def of_tail(hsv: Float[np.ndarray, "k n"], order: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Returns the error of twice the sum of the Hankel singular values behind `order`; each has one of the first's."""
    n = hsv.shape[1]
    return n * BACKWARD * (n - order) * hsv[:, 0]


# ---- the layer


def layer_bound(
    bound: Float[np.ndarray, "*batch"], cut: ModalSystem, written: DiagonalSSM, full: DiagonalSSM
) -> Float[np.ndarray, "*batch"]:
    """Returns a bound of the H-infinity error of a layer as any family of models stores it.

        ||G - G_stored||_inf <= f bound + ||D_cut - diag(D_cut)||_2 + what rounding does    (see the module)

    Unstable modes must be stored as they were: they cancel.

    Args:
        bound: bound of the stacked systems against `cut`, infinite where none is known.
        cut: what it is a bound of, before the layer took the diagonal of D; the directions are stacked outputs.
        written: the layer made of it, double precision.
        full: the full layer.
    """
    directions, inputs = 1 if written.C_backward is None else 2, cut.B.shape[-1]
    factor = 1 if directions == 1 else np.sqrt(2) if inputs == 1 else 2
    D = np.sum(np.split(np.asarray(cut.D), directions, axis=-2), axis=0)
    off = np.linalg.norm(D * (1 - np.eye(inputs)), 2, axis=(-2, -1))
    theirs, ours = _modes(full), _modes(written)
    rounding = _moved(ours, *_stored(written)) + _moved(theirs, 0.0, 0.0)
    D, D_full = np.asarray(written.D), np.asarray(full.D)
    with np.errstate(over="ignore"):
        rounding = rounding + np.max(np.abs(D.astype(np.float32) - D), axis=-1)
    largest = (1 + 1e-5) * (_gains(theirs) + _gains(ours) + np.max(np.abs(D_full - D), axis=-1))
    known = np.isfinite(bound) & ((np.asarray(written.Lambda).real < -SLOWEST) | (ours.size == 0)).all(-1)
    return np.where(known, np.minimum(factor * bound + off + rounding, largest), np.inf)


class _Modes(NamedTuple):
    """Modes as they enter a bound.

    Attributes:
        log_a: logarithms of the poles.
        size: ||B_bar|| ||C||, of both directions together; 0 for an unstable mode.
        near: 1 - |a|, the least distance of the unit circle from the pole.
        far: the least distance from the partner of the half of the circle that the pole is next to.
    """

    log_a: Complex[np.ndarray, "*batch p"]
    size: Float[np.ndarray, "*batch p"]
    near: Float[np.ndarray, "*batch p"]
    far: Float[np.ndarray, "*batch p"]


def _modes(system: DiagonalSSM) -> _Modes:
    with jax.enable_x64(True):
        log_a, B = np.asarray(log_poles(system)), np.asarray(system.discretise()[1])
        across = [np.abs(np.asarray(expm1(jnp.asarray(log_a + turn)))) for turn in (0, 1j * np.pi)]
    outputs = [C for C in (system.C, system.C_backward) if C is not None]
    size = np.linalg.norm(B, axis=-1) * sum(np.linalg.norm(np.asarray(C), axis=-2) for C in outputs)
    stable = log_a.real < 0
    near = np.where(stable, -np.expm1(log_a.real), 1)
    return _Modes(log_a, np.where(stable, size, 0), near, np.maximum(np.minimum(*across), near))


def _gains(modes: _Modes) -> Float[np.ndarray, "*batch"]:
    """Returns the sum of the largest gains of all modes, partners included."""
    return np.asarray(np.sum(modes.size * (2 / modes.near), axis=-1))


def _stored(system: DiagonalSSM) -> tuple[Float[np.ndarray, "*batch p"], Float[np.ndarray, "*batch p"]]:
    """Returns by what angle single precision turns every pole, and the relative error of its damping and its residue.

    Angle and step are stored as such in every family, and what becomes of them is computed. The damping may be stored
    as a logarithm, the outputs may have B or a normalisation multiplied in: there the worst case counts.
    """

    def single(x: Any) -> np.ndarray:
        return np.asarray(x).astype(np.float32).astype(float)

    with jax.enable_x64(True), np.errstate(divide="ignore", over="ignore"):
        Lambda, log_step = np.asarray(system.Lambda), np.log(np.asarray(system.Delta))
        rounded = dataclasses.replace(
            system,
            Lambda=jnp.asarray(single(Lambda.real) + 1j * single(Lambda.imag)),
            Delta=jnp.exp(jnp.asarray(single(log_step))),
        )
        turn = np.asarray(log_poles(rounded)).imag - np.asarray(log_poles(system)).imag
        relative = SINGLE * (8 + np.abs(log_step) + np.abs(np.log(np.maximum(np.abs(Lambda.real), SLOWEST))))
    return np.abs(np.mod(turn + np.pi, 2 * np.pi) - np.pi), relative


def _moved(modes: _Modes, turn: Any, relative: Any) -> Float[np.ndarray, "*batch"]:
    """Returns by how much the transfer function changes at most where poles turn and sizes are not quite right.

        |g / (1 - a / z) - g' / (1 - a' / z)| <= |g - g'| / |z - a'| + |g| |a - a'| / (|z - a| |z - a'|)

    and of the two distances one is at least |a - a'| less the other. Evaluation adds `EVALUATED` units in the last
    place. A factor of B_bar that depends on the pole moves by no more than its logarithm does.
    """
    moved = turn + EVALUATED * DOUBLE * np.abs(modes.log_a)
    relative = relative + EVALUATED * DOUBLE
    shift = moved + relative * modes.near

    def at(distance: np.ndarray) -> np.ndarray:
        return (relative + shift + shift / np.maximum(distance, shift - distance)) / distance

    near = modes.near * (1 - relative)
    far = np.maximum(modes.far - shift, near)
    return np.asarray(np.sum(modes.size * (at(near) + at(far)), axis=-1))
