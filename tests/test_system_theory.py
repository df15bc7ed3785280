"""Gramians, norms and responses of modal systems against scipy, pyMOR and brute-force sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modal_systems import SHAPES, P, dense, modal_system, modal_systems, one, pymor_model, response, with_real_poles
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.optimize import minimize_scalar
from systems import random_system, simulate

from s5c.errors import UserError
from s5c.ssm import gramian as g
from s5c.ssm.modal import ModalSystem, advanced, difference, from_ssm, real_form, to_ssm
from s5c.ssm.norms import h2_norm, hinf_norm
from s5c.ssm.response import dc_gain, frequency_response, impulse_response
from s5c.ssm.system import DiagonalSSM

EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True)
TAPS = 60
ANGLES = np.linspace(0, np.pi, 16)


def conjugate_closed(system: ModalSystem) -> ModalSystem:
    """Returns the system with every slot's partner written out: y = C x then, without 2 Re."""
    log_a, B, C, D = system
    states = (jnp.concatenate([x, x.conj()]) for x in (log_a, B))
    return ModalSystem(*states, jnp.concatenate([C, C.conj()], axis=1), D)


@cache
def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return jax.jit(partial(function, **options))


def double(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a compiled function in double precision and returns NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, compiled(function, **options)(*jax.tree.map(jnp.asarray, args)))


