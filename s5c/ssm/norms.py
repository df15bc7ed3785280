"""H2 and H-infinity norms of modal systems; the norm of a `difference` is an error.

How far apart may samples of a transfer function lie? A real system of order n with poles a_k inside the unit circle,
run in one direction or in both, is G = P / |q|^2 on the circle, q = prod_k (z - a_k), P of trigonometric polynomials of
degree n. Measure angles by the phase of the all-pass function of its poles, which rises by 2 pi n in a turn:

    tau(w) = sum_k w - w_k + 2 arg(1 - a_k exp(-i w)) + constant,    tau'(w) = sum_k (1 - |a_k|^2) / |exp(i w) - a_k|^2

Then no angle's gain exceeds that of a sample within a phase of delta / 2 by more than the factor 1 / cos(delta / 2):

    max_s sigma_max(G(w_s)) <= ||G||_inf <= max_s sigma_max(G(w_s)) / cos(delta / 2)

Proof. Let M = ||G||_inf be attained at w_0 with singular vectors u and v, and g = Re(u^H G v), so |g| <= M = g(w_0).
The function T = M cos(tau - tau(w_0)) is of the same kind, a trigonometric polynomial of degree n over |q|^2. If g < T
somewhere less than pi of phase from w_0, then T - g has two zeros at w_0, one more before the next extremum of T, and
one between each two of the 2n - 1 other extrema, where T is +M and -M in turn: 2n + 1 in a turn, which a trigonometric
polynomial of degree n does not have. Hence g >= T there, and the sample next to w_0 has at least M cos(delta / 2). This
is the inequality of Bernstein and Szego for rational functions.

Sources: Borwein and Erdelyi, Sharp extensions of Bernstein's inequality to rational spaces (Mathematika 43, 1996);
sampling of polynomials: Ehlich and Zeller, Schwankung von Polynomen zwischen Gitterpunkten (Math. Z. 86, 1964).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.ssm.gramian import gramian, gramian_factor
from s5c.ssm.modal import ModalSystem, real_outputs
from s5c.ssm.response import Terms, frequency_response, terms
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


PER_SLOT = 16
"""Samples per slot where the largest gain is looked for: none is missed by more than 3%, give or take."""
PER_SLOT_CERTIFIED = 32
"""The same for an upper bound, which is then 1% above the norm."""
UNIFORM = 65
PEAKS = 6
SECTIONS = 26
"""Steps of the golden section: a bracket shrinks by 4e-6, and the gain, flat at its peak, is right to 1e-10."""
PASSES = 2
BATCH = 64
"""Angles whose matrices are held at once."""
SMALL = 16
"""Inputs or outputs up to which every sample's singular values are computed, not only those of the highest peaks."""


def hinf_norm(system: ModalSystem, *, bidirectional: bool = False) -> Peak:
    """Returns the H-infinity norm, the largest singular value of the transfer function over all tones.

        ||G||_inf = max_angle sigma_max(G(exp(i angle)))

    A sweep over 16 samples per slot and 65 more, evenly spread in the phase of the poles (see the module); its six
    highest peaks are refined by golden sections. The gain returned is attained at the angle returned: it is a lower
    estimate, right to 1e-10 unless another peak than the refined ones is the highest. With up to 16 inputs or outputs
    it cannot fall short by more than the sampling allows, about 3%; with more the sweep is by power iterations. What
    needs an upper bound takes `hinf_ceiling`. Costs about 120 p products of a vector with G, and 170 singular value
    problems if inputs and outputs are several.

    Args:
        system: p slots, complex128. Assumes |a| < 1.
        bidirectional: as in `s5c.ssm.response.frequency_response`.

    Returns:
        `Peak(gain, angle)`, radians per step in [0, pi].

    Source: definition: Antoulas (2005), section 5.3; the start at the poles' angles: Bruinsma and Steinbuch (1990),
    who go on with Hamiltonian eigenvalues, a general eigenvalue problem that XLA solves on few platforms.
    """
    # Sweep, and brackets around the highest local maxima; both ends of the circle may be one.
    angles, _ = samples(system.log_a, PER_SLOT)
    found = terms(system, angles, bidirectional=bidirectional)
    swept = _swept_gains(found)
    padded = jnp.pad(swept, 1, constant_values=-1)
    is_peak = (swept >= padded[:-2]) & (swept >= padded[2:])
    best = jax.lax.top_k(jnp.where(is_peak, swept, -1), PEAKS)[1]
    low, high = angles[jnp.maximum(best - 1, 0)], angles[jnp.minimum(best + 1, len(angles) - 1)]

    def measured(at: Float[Array, "f"]) -> Float[Array, "f"]:
        return _largest_singular_values(frequency_response(system, at, bidirectional=bidirectional))

    # Golden sections of all brackets at once: low < x < y < high, one new probe a step.
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
    # The largest gain that was measured anywhere, so that what is returned is attained.
    at = jnp.concatenate([x, y, angles[best]])
    reached = jnp.concatenate([at_x, at_y, first[2]])
    winner = jnp.argmax(reached)
    return Peak(reached[winner], at[winner])


