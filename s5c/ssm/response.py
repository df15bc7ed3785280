"""What a modal system answers: to an impulse, to a tone, to a constant."""

from __future__ import annotations

import jax.numpy as jnp

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


def frequency_response(system: ModalSystem, angles: Float[Array, "f"]) -> Complex[Array, "f outputs inputs"]:
    """Returns the transfer function on the unit circle, z = exp(i angle).

        G(z) = D + C (1 - a / z)^{-1} B + conj(C) (1 - conj(a) / z)^{-1} conj(B)

    The current input is in the current output; the textbook's C (z - A)^{-1} B is this without D, over z.

    Args:
        system: p slots, complex128.
        angles: radians per step, 0 to pi; G(-angle) is the conjugate of G(angle).

    Returns:
        One complex matrix per angle. Infinite at a pole on the circle.
    """

    def part(log_a: Array, B: Array, C: Array) -> Array:
        return C @ (gains(log_a, angles)[:, :, None] * B)

    log_a, B, C, D = system
    return D + part(log_a, B, C) + part(log_a.conj(), B.conj(), C.conj())


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