def both(system: ModalSystem, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns controllability and observability Gramians."""
    P, Q = (double(g.gramian, system, side=side, **options) for side in g.SIDES)
    return P, Q


def taps(system: ModalSystem, length: int) -> np.ndarray:
    """Returns the impulse response by multiplying with A again and again."""
    A, B, C, D = dense(system)
    x, out = B, [C @ B + D]
    for _ in range(length - 1):
        x = A @ x
        out.append(C @ x)
    return np.stack(out)


systems = st.sampled_from(SHAPES).flatmap(modal_systems)


# ---- Gramians


@pytest.mark.parametrize("time", ["discrete", "continuous"])
@given(system=systems)
@EXAMPLES
def test_gramians_solve_their_lyapunov_equations(time: str, system: ModalSystem) -> None:
    A, B, C, _ = dense(system, time)
    solve = solve_discrete_lyapunov if time == "discrete" else lambda A, X: solve_continuous_lyapunov(A, -X)
    factors = double(g.gramian_factors, system, time=time)
    for found, L, expected in zip(
        both(system, time=time), factors, (solve(A, B @ B.T), solve(A.T, C.T @ C)), strict=True
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=1e-10 * scale)
        np.testing.assert_allclose(L @ L.T, found, atol=1e-13 * scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("unstable", [False, True])
def test_finite_gramians_are_sums_over_the_steps(
    shape: tuple[int, int], unstable: bool, rng: np.random.Generator
) -> None:
    system = modal_system(rng, shape=shape)
    if unstable:  # one pole outside, one on the circle
        system = system._replace(log_a=np.r_[0.02 + 1j, 2j, system.log_a[2:]])
    A, B, C, _ = dense(system)
    powers = [np.linalg.matrix_power(A, k) for k in range(TAPS)]
    expected = sum(X @ B @ B.T @ X.T for X in powers), sum(X.T @ C.T @ C @ X for X in powers)
    for side, found, sums in zip(g.SIDES, both(system, horizon=TAPS), expected, strict=True):
        np.testing.assert_allclose(found, sums, atol=1e-12 * np.abs(sums).max())
        L = double(g.gramian_factor, system, side=side, horizon=TAPS)
        np.testing.assert_allclose(L @ L.T, sums, atol=1e-12 * np.abs(sums).max())


def test_the_factor_keeps_its_digits_where_the_gramian_is_singular(rng: np.random.Generator) -> None:
    """Cauchy's determinant, det P = prod |b|^2 prod_{i<j} |a_i - a_j|^2 / prod_{ij} (1 - a_i conj(a_j)), to 1e-9."""
    log_a = np.r_[-1e-6, -1e-5, -np.linspace(0.7, 1, 6)] + 1j * np.linspace(0.1, 0.8, 8)
    system = modal_system(rng, p=8)._replace(log_a=log_a)
    closed = double(conjugate_closed, system)
    s, b, pairs = closed.log_a, closed.B[:, 0], np.triu_indices(16, 1)
    log_gaps = np.log(np.abs(np.expm1((s[:, None] - s)[pairs]))) + s.real[pairs[1]]
    log_spans = np.log(np.abs(np.expm1(s[:, None] + s.conj())))
    expected = 2 * np.log(np.abs(b)).sum() + 2 * log_gaps.sum() - log_spans.sum()
    L = double(g.gramian_factor, system, side="controllability")
    assert np.linalg.cond(both(system)[0]) > 1e15
    assert 2 * np.linalg.slogdet(L)[1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tilt", [0, 1e-15, 1e-12, 1e-8, 1e-4])
def test_a_pair_that_is_almost_real(shape: tuple[int, int], tilt: float, rng: np.random.Generator) -> None:
    """Its two rows differ by rounding alone; the factor must not take the difference for a direction."""
    log_a, B, C, D = modal_system(rng, shape=shape)
    log_a[:2] = [-0.2 + 1j * tilt, -0.01 + 1j * (np.pi - tilt)]
    B[:2], C[:, :2] = B[:2].real + 1j * tilt * B[:2].imag, C[:, :2].real + 1j * tilt * C[:, :2].imag
    system = ModalSystem(log_a, np.exp(0.3j) * B, np.exp(-0.3j) * C, D) if tilt else ModalSystem(log_a, B, C, D)
    for L, expected in zip(double(g.gramian_factors, system), both(system), strict=True):
        np.testing.assert_allclose(L @ L.T, expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.slow
def test_a_system_of_many_inputs_is_compressed_first(rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=(13, 12))
    for L, expected in zip(double(g.gramian_factors, system), both(system), strict=True):
        np.testing.assert_allclose(L @ L.T, expected, atol=1e-13 * np.abs(expected).max())


def test_gramians_in_single_precision_are_refused(rng: np.random.Generator) -> None:
    single = jax.tree.map(jnp.asarray, modal_system(rng))
    with pytest.raises(ValueError, match=r"complex128.*enable_x64"):
        g.gramian(single, "controllability")
    with pytest.raises(UserError, match="observability"):
        double(g.gramian, modal_system(rng), side="observable")
    with pytest.raises(UserError, match="continuous"):
        double(g.gramian_factors, modal_system(rng), time="sampled")


# ---- Hankel singular values


@given(system=systems)
@EXAMPLES
def test_hankel_singular_values_agree_with_pymor(system: ModalSystem) -> None:
    found = double(g.hankel_singular_values, system)
    np.testing.assert_allclose(found, pymor_model(system).hsv(), atol=1e-8 * found[0])


@pytest.mark.parametrize("slowest", [1e-4, 1e-6])
@pytest.mark.parametrize("shape", SHAPES)
def test_slow_poles(shape: tuple[int, int], slowest: float, rng: np.random.Generator) -> None:
    """What remains is pyMOR's error: it is given the poles, whose distance from the circle has lost digits already."""
    system = modal_system(rng, shape=shape, slowest=slowest)
    found = double(g.hankel_singular_values, system)
    np.testing.assert_allclose(found, pymor_model(system).hsv(), atol=1e-8 * found[0])
    assert double(h2_norm, system._replace(D=-2 * (system.C @ system.B).real)) == pytest.approx(
        pymor_model(double(advanced, system)).h2_norm(), rel=1e-8
    )


def test_hankel_singular_values_are_those_of_the_hankel_matrix(rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=(3, 2), slowest=0.1)
    h = taps(system._replace(D=0 * system.D), 600)
    hankel = np.block([[h[i + j] for j in range(300)] for i in range(300)])
    expected = np.linalg.svd(hankel, compute_uv=False)[: 2 * P]
    np.testing.assert_allclose(double(g.hankel_singular_values, system), expected, atol=1e-10 * expected[0])


def test_a_real_pole_counts_once(rng: np.random.Generator) -> None:
    system = with_real_poles(modal_system(rng), 2)
    sigma = double(g.hankel_singular_values, system)
    assert (sigma[:8] > 1e-9 * sigma[0]).all()
    assert (sigma[8:] < 1e-14 * sigma[0]).all()


# ---- norms


@given(system=systems)
@EXAMPLES
def test_h2_norms_agree_with_pymor_and_with_sums_of_taps(system: ModalSystem) -> None:
    strictly_proper = system._replace(D=0 * system.D)
    assert double(h2_norm, strictly_proper) == pytest.approx(pymor_model(system).h2_norm(), rel=1e-8)
    assert double(h2_norm, system, horizon=TAPS) == pytest.approx(np.linalg.norm(taps(system, TAPS)), rel=1e-9)
    assert double(h2_norm, system) == pytest.approx(
        np.hypot(np.linalg.norm(taps(system, TAPS)), double(h2_norm, shifted(strictly_proper, TAPS))), rel=1e-9
    )


def shifted(system: ModalSystem, steps: int) -> ModalSystem:
    """Returns the system of the taps from number `steps` on."""
    return system._replace(C=system.C * np.exp(steps * system.log_a))


def test_a_small_error_is_measured_to_its_last_digits(rng: np.random.Generator) -> None:
    """||G - (1 + 1e-9) G|| = 1e-9 ||G||; from differences of squares nothing would be left of it."""
    system = modal_system(rng, shape=(3, 2))
    near = system._replace(C=(1 + 1e-9) * system.C, D=(1 + 1e-9) * system.D)
    error = double(difference, system, near)
    assert double(h2_norm, error) == pytest.approx(1e-9 * double(h2_norm, system), rel=1e-4)


def swept_norm(system: ModalSystem) -> float:
    """Returns the H-infinity norm by a dense sweep and a scalar optimiser."""

    def gain(angle: float) -> float:
        return float(np.linalg.norm(response(system, np.array([angle]))[0], 2))

    angles = np.unique(np.r_[np.linspace(0, np.pi, 1500), np.abs(system.log_a.imag)])
    gains = np.linalg.norm(response(system, angles), 2, axis=(1, 2))
    best = gains.max()
    for i in np.argsort(-gains)[:4]:
        bounds = angles[max(i - 1, 0)], angles[min(i + 1, len(angles) - 1)]
        best = max(best, -minimize_scalar(lambda w: -gain(w), bounds=bounds, options={"xatol": 1e-10}).fun)
    return best


@given(system=systems)
@EXAMPLES
def test_hinf_norms_agree_with_a_dense_sweep(system: ModalSystem) -> None:
    peak, expected = double(hinf_norm, system), swept_norm(system)
    assert peak.gain == pytest.approx(expected, rel=1e-6)
    attained = np.linalg.norm(response(system, peak.angle[None])[0], 2)
    assert attained == pytest.approx(float(peak.gain), rel=1e-8)


# ---- responses


@given(system=systems)
@EXAMPLES
def test_responses_agree_with_the_dense_system(system: ModalSystem) -> None:
    scale = np.abs(response(system, ANGLES)).max()
    np.testing.assert_allclose(double(impulse_response, system, length=TAPS), taps(system, TAPS), atol=1e-11 * scale)
    found = double(frequency_response, system, ANGLES)
    np.testing.assert_allclose(found, response(system, ANGLES), atol=1e-11 * scale)
    np.testing.assert_allclose(double(dc_gain, system), found[0].real, atol=1e-12 * scale)


def test_the_conjugate_closed_and_the_real_form_are_the_same_map(rng: np.random.Generator) -> None:
    system = with_real_poles(modal_system(rng, shape=(3, 2)), 2)
    closed, real = double(conjugate_closed, system), double(real_form, system)
    for ours, written_out in zip(real, dense(system), strict=True):
        np.testing.assert_allclose(ours, written_out, atol=1e-14)
    expected = taps(system, 5)
    for k in range(5):
        tap = (closed.C * np.exp(k * closed.log_a)) @ closed.B + (closed.D if k == 0 else 0)
        np.testing.assert_allclose(tap, expected[k], atol=1e-13)


def test_systems_are_mapped_over(rng: np.random.Generator) -> None:
    many = modal_system(rng, 3, shape=(3, 2))
    with jax.enable_x64(True):
        together = jax.vmap(compiled(g.hankel_singular_values))(jax.tree.map(jnp.asarray, many))
    for i in range(3):
        np.testing.assert_allclose(together[i], double(g.hankel_singular_values, one(many, i)), rtol=1e-11)


def test_a_slow_bilinear_mode_keeps_its_decay() -> None:
    """Lambda = -1e-9 + 2i, Delta = 1: a = i (1 - 5e-10) to first order in the damping."""
    with jax.enable_x64(True):
        one_mode = jnp.ones((1, 1), complex)
        layer = DiagonalSSM(
            jnp.array([-1e-9 + 2j]), one_mode, one_mode, jnp.ones(1), jnp.ones(1), discretisation="bilinear"
        )
        assert from_ssm(layer).log_a[0].real == pytest.approx(-5e-10, rel=1e-8)
        assert from_ssm(layer).log_a[0].imag == pytest.approx(np.pi / 2, rel=1e-8)


# ---- layers


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
@pytest.mark.parametrize("time", ["discrete", "continuous"])
def test_a_layer_goes_in_and_comes_out(
    bidirectional: bool, discretisation: str, time: str, rng: np.random.Generator
) -> None:
    layer = random_system(rng, 4, 3, bidirectional=bidirectional, discretisation=discretisation)

    def impulses(layer: DiagonalSSM) -> np.ndarray:
        """Returns the answer to an impulse in the middle, one input after the other."""
        with jax.enable_x64(True):
            a, B = layer.discretise()
        u = np.zeros((3, 27, 3))
        u[range(3), 13, range(3)] = 1
        return simulate(u, a, B, layer.C, layer.C_backward)

    with jax.enable_x64(True):
        system = from_ssm(layer, time=time)
        Delta = jnp.linspace(0.01, 0.1, 4)
        back = to_ssm(system, Delta, bidirectional=bidirectional, discretisation=discretisation, time=time)
        h = np.asarray(impulse_response(system._replace(D=0 * system.D), 13))
    np.testing.assert_allclose(impulses(back), impulses(layer), atol=1e-11)
    np.testing.assert_allclose(back.D, layer.D)
    if time == "discrete":
        y = np.swapaxes(impulses(layer), 0, 2)  # output, step, input
        forward, backward = h[:, :3].swapaxes(0, 1), h[:, 3:].swapaxes(0, 1)
        np.testing.assert_allclose(y[:, 14:26], forward[:, 1:], atol=1e-11)
        if bidirectional:
            np.testing.assert_allclose(y[:, 1:13], backward[:, :0:-1], atol=1e-11)


def test_wrong_words_are_refused(rng: np.random.Generator) -> None:
    with jax.enable_x64(True):
        layer = random_system(rng, 2, 1)
        with pytest.raises(UserError, match="discrete"):
            from_ssm(layer, time="discretised")
        with pytest.raises(UserError, match="bilinear"):
            to_ssm(from_ssm(layer), layer.Delta, bidirectional=False, discretisation="tustin")
