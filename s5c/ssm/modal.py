"""`ModalSystem`: a discrete-time system in modal form, one of each conjugate pair stored; what system theory works on.

    x_k = a x_{k-1} + B u_k,    y_k = 2 Re(C x_k) + D u_k,    a = exp(log_a)

The poles are kept as logarithms: 1 - a conj(a') is then -expm1(log_a + conj(log_a')) and loses nothing to cancellation
where |a| is almost 1. A pair is one slot. A real pole is one slot too, its own partner, and is stored with half its
output, since 2 Re(C/2 x) = C x for a real x; an empty slot has B = C = 0. So no formula needs to tell them apart.

The current input enters the current state, as in S5: the impulse response is h_k = 2 Re(C a^k B), plus D at k = 0. The
textbook's strictly proper system lags one step behind. A shift changes no Gramian and, without D, no norm.

Call these functions inside `jax.enable_x64(True)`. They take one system; `jax.vmap` maps them over channels and layers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm.discretise import expm1, one_program
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Float

DEEPEST = -300.0
"""Smallest real part of a stored logarithm: a pole at 0 is stored as 1e-130."""


class ModalSystem(NamedTuple):
    """A discrete-time system in conjugate-half modal form (see the module).

    JAX or NumPy arrays. Leading axes `*batch` (channels, layers) appear where systems are stacked and mapped over.
    """

    log_a: Complex[Any, "*batch p"]
    B: Complex[Any, "*batch p inputs"]
    C: Complex[Any, "*batch outputs p"]
    D: Float[Any, "*batch outputs inputs"]


class RealForm(NamedTuple):
    """The same system on the real states sqrt(2) [Re x, Im x]; exchanging B and C^T exchanges A and A^T."""

    A: Float[Array, "n n"]
    B: Float[Array, "n inputs"]
    C: Float[Array, "outputs n"]
    D: Float[Array, "outputs inputs"]


@partial(one_program, static_argnames="time")
def from_ssm(system: DiagonalSSM, *, time: str = "discrete") -> ModalSystem:
    """Returns the modal form of a layer; the two directions of a bidirectional layer become stacked outputs.

        log_a = Lambda Delta (zoh),    log_a = 2 artanh(Lambda Delta / 2) (bilinear)

    A bidirectional layer adds both directions, the backward one at the conjugate angle (`s5c.ssm.response`), so its
    norm is not that of the stacked system [G_f; G_b]:

        ||G_f + conj(G_b)||_2   <= sqrt(2) ||[G_f; G_b]||_2       they meet at lag 0 only (D apart)
        ||G_f + conj(G_b)||_inf <= 2 ||[G_f; G_b]||_inf           sqrt(2) for one input

    With f and g the two norms at one angle, f + g <= 2 max(f, g), and neither exceeds the stacked system's. Of one
    input they are lengths of columns: f^2 + g^2 is at most the stacked norm's square, so f + g <= sqrt(2) times that.
    Neither factor can be less: with inputs v and conj(v) orthogonal to each other, G_f = u v^H and G_b = conj(u v^H)
    add up to twice the norm of the stack. Both directions have the same controllability Gramian.

    Args:
        system: one layer, double precision.
        time: "discrete" for the system that runs; "continuous" for the one before discretisation, in units of a step:
            log_a = Lambda Delta and B = Delta B then mean x' = log_a x + B u.

    Returns:
        `ModalSystem` of h inputs and h outputs (2h for a bidirectional layer).

    Raises:
        UserError: `time` is neither of the two.
    """
    if check_time(time) == "continuous":
        log_a, B = system.Lambda * system.Delta, system.Delta[:, None] * system.B
    else:
        log_a, B = log_poles(system), system.discretise()[1]
    log_a = jax.lax.complex(jnp.maximum(log_a.real, DEEPEST), log_a.imag)
    D = jnp.diag(system.D)
    if system.C_backward is None:
        return ModalSystem(log_a, B, system.C, D)
    return ModalSystem(log_a, B, jnp.concatenate([system.C, system.C_backward]), jnp.concatenate([D, 0 * D]))


@one_program
def log_poles(system: DiagonalSSM) -> Complex[Array, "*layers p"]:
    """Returns the logarithms of the discrete poles; a mode is stable where the real part is negative.

        log_a = Lambda Delta (zoh),    log_a = 2 artanh(Lambda Delta / 2) (bilinear)

    The decision falls here and not on |exp(log_a)|, which rounds to 1 or beside it for a mode on the unit circle and
    to 1 for one that decays by less than 1e-16 a step.

    Args:
        system: any number of layers or channels.
    """
    exponent = system.Lambda * system.Delta
    if system.discretisation == "zoh":
        return exponent
    w = exponent / 2  # the parts of 2 artanh(w), written without cancellation for slow poles
    radius = jnp.log1p(4 * w.real / jnp.abs(1 - w) ** 2) / 2
    return jax.lax.complex(radius, jnp.arctan2(2 * w.imag, 1 - jnp.abs(w) ** 2))


@partial(one_program, static_argnames=("bidirectional", "discretisation", "time"))
def to_ssm(
    system: ModalSystem,
    Delta: Float[Array, "p"],
    *,
    bidirectional: bool,
    discretisation: str = "zoh",
    time: str = "discrete",
) -> DiagonalSSM:
    """Returns the layer whose modal form this is: the inverse of `from_ssm` up to the branch of the logarithm.

    Args:
        system: modal form, as many outputs as inputs (twice as many for a bidirectional layer).
        Delta: step per slot, s; any positive number, it cancels.
        bidirectional: the second half of the outputs is the backward direction.
        discretisation: zoh | bilinear; what the layer will discretise with.
        time: as in `from_ssm`.

    Returns:
        `DiagonalSSM`. Only the diagonal of D fits into a layer; both directions see the same input, so their D add up.
    """
    C, C_backward, D = system.C, None, jnp.diagonal(system.D)
    if bidirectional:
        C, C_backward = jnp.split(system.C, 2)
        D = sum(jnp.diagonal(part) for part in jnp.split(system.D, 2))
    if check_time(time) == "continuous":
        Lambda, B = system.log_a / Delta, system.B / Delta[:, None]
    else:
        Lambda, B = undo_discretise(system.log_a, system.B, Delta, discretisation)
    return DiagonalSSM(Lambda, B, C, jnp.asarray(D), Delta, C_backward, discretisation)


@partial(one_program, static_argnames="discretisation")
def undo_discretise(
    log_a: Complex[Array, "p"], B_bar: Complex[Array, "p h"], Delta: Float[Array, "p"], discretisation: str
) -> tuple[Complex[Array, "p"], Complex[Array, "p h"]]:
    """Returns the continuous-time (Lambda, B) whose discretisation is (exp(log_a), B_bar).

        zoh:       Lambda = log_a / Delta,             B = B_bar Lambda / (exp(log_a) - 1)
        bilinear:  Lambda = 2 tanh(log_a / 2) / Delta, B = B_bar (1 / Delta - Lambda / 2)

    Args:
        log_a: logarithms of the discrete poles; another branch gives another Lambda with the same discretisation.
        B_bar: discrete input matrix.
        Delta: step per state, s.
        discretisation: zoh | bilinear.

    Returns:
        Lambda (1/s) and B, shapes (p,) and (p, h).

    Raises:
        UserError: unknown discretisation.
    """
    e = expm1(log_a)
    if discretisation == "zoh":
        is_zero = e == 0
        gain = jnp.where(is_zero, 1, log_a) / jnp.where(is_zero, 1, e)
        return log_a / Delta, (gain / Delta)[:, None] * B_bar
    if discretisation == "bilinear":
        Lambda = 2 * e / (2 + e) / Delta
        return Lambda, (1 / Delta - Lambda / 2)[:, None] * B_bar
    raise unknown("discretisation", discretisation, ["zoh", "bilinear"])


def real_form(system: ModalSystem, *, time: str = "discrete") -> RealForm:
    """Returns the real matrices of the system that runs, on the states sqrt(2) [Re x, Im x].

        A = [[Re a, -Im a], [Im a, Re a]],    B = sqrt(2) [Re B; Im B],    C = sqrt(2) [Re C, -Im C]

    Args:
        system: p slots.
        time: "discrete", or "continuous" where `log_a` is the generator itself and takes the place of a.

    Returns:
        Real matrices of order n = 2p; the impulse response is C A^k B, plus D at k = 0.
    """
    a = jnp.exp(system.log_a) if check_time(time) == "discrete" else system.log_a
    return RealForm(
        turned(a, jnp.eye(2 * a.shape[0], dtype=a.real.dtype)), real_rows(system.B), real_outputs(system.C), system.D
    )


def real_rows(B: Complex[Array, "p m"]) -> Float[Array, "n m"]:
    """Returns sqrt(2) [Re B; Im B]: rows of a modal quantity in the coordinates of `real_form`."""
    return jnp.sqrt(2.0) * jnp.concatenate([B.real, B.imag])


def real_outputs(C: Complex[Array, "q p"]) -> Float[Array, "q n"]:
    """Returns sqrt(2) [Re C, -Im C]: the output matrix in the coordinates of `real_form`."""
    return real_rows(C.conj().T).T


def turned(a: Complex[Array, "p"], X: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Returns diag(a) X in the coordinates of `real_form`."""
    re, im = jnp.split(X, 2)
    ar, ai = a.real[:, None], a.imag[:, None]
    return jnp.concatenate([ar * re - ai * im, ai * re + ar * im])