def hinf_ceiling(system: ModalSystem, *, bidirectional: bool = False) -> Float[Array, ""]:
    """Returns an upper bound of the H-infinity norm, about 1% above it.

        ||G||_inf <= max_s sigma_max(G(w_s)) / cos(delta / 2)    (see the module)

    with delta the largest step in phase that the samples really make, rounding of the evaluation added; or the sum of
    the gains of all poles and of D, if that is less. Costs 32 p + 65 singular value problems.

    Args:
        system: p slots, complex128. Infinite where |a| >= 1.
        bidirectional: as in `s5c.ssm.response.frequency_response`.
    """
    angles, step = samples(system.log_a, PER_SLOT_CERTIFIED)
    found = terms(system, angles, bidirectional=bidirectional)
    margin = -jnp.expm1(system.log_a.real)
    sizes = jnp.linalg.norm(found.C, axis=0) * jnp.linalg.norm(found.B, axis=1)
    # An empty slot adds nothing wherever its pole is.
    each = jnp.where(sizes == 0, 0, sizes / jnp.tile(margin, len(sizes) // len(margin)))
    together = jnp.sum(each) + jnp.linalg.norm(found.D)
    highest = jnp.max(_sampled_gains(found))
    rounding = 4 * len(sizes) * np.finfo(float).eps * together
    sampled = jnp.where(step < np.pi, highest / jnp.cos(jnp.minimum(step, np.pi) / 2) + rounding, jnp.inf)
    return jnp.where(jnp.any((margin <= 0) & (each[: len(margin)] != 0)), jnp.inf, jnp.minimum(sampled, together))


def samples(log_a: Complex[Array, "p"], per_slot: int) -> tuple[Float[Array, "f"], Float[Array, ""]]:
    """Returns angles in [0, pi], both ends among them, about evenly spread in the phase of the poles (see the module).

    Even points of each pole's own phase come first; between two of them the phase of all is close to a straight line in
    that of the pole which turns most there, along which the samples are set.

    Args:
        log_a: logarithms of the poles, one of each pair.
        per_slot: how many per slot, besides 65.

    Returns:
        The angles, rising, and the largest step in phase from one to the next.
    """
    radius, width = jnp.exp(log_a.real), -jnp.tanh(log_a.real / 2)
    height = jnp.abs(jnp.mod(log_a.imag + np.pi, 2 * np.pi) - np.pi)
    height = jnp.where(jnp.abs(log_a.imag) <= np.pi, jnp.abs(log_a.imag), height)  # `mod` would round

    centres = jnp.concatenate([height, -height])

    def phases(angles: Float[Array, "f"]) -> Float[Array, "f n"]:
        x = angles[:, None] - centres
        rho, gap = jnp.tile(radius, 2), jnp.tile(-jnp.expm1(log_a.real), 2)
        return x + 2 * jnp.arctan2(rho * jnp.sin(x), gap + 2 * rho * jnp.sin(x / 2) ** 2)

    own = np.linspace(-np.pi, np.pi, per_slot + 1)[1:]
    near = (height[:, None] + 2 * jnp.arctan(width[:, None] * np.tan(own / 2))).ravel()
    near = jnp.where(near > np.pi, 2 * np.pi - near, jnp.abs(near))
    angles = jnp.sort(jnp.concatenate([near, jnp.linspace(0, np.pi, UNIFORM)]))
    for _ in range(PASSES):
        table = phases(angles)
        total = jnp.sum(table, axis=1)
        wanted = jnp.linspace(total[0], total[-1], len(angles))
        at = jnp.clip(jnp.searchsorted(total, wanted, side="right") - 1, 0, len(angles) - 2)
        start, rise = table[at], table[at + 1] - table[at]
        leader = jnp.argmax(rise, axis=1)[:, None]
        share = (wanted - total[at]) / jnp.maximum(total[at + 1] - total[at], 1e-300)
        phase, rise = (jnp.take_along_axis(x, leader, 1)[:, 0] for x in (start, rise))
        phase = phase + jnp.clip(share, 0, 1) * rise
        turns = 2 * np.pi * jnp.round(phase / (2 * np.pi))
        leader = leader[:, 0]
        x = 2 * jnp.arctan(jnp.tile(width, 2)[leader] * jnp.tan((phase - turns) / 2)) + turns
        found = jnp.clip(centres[leader] + x, angles[at], angles[at + 1])
        angles = jnp.sort(found).at[0].set(0).at[-1].set(np.pi)
    return angles, jnp.max(jnp.diff(jnp.sum(phases(angles), axis=1)))


def _swept_gains(found: Terms) -> Float[Array, "f"]:
    """Returns sigma_max, or ||G v|| with a unit vector v after three power iterations: enough to see the peaks."""
    if min(found.D.shape) <= SMALL:
        return _sampled_gains(found)
    poles, B, C, D = found
    v = jnp.tile(jnp.cos(jnp.arange(B.shape[1]) ** 2.0), (len(poles), 1)).astype(B.dtype)
    for _ in range(4):
        v = v / jnp.linalg.norm(v, axis=1, keepdims=True)
        y = (poles * (v @ B.T)) @ C.T + v @ D.T
        v = (poles.conj() * (y @ C.conj())) @ B.conj() + y @ D
    return jnp.linalg.norm(y, axis=1)


def _sampled_gains(found: Terms) -> Float[Array, "f"]:
    """Returns sigma_max(G) at every angle, for all angles at once where G is a column or a row."""
    poles, B, C, D = found
    if 1 in D.shape:
        return jnp.linalg.norm((poles @ (C.T[:, :, None] * B[:, None, :]).reshape(len(B), -1)) + D.ravel(), axis=1)

    def one(at: Complex[Array, "k"]) -> Float[Array, ""]:
        return _largest_singular_values((D + (C * at) @ B)[None])[0]

    return jax.lax.map(one, poles, batch_size=BATCH)


def _largest_singular_values(G: Complex[Array, "f q m"]) -> Float[Array, "f"]:
    if 1 in G.shape[1:]:
        return jnp.linalg.norm(G, axis=(1, 2))
    if G.shape[1] < G.shape[2]:
        G = jnp.swapaxes(G, 1, 2)
    return jnp.sqrt(jnp.linalg.eigvalsh(jnp.swapaxes(G.conj(), 1, 2) @ G)[:, -1])
