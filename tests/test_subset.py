"""Moments, elimination and refit against raw data: brute force, numpy's least squares, and the H2 optimum."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import random_system
from white import white_moments

from s5c.errors import UserError
from s5c.reduction import stage
from s5c.reduction.contract import load_allocation
from s5c.reduction.layer import Layer
from s5c.reduction.method.calibrated import Method
from s5c.reduction.moments import Moments, coefficients, real_states, with_coefficients
from s5c.reduction.refit.calibrated import Refit
from s5c.reduction.refit.h2 import Refit as H2Refit
from s5c.reduction.slots import kept, padded, silenced
from s5c.reduction.subset import eliminate
from s5c.ssm.system import DiagonalSSM

P, H, B, L = 4, 3, 3, 40

removal, accumulated = jax.jit(eliminate), jax.jit(Moments.of)
both_ways = pytest.mark.parametrize("bidirectional", [False, True])
ridges = pytest.mark.parametrize("ridge", [1e-4, 0.0])


class Data(NamedTuple):
    """A layer and what it does on three sequences; the output is noisy, so that no fit is perfect."""

    system: DiagonalSSM
    x: np.ndarray
    u: np.ndarray
    y: np.ndarray

    @property
    def moments(self) -> Moments:
        return measure(self.x, self.u, self.y)

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(a.reshape(-1, a.shape[-1]) for a in self[1:])  # type: ignore[return-value]


def measure(x: Any, u: Any, y: Any, valid: Any = None) -> Moments:
    with jax.enable_x64(True):
        valid = np.ones(np.shape(x)[:2], bool) if valid is None else valid
        return accumulated(*map(jnp.asarray, (x, u, y, valid)))


def data(bidirectional: bool = True, *, h: int = H, seed: int = 0, constant: float = 1.0) -> Data:
    rng = np.random.default_rng(seed)
    system = random_system(rng, P, h, bidirectional=bidirectional)
    u = np.cumsum(rng.normal(size=(B, L, h)), axis=1)  # correlated in time, and not of mean zero
    with jax.enable_x64(True):
        a, B_bar = map(np.asarray, system.discretise())
    x = states(a, B_bar, u, bidirectional)
    return Data(system, x, u, x @ theta(system).T + np.asarray(system.D) * u + constant + 5 * rng.normal(size=u.shape))


def theta(system: DiagonalSSM) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(coefficients(system))


def states(a: np.ndarray, B_bar: np.ndarray, u: np.ndarray, bidirectional: bool) -> np.ndarray:
    parts = []
    for reverse in (False, True)[: 1 + bidirectional]:
        x, now = np.zeros((*u.shape[:2], len(a)), complex), np.zeros((len(u), len(a)), complex)
        for k in range(u.shape[1])[:: -1 if reverse else 1]:
            x[:, k] = now = a * now + u[:, k] @ B_bar.T
        parts += [x.real, x.imag]
    return np.concatenate(parts, axis=-1)


def features_of(keep: Any, n: int) -> np.ndarray:
    return np.concatenate([np.flatnonzero(keep) + part for part in range(0, n, len(keep))]).astype(int)


def objective(found: Data, keep: Any, ridge: float) -> float:
    """Returns min J over the states kept, from raw data, the ridge as additional rows."""
    x, u, y = found.rows
    target, Theta, n = y - np.asarray(found.system.D) * u, theta(found.system), x.shape[1]
    pull = np.sqrt(ridge * np.sum(x**2, axis=0))
    columns = features_of(keep, n)
    A = np.zeros((len(x) + n, len(columns) + 1))
    A[: len(x), :-1], A[: len(x), -1] = x[:, columns], 1
    A[len(x) + columns, np.arange(len(columns))] = pull[columns]
    b = np.concatenate([target, pull[:, None] * Theta.T])
    return float(np.sum((b - A @ np.linalg.lstsq(A, b, rcond=None)[0]) ** 2))


# --- moments ----------------------------------------------------------------------------------------------------------


def test_moments_are_sums_over_valid_steps() -> None:
    found = data()
    valid = np.arange(L) < np.array([L, 7, 0])[:, None]
    spoilt = [np.where(valid[..., None], a, np.nan) for a in found[1:]]
    moments = measure(*spoilt, valid)
    x, u, y = (np.concatenate([a[0], a[1, :7]]) for a in found[1:])
    z = np.concatenate([x, u, np.ones((len(x), 1))], axis=1)
    np.testing.assert_allclose(moments.zz, z.T @ z, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(moments.yz, y.T @ z, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(np.append(moments.yy, moments.energy), [*np.sum(y**2, axis=0), np.sum(y**2)])
    assert float(moments.count) == L + 7 and moments.zz.dtype == np.float64
    parts = [measure(*(a[i : i + 1] for a in spoilt), valid[i : i + 1]) for i in range(B)]
    with jax.enable_x64(True):
        for a, b in zip(jax.tree.leaves(parts[0] + parts[1] + parts[2]), jax.tree.leaves(moments), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9)


@both_ways
def test_the_output_matrix_on_real_states_is_that_of_the_system(bidirectional: bool) -> None:
    system = data(bidirectional).system
    with jax.enable_x64(True):
        back = with_coefficients(system, coefficients(system))
        x = np.random.default_rng(0).normal(size=(2, P)) + 1j * np.random.default_rng(1).normal(size=(2, P))
        features = real_states(*map(jnp.asarray, x[: 1 + bidirectional]))
        y = coefficients(system) @ features
    expected = 2 * (np.asarray(system.C) @ x[0]).real
    if bidirectional:
        expected = expected + 2 * (np.asarray(system.C_backward) @ x[1]).real
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    np.testing.assert_array_equal(back.C, system.C)


def test_moments_of_some_states_are_those_of_the_others_silenced() -> None:
    found, keep = data(), np.array([True, False, True, False])
    with jax.enable_x64(True):
        a, B_bar = map(np.asarray, silenced(found.system, jnp.asarray(keep)).discretise())
        some = found.moments.of_states(jnp.asarray(keep))
    expected = measure(states(a, B_bar, found.u, True), found.u, found.y)
    np.testing.assert_allclose(some.zz, expected.zz, rtol=1e-12)
    np.testing.assert_allclose(some.yz, expected.yz, rtol=1e-12)


# --- elimination ------------------------------------------------------------------------------------------------------


@ridges
@both_ways
def test_the_path_is_greedy_and_its_cost_exact(bidirectional: bool, ridge: float) -> None:
    found = data(bidirectional)
    with jax.enable_x64(True):
        order, costs = removal(found.system, found.moments, ridge)
    keep = np.ones(P, bool)
    for i, cost in zip(np.asarray(order), np.asarray(costs), strict=True):
        before = objective(found, keep, ridge)
        trials = {int(j): objective(found, keep & (np.arange(P) != j), ridge) - before for j in np.flatnonzero(keep)}
        assert i == min(trials, key=trials.__getitem__)
        assert cost == pytest.approx(trials[int(i)], rel=1e-6)
        keep[i] = False
    assert not keep.any()


def test_greedy_comes_near_the_best_subset() -> None:
    ratios = []
    for seed in range(4):
        found = data(seed=seed)
        with jax.enable_x64(True):
            order, _ = removal(found.system, found.moments, 1e-4)
        for k in range(1, P):
            greedy = objective(found, ~np.isin(np.arange(P), np.asarray(order)[:k]), 1e-4)
            subsets = itertools.combinations(range(P), P - k)
            best = min(objective(found, np.isin(np.arange(P), subset), 1e-4) for subset in subsets)
            assert greedy >= best * (1 - 1e-9)
            ratios.append(greedy / best)
    assert np.median(ratios) == pytest.approx(1)
    assert max(ratios) < 1.5


def test_uncorrelated_states_go_in_the_order_of_their_output_energy() -> None:
    found = data(h=1)
    weights = np.array([3.0, 1.0, 4.0, 2.0])
    with jax.enable_x64(True):
        zz = jnp.eye(4 * P + 2)
        system = with_coefficients(found.system, jnp.asarray(np.tile(weights, 4)[None]))
        yz = jnp.concatenate([coefficients(system), system.D[None], jnp.zeros((1, 1))], axis=1)
        moments = Moments(zz, yz, jnp.ones(1), jnp.ones(()), jnp.ones(()))
        order, costs = removal(system, moments, 0.0)
    np.testing.assert_array_equal(order, [1, 3, 0, 2])
    np.testing.assert_allclose(costs, 4 * np.sort(weights) ** 2, rtol=1e-9)


# --- scores -----------------------------------------------------------------------------------------------------------


def scores(found: Data, moments: Moments | None = None, system: DiagonalSSM | None = None) -> np.ndarray:
    layer = Layer(system or found.system, moments=moments or found.moments)
    return stage.rank(Method(), load_allocation("global"), [layer], seed=0).scores[0]


def test_scores_are_shares_of_the_output_energy() -> None:
    found = data()
    with jax.enable_x64(True):
        order, costs = removal(found.system, found.moments, 1e-4)
    expected = np.maximum.accumulate(np.asarray(costs)) / np.sum(found.y**2)
    np.testing.assert_allclose(scores(found)[np.asarray(order)], expected, rtol=1e-9)


def test_unstable_modes_stay() -> None:
    found = data()
    Lambda = np.array(found.system.Lambda)
    Lambda[2] = -Lambda[2].conj()
    with jax.enable_x64(True):
        unstable = dataclasses.replace(found.system, Lambda=jnp.asarray(Lambda))
    given = scores(found, system=unstable)
    assert np.flatnonzero(np.isinf(given)).tolist() == [2]
    assert np.unique(given).size == P


def test_dead_constant_and_equal_states_are_no_obstacle() -> None:
    found = data(False)
    x = found.x.copy()
    x[..., [0, P]] = 0  # never moved
    x[..., [1, P + 1]] = 3, 0  # a constant, which the output constant replaces
    x[..., [3, P + 3]] = x[..., [2, P + 2]]  # a twin
    given = scores(found, measure(x, found.u, found.y))
    assert np.isfinite(given).all()
    assert given[0] == np.min(given)
    assert max(given[0], given[1], min(given[2], given[3])) < 1e-3 * max(given[2], given[3])


@pytest.mark.parametrize("steps", [0, 2])
@ridges
def test_hardly_any_data_gives_a_finite_answer(steps: int, ridge: float) -> None:
    found = data()
    moments = measure(*found[1:], np.broadcast_to(np.arange(L) < steps, (B, L)))
    refitted = Refit(ridge=ridge)(Layer(found.system, moments=moments), found.system)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(refitted))
    assert np.isfinite(scores(found, moments)).all()
    if steps == 0:
        np.testing.assert_array_equal(refitted.C, found.system.C)
        np.testing.assert_array_equal(refitted.D, found.system.D)


# --- refit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("feedthrough", "constant"), [(True, True), (True, False), (False, True)])
@ridges
@both_ways
def test_the_refit_is_least_squares(bidirectional: bool, ridge: float, feedthrough: bool, constant: bool) -> None:
    found = data(bidirectional)
    keep = np.array([True, False, True, True])
    with jax.enable_x64(True):
        given = dataclasses.replace(silenced(found.system, jnp.asarray(keep)), bias=jnp.asarray([0.5, -1.0, 2.0]))
        layer = Layer(found.system, moments=found.moments.of_states(jnp.asarray(keep)))
    refitted = Refit(ridge=ridge, feedthrough=feedthrough, constant=constant)(layer, given)
    (x, u, y), D, bias = found.rows, np.asarray(found.system.D), np.array([0.5, -1.0, 2.0])
    columns = features_of(keep, x.shape[1])
    for j in range(H):
        own = [x[:, columns]] + [u[:, j : j + 1]] * feedthrough
        pull = np.sqrt(ridge * np.sum(np.concatenate(own, axis=1) ** 2, axis=0))
        present = np.append(theta(found.system)[j, columns], [D[j]] * feedthrough)
        A = np.concatenate([*own, np.full((len(x), 1), float(constant))], axis=1)
        A = np.concatenate([A, np.pad(np.diag(pull), [(0, 0), (0, 1)])])
        target = y[:, j] - (0 if feedthrough else D[j] * u[:, j]) - (0 if constant else bias[j])
        expected = np.linalg.lstsq(A, np.concatenate([target, pull * present]), rcond=None)[0]
        size = np.abs(expected).max()
        solved = theta(refitted)[j, columns]
        np.testing.assert_allclose(solved, expected[: len(columns)], atol=1e-7 * size)
        assert np.asarray(refitted.D)[j] == pytest.approx(
            expected[len(columns)] if feedthrough else D[j], abs=1e-7 * size
        )
        assert refitted.bias is not None
        assert np.asarray(refitted.bias)[j] == pytest.approx(expected[-1] if constant else bias[j], abs=1e-6 * size)
    np.testing.assert_array_equal(np.asarray(refitted.C)[:, ~keep], 0)


@both_ways
def test_on_white_input_the_refit_is_the_h2_optimal_one(bidirectional: bool) -> None:
    """Population moments in place of data: with the input white, x is what a Lyapunov equation says it is."""
    system, keep = data(bidirectional).system, np.array([True, True, False, True])
    moments = white_moments(system)
    with jax.enable_x64(True):
        mask = jnp.asarray(keep)
        layer, given = Layer(system, moments=moments.of_states(mask)), silenced(system, mask)
        mine = kept(Refit(ridge=0, feedthrough=False)(layer, given), keep)
        h2 = H2Refit(feedthrough=False)(layer, kept(system, keep))
    for name in ("Lambda", "B", "C", "D") + ("C_backward",) * bidirectional:
        np.testing.assert_allclose(getattr(mine, name), getattr(h2, name), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mine.bias, 0, atol=1e-6)
    assert np.abs(np.asarray(mine.C) - np.asarray(system.C)[:, keep]).max() > 1e-2


@pytest.mark.slow
def test_channels_are_systems_of_their_own() -> None:
    alone = [data(h=1, seed=seed) for seed in range(2)]
    with jax.enable_x64(True):
        system = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(d.system for d in alone))
        moments = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(d.moments for d in alone))
        energy = jnp.full(2, moments.energy.sum())
        moments = dataclasses.replace(moments, energy=energy)
    layer = Layer(system, moments=moments)
    refitted = Refit()(layer, system)
    (given,) = stage.rank(Method(), load_allocation("global"), [layer], seed=0).scores
    for i, found in enumerate(alone):
        expected = Refit()(Layer(found.system, moments=found.moments), found.system)
        np.testing.assert_allclose(refitted.C[i], expected.C, rtol=1e-9)
        with jax.enable_x64(True):
            order, costs = removal(found.system, found.moments, 1e-4)
        rising = np.maximum.accumulate(np.asarray(costs)) / float(energy[0])
        np.testing.assert_allclose(given[i][np.asarray(order)], rising, rtol=1e-9)


@pytest.mark.parametrize("make", [Method, Refit])
def test_a_negative_ridge_is_refused(make: Any) -> None:
    with pytest.raises(UserError, match="must not be negative"):
        make(ridge=-1.0)


# --- slots ------------------------------------------------------------------------------------------------------------


def test_kept_and_padded_systems_hold_the_same_states() -> None:
    systems = [data(seed=seed, h=1).system for seed in range(2)]
    keep = np.array([[True, False, True, False], [False, False, False, True]])
    with jax.enable_x64(True):
        small = kept(jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems), keep)
        wide = padded(small, P)
    assert (small.state_dim, wide.state_dim) == (2, P)
    np.testing.assert_array_equal(small.Lambda[0], systems[0].Lambda[keep[0]])
    np.testing.assert_array_equal(small.C[1, :, 0], systems[1].C[:, 3])
    assert not np.any(small.B[1, 1]) and not np.any(small.C[1, :, 1])  # filling
    assert not np.any(wide.B[:, 2:]) and np.all(np.asarray(wide.Lambda.real) < 0)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(kept(wide, np.arange(P) < np.full((2, 1), 2)).C, small.C)