def difference(a: ModalSystem, b: ModalSystem) -> ModalSystem:
    """Returns the system whose output is that of `a` minus that of `b`, so that an error is the norm of a system.

        G = G_a - G_b:    poles of both,    B = [B_a; B_b],    C = [C_a, -C_b],    D = D_a - D_b

    Args:
        a: any number of slots.
        b: a system with the same inputs and outputs.

    Returns:
        A system with the slots of both.
    """
    return ModalSystem(
        jnp.concatenate([a.log_a, b.log_a], axis=-1),
        jnp.concatenate([a.B, b.B], axis=-2),
        jnp.concatenate([a.C, -b.C], axis=-1),
        a.D - b.D,
    )


@one_program
def advanced(system: ModalSystem) -> ModalSystem:
    """Returns the textbook form of the same map: y_k = 2 Re(C a x_{k-1}) + (D + 2 Re(C B)) u_k.

    Here the fields describe x_{k+1} = a x_k + B u_k, y_k = 2 Re(C x_k) + D u_k: no shift is left out, as singular
    perturbation, which changes D, needs it.

    Args:
        system: p slots.

    Returns:
        The system with C a for C and the first tap for D.
    """
    log_a, B, C, D = system
    return ModalSystem(log_a, B, C * jnp.exp(log_a)[..., None, :], D + 2 * (C @ B).real)


def check_time(time: str) -> str:
    """Returns `time`, or raises `UserError` unless it is "discrete" or "continuous"."""
    if time not in ("discrete", "continuous"):
        raise unknown("time", time, ["discrete", "continuous"])
    return time
