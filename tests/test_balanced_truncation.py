"""Balanced truncation against pyMOR, against its own error bound, and in the cases that textbooks leave out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modal_systems import (
    SHAPES,
    P,
    batched,
    dense,
    modal_system,
    modal_systems,
    one,
    pymor_model,
    pymor_response,
    response,
    with_real_poles,
)
from pymor.reductors.bt import BTReductor
from scipy.linalg import cholesky, solve_discrete_lyapunov

from s5c.errors import UserError
from s5c.reduction.balanced import error_bounds
from s5c.reduction.truncation import Realisation, realise, truncate
from s5c.ssm.gramian import gramian
from s5c.ssm.modal import ModalSystem, difference
from s5c.ssm.norms import hinf_norm

EXAMPLES = settings(max_examples=10, deadline=None, derandomize=True)
ANGLES = np.linspace(0, np.pi, 24)
systems = st.sampled_from(SHAPES).flatmap(modal_systems)
hinf_norms = jax.jit(jax.vmap(hinf_norm))


def errors(full: ModalSystem, reduced: ModalSystem) -> np.ndarray:
    """Returns the H-infinity errors of a batch."""
    with jax.enable_x64(True):
        return np.asarray(hinf_norms(jax.tree.map(jnp.asarray, difference(full, reduced))).gain)


def is_unique(sigma: np.ndarray, order: int) -> bool:
    """Whether the reduced system of this order is determined to 1e-8: a gap in the spectrum, above pyMOR's noise."""
    after = sigma[order] if order < len(sigma) else 0.0
    return bool(sigma[order - 1] > 1.05 * after and sigma[order - 1] > 1e-5 * sigma[0])


# ---- oracles


@given(system=systems)
@EXAMPLES
def test_reduced_transfer_functions_agree_with_pymor(system: ModalSystem) -> None:
    realisation = realise(batched(system))
    scale = np.abs(response(system, ANGLES) - system.D).max()
    for slots in (1, 3):
        reduced = truncate(realisation, slots)
        order = int(reduced.order[0])
        if not is_unique(realisation.hsv[0], order):
            continue
        rom = BTReductor(pymor_model(system)).reduce(order)
        ours = response(one(reduced.system), ANGLES) - system.D
        np.testing.assert_allclose(ours, pymor_response(rom, ANGLES), atol=1e-8 * scale)
        poles = np.exp(one(reduced.system).log_a[: reduced.slots[0]])
        expected = rom.poles()
        expected = expected[expected.imag > -1e-9]
        gaps = np.abs(poles[:, None] - expected)
        assert len(poles) == len(expected)
        assert gaps.min(0).max() < 1e-6 and gaps.min(1).max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("slowest", [1e-4, 1e-6])
