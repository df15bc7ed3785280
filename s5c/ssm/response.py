"""What a modal system answers: to an impulse, to a tone, to a constant."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from s5c.ssm.discretise import one_program
from s5c.ssm.modal import ModalSystem, expm1
from s5c.types import Array, Complex, Float


def impulse_response(system: ModalSystem, length: int) -> Float[Array, "l outputs inputs"]:
    """Returns the taps of the system that runs.

        h_k = 2 Re(C a^k B),    h_0 = 2 Re(C B) + D

    Args:
        system: p slots, complex128; any poles.
        length: number of taps l. Costs l (p + outputs) inputs numbers.

    Returns:
        Real taps.
    """
    powers = jnp.exp(jnp.arange(length)[:, None] * system.log_a)
    taps = 2 * (system.C @ (powers[:, :, None] * system.B)).real
    return taps.at[:1].add(system.D)


class Terms(NamedTuple):
    """The transfer function as a sum of terms of rank one and a constant: G = C diag(gains) B + D at every angle."""

    gains: Complex[Array, "f k"]
    B: Complex[Array, "k m"]
    C: Complex[Array, "q k"]
    D: Float[Array, "q m"]


def terms(system: ModalSystem, angles: Float[Array, "f"], *, bidirectional: bool = False) -> Terms:
    """Returns what `frequency_response` sums: one term per pole, partners written out, and per direction."""
    log_a, B, C, D = system
    own, partner = gains(log_a, angles), gains(log_a.conj(), angles)
    pairs, B = jnp.concatenate([own, partner], axis=1), jnp.concatenate([B, B.conj()])
    if not bidirectional:
        return Terms(pairs, B, jnp.concatenate([C, C.conj()], axis=1), D)
    (forward, backward), (D_forward, D_backward) = jnp.split(C, 2), jnp.split(D, 2)
    reverse = jnp.concatenate([partner.conj(), own.conj()], axis=1)  # the same at -angle
    return Terms(
        jnp.concatenate([pairs, reverse], axis=1),
        jnp.concatenate([B, B]),
        jnp.concatenate([forward, forward.conj(), backward, backward.conj()], axis=1),
        D_forward + D_backward,
    )


def frequency_response(
    system: ModalSystem, angles: Float[Array, "f"], *, bidirectional: bool = False
) -> Complex[Array, "f _outputs inputs"]:
    """Returns the transfer function on the unit circle, z = exp(i angle).

        G(z) = D + C (1 - a / z)^{-1} B + conj(C) (1 - conj(a) / z)^{-1} conj(B)

    The current input is in the current output; the textbook's C (z - A)^{-1} B is this without D, over z. A backward
    direction answers to the tone that runs the other way: its taps are real, so that both directions together are

        G_f(z) + G_b(1 / z) = G_f(z) + conj(G_b(z))

    Args:
        system: p slots, complex128.
        angles: radians per step, 0 to pi; G(-angle) is the conjugate of G(angle).
        bidirectional: the second half of the outputs is the backward direction (`s5c.ssm.modal.from_ssm`); the answer
            is that of the layer, which adds both.

    Returns:
        One complex matrix per angle. Infinite at a pole on the circle.
    """
    found = terms(system, angles, bidirectional=bidirectional)
    return found.D + found.C @ (found.gains[:, :, None] * found.B)


@one_program
def dc_gain(system: ModalSystem) -> Float[Array, "outputs inputs"]:
    """Returns the answer to a constant input once it has settled.

        G(1) = D + 2 Re(C (1 - a)^{-1} B)

    Args:
        system: p slots, complex128. Assumes |a| < 1.

    Returns:
        A real matrix; with D = 0 the sum of all taps.
    """
    return system.D - 2 * ((system.C / expm1(system.log_a)) @ system.B).real


def gains(log_a: Complex[Array, "p"], angles: Float[Array, "f"]) -> Complex[Array, "f p"]:
    """Returns 1 / (1 - a exp(-i angle)) of every pole, exact to rounding however close to the circle it lies."""
    return -1 / expm1(log_a - 1j * angles[:, None])
