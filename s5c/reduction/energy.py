"""The energy of a layer's impulse response, its squared H2 norm: both directions and the current input taken exactly.

Both directions of a bidirectional layer see the current input, so their energies add up at every lag but 0. Turned by
45 degrees they become two one-directional systems apart: the sum, in which lag 0 counts sqrt(2) times, and the
difference, which does not see the current input.

    C_1 = (C_f + C_b) / sqrt(2),   C_2 = (C_f - C_b) / sqrt(2),   w = (sqrt(2), 0)      (one direction: C_1 = C, w = 1)
    ||G||^2 = ||D + w_1 2 Re(C_1 B)||^2 + sum_j sum_{k > 0} ||2 Re(C_j a^k B)||^2

Whatever is quadratic in the impulse response is computed on these parts.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.reduction.layer import Layer
from s5c.ssm.gramian import cross_gramian, gramian_factor
from s5c.ssm.modal import ModalSystem, from_ssm, real_outputs, real_rows, turned
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Float

STABLE = -1.0
"""The logarithm that stands for a pole which takes no part, any stable one."""


UNKNOWN_LENGTH = "reduction.horizon=sequence: the length of the sequences is not known here. Use infinite, or length=."


def taps(horizon: str, layer: Layer) -> int | None:
    """Returns how many lags an energy counts: None for all of them.

    Raises:
        UserError: the horizon is "sequence", and the layer does not know the length.
    """
    if horizon == "infinite":
        return None
    if layer.horizon is None:
        raise UserError(UNKNOWN_LENGTH)
    return layer.horizon


class Parts(NamedTuple):
    """A layer as one-directional systems whose squared norms add up (see the module); one part, or two.

    Attributes:
        log_a: logarithms of the poles.
        B: input matrix.
        C: output matrix of every part.
        D: feedthrough, of the first part.
        weight: what lag 0 counts in every part.
    """

    log_a: Complex[Array, "p"]
    B: Complex[Array, "p m"]
    C: Complex[Array, "parts q p"]
    D: Float[Array, "q m"]
    weight: Float[Array, "parts"]


def parts_of(system: DiagonalSSM, *, every: bool = False) -> Parts:
    """Returns a layer's parts. Unstable modes (|a| >= 1), whose energy is infinite, are left out.

    Args:
        system: one layer or channel, double precision.
        every: leave no mode out.
    """
    log_a, B, C, _ = from_ssm(system)
    stable = (log_a.real < 0) | every
    log_a, B = jnp.where(stable, log_a, STABLE), jnp.where(stable[:, None], B, 0)
    return Parts(log_a, B, directions(C, system.C_backward is not None), jnp.diag(system.D), weights(system))


def weights(system: DiagonalSSM) -> Float[Array, "parts"]:
    """Returns what lag 0 counts in every part of a layer."""
    return jnp.ones(1) if system.C_backward is None else jnp.array([np.sqrt(2), 0])


def directions(C: Array, bidirectional: bool) -> Array:
    """Returns the output matrices of the parts from those stacked by `s5c.ssm.modal.from_ssm`; its own inverse but for
    the shapes."""
    if not bidirectional:
        return C[None]
    forward, backward = jnp.split(C, 2)
    return jnp.stack([forward + backward, forward - backward]) / np.sqrt(2)


def minus(a: Parts, b: Parts) -> Parts:
    """Returns the parts of the difference of two layers, the modes of `a` first."""
    return Parts(
        jnp.concatenate([a.log_a, b.log_a]),
        jnp.concatenate([a.B, b.B]),
        jnp.concatenate([a.C, -b.C], axis=-1),
        a.D - b.D,
        a.weight,
    )


def tail_factor(parts: Parts, *, horizon: int | None = None) -> Float[Array, "n _n"]:
    """Returns A L, L L^T = sum_{k < horizon - 1} A^k B B^T A^T^k: a factor of what lags above 0 add to a Gramian."""
    system = ModalSystem(parts.log_a, parts.B, parts.C[0], parts.D)
    left = None if horizon is None else horizon - 1
    return turned(jnp.exp(parts.log_a), gramian_factor(system, "controllability", horizon=left))


def squared_norm(parts: Parts, *, horizon: int | None = None) -> Float[Array, ""]:
    """Returns the squared H2 norm of all parts together, as accurate as `s5c.ssm.norms.h2_norm`.

    Args:
        parts: parts of a layer, or a difference.
        horizon: number of taps on either side, lag 0 among them, or None for infinitely many.
    """
    outputs = jax.vmap(real_outputs)(parts.C)
    first = parts.weight[:, None, None] * (outputs @ real_rows(parts.B))
    return jnp.sum((outputs @ tail_factor(parts, horizon=horizon)) ** 2) + jnp.sum(first.at[0].add(parts.D) ** 2)


@partial(jax.jit, static_argnames="horizon")
def relative_error(full: DiagonalSSM, reduced: DiagonalSSM, *, horizon: int | None = None) -> Float[Array, ""]:
    """Returns ||G - G_r|| / ||G|| in the H2 norm, the two directions of a bidirectional layer acting together.

    Args:
        full: one layer or channel, double precision.
        reduced: another of the same inputs and outputs. Unstable modes are left out on both sides.
        horizon: as in `squared_norm`.
    """
    a, b = parts_of(full), parts_of(reduced)
    return jnp.sqrt(squared_norm(minus(a, b), horizon=horizon) / squared_norm(a, horizon=horizon))


def gram(parts: Parts, *, horizon: int | None = None) -> Float[Array, "p p"]:
    """Returns the inner products of the impulse responses of a layer's modes, D aside.

        Gamma_ij = <G_i, G_j> = sum_k tr(g_i(k)^T g_j(k)),    ||sum_{i in T} G_i||^2 = sum_{i, j in T} Gamma_ij

    A mode is a conjugate pair here and counts in both directions: the second formula is the squared error of removing
    the set T, exactly.

    Args:
        parts: parts of a layer.
        horizon: as in `squared_norm`.
    """
    log_a, B, C, _, weight = parts
    P, rows = cross_gramian(log_a, B, log_a, B, horizon=horizon), real_rows(B)

    def of_part(C: Array, w: Array) -> Array:
        outputs = real_outputs(C)
        return (outputs.T @ outputs) * (P + (w**2 - 1) * (rows @ rows.T))

    p = len(log_a)
    return jnp.sum(jax.vmap(of_part)(C, weight), axis=0).reshape(2, p, 2, p).sum((0, 2))