def test_slow_poles_are_truncated_as_by_pymor(shape: tuple[int, int], slowest: float, rng: np.random.Generator) -> None:
    for _ in range(4):
        system = modal_system(rng, shape=shape, slowest=slowest)
        realisation = realise(batched(system))
        reduced = truncate(realisation, 3)
        assert is_unique(realisation.hsv[0], int(reduced.order[0]))
        rom = BTReductor(pymor_model(system)).reduce(int(reduced.order[0]))
        ours, theirs = response(one(reduced.system), ANGLES) - system.D, pymor_response(rom, ANGLES)
        np.testing.assert_allclose(ours, theirs, atol=1e-8 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_continuous_balancing_agrees_with_pymor(shape: tuple[int, int], rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=shape)
    reduced = truncate(realise(batched(system), time="continuous"), 3)
    rom = BTReductor(pymor_model(system, "continuous")).reduce(int(reduced.order[0]))
    A, B, C, _ = dense(one(reduced.system), "continuous")
    for s in 1j * np.linspace(0, 4, 9):
        ours = C @ np.linalg.solve(s * np.eye(len(A)) - A, B.astype(complex))
        np.testing.assert_allclose(ours, rom.transfer_function.eval_tf(s), atol=1e-9)
    assert np.isinf(reduced.bound).all()


def perturbed(system: ModalSystem, order: int) -> np.ndarray:
    """Returns the response after singular perturbation, by the book: dense matrices, Cholesky factors."""
    A, B, C, D = dense(system)
    C, D = C @ A, D + C @ B  # x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k
    P, Q = solve_discrete_lyapunov(A, B @ B.T), solve_discrete_lyapunov(A.T, C.T @ C)
    Lp, Lq = cholesky(P, lower=True), cholesky(Q, lower=True)
    U, sigma, Vt = np.linalg.svd(Lq.T @ Lp)
    T, W = Lp @ Vt.T / np.sqrt(sigma), Lq @ U / np.sqrt(sigma)
    A, B, C = W.T @ A @ T, W.T @ B, C @ T
    kept, left = slice(order), slice(order, None)
    X = np.linalg.inv(np.eye(len(A) - order) - A[left, left])
    Ar, Br = A[kept, kept] + A[kept, left] @ X @ A[left, kept], B[kept] + A[kept, left] @ X @ B[left]
    Cr, Dr = C[:, kept] + C[:, left] @ X @ A[left, kept], D + C[:, left] @ X @ B[left]
    return np.stack([Dr + Cr @ np.linalg.solve(np.exp(1j * w) * np.eye(order) - Ar, Br) for w in ANGLES])


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_perturbation(shape: tuple[int, int], rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=shape, slowest=0.05)
    realisation = realise(batched(system), variant="perturbation")
    reduced = truncate(realisation, 3)
    found = response(one(reduced.system), ANGLES)
    scale = np.abs(found).max()
    np.testing.assert_allclose(found, perturbed(system, int(reduced.order[0])), atol=1e-8 * scale)
    np.testing.assert_allclose(found[0], response(system, ANGLES)[0], atol=1e-11 * scale)  # the gain for a constant
    assert errors(batched(system), reduced.system) <= reduced.bound


def test_perturbation_in_continuous_time_keeps_the_gain_for_a_constant(rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=SHAPES[1], slowest=0.05)
    reduced = one(truncate(realise(batched(system), time="continuous", variant="perturbation"), 3).system)
    (A, B, C, D), (Ar, Br, Cr, Dr) = dense(system, "continuous"), dense(reduced, "continuous")
    np.testing.assert_allclose(Dr - Cr @ np.linalg.solve(Ar, Br), D - C @ np.linalg.solve(A, B), atol=1e-11)


def test_the_horizon_is_the_number_of_taps_that_count(rng: np.random.Generator) -> None:
    system = modal_system(rng)
    A, B, C, _ = dense(system)
    powers = [np.linalg.matrix_power(A, k) for k in range(40)]
    P, Q = sum(X @ B @ B.T @ X.T for X in powers), sum(X.T @ C.T @ C @ X for X in powers)
    realisation = realise(batched(system), horizon=40)
    expected = np.sqrt(np.maximum(np.sort(np.linalg.eigvals(P @ Q).real)[::-1], 0))
    np.testing.assert_allclose(realisation.hsv[0], expected, atol=1e-6 * expected[0])
    assert np.isinf(realisation.bounds).all()
    endless = realise(batched(system), horizon=200_000).hsv
    np.testing.assert_allclose(endless, realise(batched(system)).hsv, atol=1e-7 * endless.max())
    assert (truncate(realisation, 2).system.log_a.real < 0).all()


# ---- guarantees


@pytest.mark.parametrize("variant", ["truncation", "perturbation"])
@pytest.mark.slow
def test_a_thousand_systems_keep_their_bound(variant: str, rng: np.random.Generator) -> None:
    """One batched call; every system has a budget of its own, some have real poles, some slow ones."""
    many = with_real_poles(modal_system(rng, 1000, slowest=1e-4), 1)
    many.log_a[::2, 0] += 1j
    budget = rng.integers(1, P + 1, 1000)
    realisation = realise(many, variant=variant)
    reduced = truncate(realisation, budget)
    assert (errors(many, reduced.system) <= reduced.bound + 1e-10 * realisation.hsv[:, 0]).all()
    assert (reduced.system.log_a.real < 0).all()
    assert (reduced.slots <= budget).all() and (reduced.slots >= np.minimum(budget, P) - 1).all()
    in_use = np.abs(reduced.system.B[:, :, 0]) > 0
    is_pair = (reduced.system.log_a.imag > 0) & (reduced.system.log_a.imag < np.pi)
    np.testing.assert_array_equal(in_use.sum(1), reduced.slots)
    np.testing.assert_array_equal((in_use * (1 + is_pair)).sum(1), reduced.order)
    assert np.isfinite(reduced.condition).all()


def test_the_bounds_are_twice_the_tails() -> None:
    np.testing.assert_allclose(error_bounds(np.array([[4.0, 2.0, 1.0]])), [[14, 6, 2, 0]])


@pytest.mark.parametrize("variant", ["truncation", "perturbation"])
@pytest.mark.parametrize("shape", SHAPES)
def test_full_order_changes_nothing(variant: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    system = with_real_poles(modal_system(rng, shape=shape, slowest=1e-2), 2)
    reduced = truncate(realise(batched(system), variant=variant), P)
    full = response(system, ANGLES)
    np.testing.assert_allclose(response(one(reduced.system), ANGLES), full, atol=1e-9 * np.abs(full).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_and_the_scale_of_the_states_do_not_matter(shape: tuple[int, int], rng: np.random.Generator) -> None:
    system = modal_system(rng, shape=shape)
    shuffled, scale = rng.permutation(P), np.exp(rng.normal(size=P) + 1j * rng.normal(size=P))
    log_a, B, C, D = system
    other = ModalSystem(log_a[shuffled], (scale[:, None] * B)[shuffled], (C / scale)[:, shuffled], D)
    flipped = ModalSystem(log_a.conj(), B.conj(), C.conj(), D)  # the other half of every pair
    results = [truncate(realise(batched(s)), 3) for s in (system, other, flipped)]
    first = response(one(results[0].system), ANGLES)
    for result in results[1:]:
        np.testing.assert_allclose(response(one(result.system), ANGLES), first, atol=1e-10 * np.abs(first).max())
        np.testing.assert_allclose(result.bound, results[0].bound, rtol=1e-8)


def covariances(rng: np.random.Generator, count: int) -> np.ndarray:
    """Returns covariances of states under inputs of all kinds: any positive semi-definite matrix of any rank."""
    factors = [
        rng.normal(size=(2 * P, rank)) * np.exp(rng.normal(size=(2 * P, 1))) for rank in rng.integers(1, 9, count)
    ]
    return np.stack([factor @ factor.T for factor in factors])


@pytest.mark.parametrize("shape", SHAPES)
def test_white_input_measured_is_white_input(shape: tuple[int, int], rng: np.random.Generator) -> None:
    system = batched(modal_system(rng, shape=shape, slowest=1e-2))
    with jax.enable_x64(True):
        P_white = np.asarray(gramian(ModalSystem(*(jnp.asarray(x[0]) for x in system)), "controllability"))
    measured, white = realise(system, P_white[None]), realise(system)
    np.testing.assert_allclose(measured.hsv, white.hsv, atol=1e-7 * white.hsv[0, 0])
    ours, theirs = (response(one(truncate(r, 3).system), ANGLES) for r in (measured, white))
    np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())
    assert np.isinf(measured.bounds).all() and np.isfinite(white.bounds).all()


def test_whatever_the_covariance_every_order_is_stable(rng: np.random.Generator) -> None:
    """Stability is a theorem, no repair: no order is passed over."""
    systems = [modal_system(rng, shape=(2, 3), slowest=1e-2) for _ in range(40)]
    many = ModalSystem(*(np.stack(parts) for parts in zip(*systems, strict=True)))
    realisation = realise(many, covariances(rng, 40))
    for slots in range(1, P + 1):
        reduced = truncate(realisation, slots, limit=np.inf)
        assert (reduced.defective == 0).all() and (reduced.system.log_a.real < 0).all()


def test_real_poles_stay_single(rng: np.random.Generator) -> None:
    """A sum of positive exponentials is a relaxation system: its reductions have real poles only."""
    log_a = -np.geomspace(0.01, 1, P) + 0j
    system = ModalSystem(log_a, np.ones((P, 1), complex), np.ones((1, P), complex), np.zeros((1, 1)))
    reduced = truncate(realise(batched(system)), 2)
    assert reduced.order.item() == reduced.slots.item() == 2
    kept = one(reduced.system)
    assert (kept.log_a.imag == 0).all() and (kept.B.imag == 0).all() and (kept.C.imag == 0).all()
    rom = BTReductor(pymor_model(system)).reduce(2)
    np.testing.assert_allclose(response(kept, ANGLES), pymor_response(rom, ANGLES), atol=1e-8 * 2 * P / 0.01)


def test_batch_axes_come_back_and_slots_beyond_the_rank_stay_empty(rng: np.random.Generator) -> None:
    many = modal_system(rng, 2, 3)
    many.B[1, 2, 2:] = 0  # rank four: two pairs
    reduced = truncate(realise(many), np.full((2, 3), 4))
    assert reduced.system.B.shape == (2, 3, 4, 1)
    assert reduced.order.shape == (2, 3)
    assert reduced.slots[1, 2] == 2 and reduced.order[1, 2] == 4
    assert not reduced.system.B[1, 2, 2:].any() and not reduced.system.C[1, 2, :, 2:].any()
    alone = truncate(realise(one(one(many), 1)), 4)
    np.testing.assert_allclose(alone.bound, reduced.bound[0, 1], rtol=1e-8)


# ---- what can go wrong


def unstable_pair(rng: np.random.Generator) -> ModalSystem:
    """Returns 2 x 3 systems, of which (1, 2) has one pole outside the circle and one on it."""
    many = modal_system(rng, 2, 3)
    many.log_a[1, 2, 1], many.log_a[1, 2, 3] = 0.01 + 1j, 2j
    return many


def test_an_unstable_pole_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match=r"layer 1, channel 2, state 1: .*0\.0101, angle 1 \(2 unstable.*keep"):
        realise(unstable_pair(rng), axes=("layer", "channel"))


def test_unstable_poles_are_split_off_and_put_back(rng: np.random.Generator) -> None:
    many = unstable_pair(rng)
    reduced = truncate(realise(many, unstable="keep"), 3)
    system, full = one(one(reduced.system, 1), 2), one(one(many, 1), 2)
    last = [reduced.slots[1, 2] - 2, reduced.slots[1, 2] - 1]
    for ours, original in zip(
        (system.log_a[last], system.B[last], system.C[:, last]),
        (full.log_a[[1, 3]], full.B[[1, 3]], full.C[:, [1, 3]]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, original)
    stable = ModalSystem(full.log_a[[0, 2, 4]], full.B[[0, 2, 4]], full.C[:, [0, 2, 4]], full.D)
    alone = one(truncate(realise(batched(stable)), 1).system)
    rest = ModalSystem(*(np.delete(x, last, axis) for x, axis in zip(system[:3], (0, 0, 1), strict=True)), system.D)
    np.testing.assert_allclose(response(rest, ANGLES), response(alone, ANGLES), atol=1e-10)
    with pytest.raises(UserError, match="2 are unstable"):
        truncate(realise(many, unstable="keep"), 1)


def realisation_with(realisation: Realisation, leading: np.ndarray) -> Realisation:
    """Replaces the first two balanced states and cuts the others off."""
    generator, hsv = realisation.balanced.generator.copy(), realisation.balanced.hsv.copy()
    generator[0, :2, :2] = leading
    hsv[:, 2:] = 0
    return dataclasses.replace(realisation, balanced=realisation.balanced._replace(generator=generator, hsv=hsv))


@pytest.mark.parametrize(
    "leading", [[[-0.5, 1.0], [0.0, -0.5]], [[-0.5, 0.0], [0.0, 0.1]]], ids=["defective", "unstable"]
)
def test_an_order_that_cannot_be_diagonalised_is_passed_over(
    leading: list[list[float]], rng: np.random.Generator
) -> None:
    """A Jordan block and an unstable one, which balancing hardly ever returns."""
    realisation = realisation_with(realise(batched(modal_system(rng))), np.array(leading))
    reduced = truncate(realisation, 2)
    assert (reduced.order[0], reduced.slots[0], reduced.defective[0], reduced.condition[0]) == (1, 1, 1, 1)
    assert reduced.system.log_a[0, 0] == pytest.approx(np.log(0.5))
    assert reduced.bound[0] == pytest.approx(2 * realisation.hsv[0, 1])


def test_wrong_requests_are_refused(rng: np.random.Generator) -> None:
    system = batched(modal_system(rng))
    realisation = realise(system)
    for slots in (0, P + 1):
        with pytest.raises(UserError, match=f"between 1 and {P}"):
            truncate(realisation, slots)
    with pytest.raises(UserError, match="not finite"):
        realise(system._replace(B=np.full_like(system.B, np.nan)))
    for option in ({"variant": "residual"}, {"unstable": "drop"}, {"time": "sampled"}):
        with pytest.raises(UserError, match="Available"):
            realise(system, **option)
