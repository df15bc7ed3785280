"""H2 and H-infinity norms of modal systems; the norm of a `difference` is an error."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.ssm.gramian import gramian, gramian_factor
from s5c.ssm.modal import ModalSystem, real_outputs
from s5c.ssm.response import frequency_response, gains
from s5c.types import Array, Complex, Float


def h2_norm(system: ModalSystem, *, horizon: int | None = None) -> Float[Array, ""]:
    """Returns the H2 norm: root energy of the impulse response, or the output's deviation under white input.

        ||G||^2 = sum_{k < L} ||h_k||_F^2 = ||D + 2 Re(C B)||_F^2 + ||C A L_P||_F^2        (L infinite)

    As a norm of the Gramian's factor it has an error of rounding times the norm of the parts: the error of a reduced
    system is right down to 1e-13 of the system's own norm. With a horizon it comes from the Gramian, tr(C P C^T), and
    is right down to 1e-7.

    Args:
        system: p slots, complex128. Assumes |a| < 1 on an infinite horizon; a finite one takes any pole.
        horizon: number of taps L >= 1, or None for infinitely many.

    Returns:
        A real number.

    Raises:
        ValueError: the system is not in double precision.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 5.5.
    """
    log_a, B, C, D = system
    first = D + 2 * (C @ B).real
    rest = real_outputs(C * jnp.exp(log_a))
    if horizon is None:
        parts = first, rest @ gramian_factor(system, "controllability")
        return jnp.hypot(*(jnp.linalg.norm(part) for part in parts))
    P = gramian(system, "controllability", horizon=horizon - 1)
    return jnp.sqrt(jnp.sum(first**2) + jnp.maximum(jnp.sum(rest * (rest @ P)), 0))


class Peak(NamedTuple):
    """The largest gain of a system and where it is."""

    gain: Float[Array, ""]
    angle: Float[Array, ""]


OFFSETS = np.array([0, 0.25, 0.5, 1, 2, 4, 8])
"""Where the sweep looks on either side of a pole, in units of its distance from the unit circle."""
UNIFORM = 65
PEAKS = 6
SECTIONS = 26
"""Steps of the golden section: a bracket shrinks by 4e-6, and the gain, flat at its peak, is right to 1e-10."""


def hinf_norm(system: ModalSystem) -> Peak:
    """Returns the H-infinity norm, the largest singular value of the transfer function over all tones.

        ||G||_inf = max_angle sigma_max(G(exp(i angle)))

    A sweep over 13 angles around every pole, as far apart as the pole is sharp, and 65 even ones; its six highest peaks
    are refined by golden sections. The gain returned is attained at the angle returned, so it never exceeds the norm;
    it would fall short of it only where the poles' responses cancel so well that a peak hides between the angles.
    Costs about 100 p products of a vector with G, and 170 singular value problems if inputs and outputs are several.

    Args:
        system: p slots, complex128. Assumes |a| < 1.

    Returns:
        `Peak(gain, angle)`, radians per step in [0, pi].

    Source: definition: Antoulas (2005), section 5.3; the start at the poles' angles: Bruinsma and Steinbuch (1990),
    who go on with Hamiltonian eigenvalues, a general eigenvalue problem that XLA solves on few platforms.
    """
    angles = jnp.sort(_sweep(system.log_a))
    swept = _swept_gains(system, angles)
    padded = jnp.pad(swept, 1, constant_values=-1)
    is_peak = (swept >= padded[:-2]) & (swept >= padded[2:])
    best = jax.lax.top_k(jnp.where(is_peak, swept, -1), PEAKS)[1]
    low, high = angles[jnp.maximum(best - 1, 0)], angles[jnp.minimum(best + 1, len(angles) - 1)]

    def measured(at: Float[Array, "f"]) -> Float[Array, "f"]:
        return _largest_singular_values(frequency_response(system, at))

    ratio = (np.sqrt(5) - 1) / 2
    inner = high - ratio * (high - low), low + ratio * (high - low)

    def section(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, x, y, high, at_x, at_y = state
        left = at_x > at_y
        low, high = jnp.where(left, low, x), jnp.where(left, y, high)
        probe = jnp.where(left, high - ratio * (high - low), low + ratio * (high - low))
        found = measured(probe)
        return (
            low, jnp.where(left, probe, y), jnp.where(left, x, probe), high,
            jnp.where(left, found, at_y), jnp.where(left, at_x, found),
        )  # fmt: skip

    # In one call: eigenvalue problems side by side may wait for each other for ever where there are few cores.
    first = jnp.split(measured(jnp.concatenate([*inner, angles[best]])), 3)
    state = (low, *inner, high, *first[:2])
    _, x, y, _, at_x, at_y = jax.lax.fori_loop(0, SECTIONS, section, state)
    at = jnp.concatenate([x, y, angles[best]])
    reached = jnp.concatenate([at_x, at_y, first[2]])
    winner = jnp.argmax(reached)
    return Peak(reached[winner], at[winner])


def _sweep(log_a: Complex[Array, "p"]) -> Float[Array, "f"]:
    """Returns the angles of the sweep, in [0, pi]; every pole's own among them."""
    offsets = np.concatenate([-OFFSETS[:0:-1], OFFSETS])
    near = log_a.imag[:, None] + jnp.minimum(-log_a.real, 1)[:, None] * offsets
    folded = jnp.abs(jnp.mod(near + np.pi, 2 * np.pi) - np.pi)
    return jnp.concatenate([folded.ravel(), jnp.linspace(0, np.pi, UNIFORM)])


def _swept_gains(system: ModalSystem, angles: Float[Array, "f"]) -> Float[Array, "f"]:
    """Returns ||G v|| with a unit vector v after three power iterations: enough to tell where the peaks are."""
    log_a, B, C, D = system
    if B.shape[1] == 1 or C.shape[0] == 1:
        return jnp.linalg.norm(frequency_response(system, angles), axis=(1, 2))
    B, C = jnp.concatenate([B, B.conj()]), jnp.concatenate([C, C.conj()], axis=1)
    poles = gains(jnp.concatenate([log_a, log_a.conj()]), angles)
    v = jnp.tile(jnp.cos(jnp.arange(B.shape[1]) ** 2.0), (len(angles), 1)).astype(B.dtype)
    for _ in range(4):
        v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
        y = (poles * (v @ B.T)) @ C.T + v @ D.T
        v = (poles.conj() * (y @ C.conj())) @ B.conj() + y @ D
    return jnp.linalg.norm(y, axis=1)


def _largest_singular_values(G: Complex[Array, "f q m"]) -> Float[Array, "f"]:
    if 1 in G.shape[1:]:
        return jnp.linalg.norm(G, axis=(1, 2))
    if G.shape[1] < G.shape[2]:
        G = jnp.swapaxes(G, 1, 2)
    return jnp.sqrt(jnp.linalg.eigvalsh(jnp.swapaxes(G.conj(), 1, 2) @ G)[:, -1])
