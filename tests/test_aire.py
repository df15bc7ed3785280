"""Energies of modes, of sets of modes and of whole layers against impulse responses summed tap by tap."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impulse import energy, impulse_response
from systems import complex_normal, random_system

from s5c.errors import UserError
from s5c.reduction.allocation.greedy import priority as greedy
from s5c.reduction.allocation.tolerance import priority as tolerance
from s5c.reduction.energy import gram, minus, parts_of, relative_error, squared_norm
from s5c.reduction.layer import Layer
from s5c.reduction.method.aire import Method
from s5c.reduction.method.hinf import Method as Hinf
from s5c.reduction.removal import scores_of
from s5c.ssm.system import DiagonalSSM

P, H, LONG, SHORT = 5, 3, 1500, 7
both = pytest.mark.parametrize("bidirectional", [False, True])
horizons = pytest.mark.parametrize("horizon", [None, SHORT])


def make(seed: int, bidirectional: bool = False) -> DiagonalSSM:
    return random_system(np.random.default_rng(seed), P, H, bidirectional=bidirectional, radius=0.97)


def scores(method: Method | Hinf, system: DiagonalSSM, horizon: int | None = None) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(method.scores)(Layer(system, horizon), jax.random.key(0)))


def without_feedthrough(system: DiagonalSSM) -> DiagonalSSM:
    return dataclasses.replace(system, D=0 * system.D)


def changed(system: DiagonalSSM, **arrays: np.ndarray) -> DiagonalSSM:
    with jax.enable_x64(True):
        return dataclasses.replace(system, **{name: jnp.asarray(value) for name, value in arrays.items()})


# ---- single modes


@both
@horizons
def test_the_score_is_the_energy_of_the_stored_mode(bidirectional: bool, horizon: int | None) -> None:
    system = make(0, bidirectional)
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    matrices = [np.asarray(C) for C in (system.C, system.C_backward) if C is not None]
    expected = [
        sum(energy(np.outer(C[:, i], a[i] ** k * B[i])) for C in matrices for k in range(horizon or LONG))
        for i in range(P)
    ]
    method = Method(horizon="sequence" if horizon else "infinite")
    np.testing.assert_allclose(scores(method, system, horizon), expected, rtol=1e-12)


def test_it_is_the_score_of_last_but_for_the_sharpness_of_the_peak() -> None:
    system = make(1)
    with jax.enable_x64(True):
        radius = np.abs(np.asarray(system.discretise()[0]))
    np.testing.assert_allclose(
        scores(Method(), system), scores(Hinf(), system) * (1 - radius) / (1 + radius), rtol=1e-11
    )


def test_the_energy_of_a_slow_mode_keeps_its_digits() -> None:
    system = make(0)
    slow = changed(system, Lambda=(-1e-12 + 0.5j) / np.asarray(system.Delta))
    with jax.enable_x64(True):
        B = np.asarray(slow.discretise()[1])
    gains = (np.abs(np.asarray(slow.C)) ** 2).sum(0) * (np.abs(B) ** 2).sum(1)
    np.testing.assert_allclose(scores(Method(), slow), gains / 2e-12, rtol=1e-9)


def test_the_published_score_leaves_the_output_norm_unsquared() -> None:
    system = make(2, bidirectional=True)
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    norms = [np.linalg.norm(np.asarray(C), axis=0) for C in (system.C, system.C_backward)]
    expected = sum(norms) / 4 * (np.abs(B) ** 2).sum(1) / (1 - np.abs(a) ** 2 + 1e-8)
    np.testing.assert_allclose(scores(Method(score="released", eps=1e-8), system), expected, rtol=1e-11)
    np.testing.assert_array_equal(scores(Method(score="released"), make(2)), scores(Method(), make(2)))


# ---- sets of modes


@both
@horizons
def test_the_gram_matrix_prices_every_set_of_modes(bidirectional: bool, horizon: int | None) -> None:
    system = make(3, bidirectional)
    with jax.enable_x64(True):
        Gamma = np.asarray(jax.jit(partial(gram, horizon=horizon))(parts_of(system)))
    for removed in itertools.chain.from_iterable(itertools.combinations(range(P), k) for k in (1, 2, P)):
        alone = without_feedthrough(system).take(np.array(removed))
        expected = energy(impulse_response(alone, horizon or LONG))
        np.testing.assert_allclose(Gamma[np.ix_(removed, removed)].sum(), expected, rtol=1e-12)


@pytest.mark.few(1)
@both
@horizons
def test_norm_and_error_are_those_of_the_impulse_response(bidirectional: bool, horizon: int | None) -> None:
    system, other = make(4, bidirectional), make(5, bidirectional).take(np.arange(3))
    a, b = (impulse_response(s, horizon or LONG) for s in (system, other))
    with jax.enable_x64(True):
        norm = jax.jit(lambda s, o: squared_norm(minus(parts_of(s), parts_of(o)), horizon=horizon))
        np.testing.assert_allclose(norm(system, other), energy(a - b), rtol=1e-12)
        found = relative_error(system, other, horizon=horizon)
    np.testing.assert_allclose(found, np.sqrt(energy(a - b) / energy(a)), rtol=1e-12)


def cheapest_removals(system: DiagonalSSM) -> tuple[list[int], list[float]]:
    """Removes one mode after the other, the error measured on the impulse response each time."""
    system, left, costs, before = without_feedthrough(system), list(range(P)), [], 0.0
    order: list[int] = []
    while left:
        prices = {i: energy(impulse_response(system.take(np.array([*order, i])), LONG)) for i in left}
        chosen = min(prices, key=lambda i: prices[i])
        costs.append(prices[chosen] - before)
        before = prices[chosen]
        order.append(chosen)
        left.remove(chosen)
    return order, costs


@pytest.mark.few(2)
@both
@pytest.mark.parametrize("seed", range(4))
def test_the_elimination_removes_what_a_search_would_remove(bidirectional: bool, seed: int) -> None:
    system = make(10 + seed, bidirectional)
    order, costs = cheapest_removals(system)
    found = scores(Method(variant="gram"), system)
    assert np.argsort(found).tolist() == order
    np.testing.assert_allclose(found[order], np.maximum.accumulate(costs), rtol=1e-9)


def test_modes_that_cancel_are_seen_by_the_set_and_not_by_the_modes() -> None:
    """Two equal poles with opposite outputs add up to nothing."""
    system = make(6)
    Lambda, B, C, Delta = (np.array(x) for x in (system.Lambda, system.B, system.C, system.Delta))
    Lambda[1], B[1], Delta[1], C[:, 1] = Lambda[0], B[0], Delta[0], -C[:, 0]
    twins = changed(system, Lambda=Lambda, B=B, C=100 * C, Delta=Delta)
    twins = changed(twins, C=np.concatenate([100 * C[:, :2], C[:, 2:]], axis=1))
    # The first costs what it is worth alone, and its twin then gives all of that back.
    found = scores(Method(variant="gram"), twins)
    assert set(np.argsort(scores(Method(), twins))[-2:]) == {0, 1}
    order, _ = cheapest_removals(twins)
    assert np.argsort(found).tolist() == order


def test_scores_tell_the_order_whatever_the_costs() -> None:
    order, costs = np.array([2, 0, 3, 1, 4]), np.array([0.0, 0.0, 5.0, -1.0, np.inf])
    with jax.enable_x64(True):
        found = np.asarray(scores_of(jnp.asarray(order), jnp.asarray(costs)))
    assert (found > 0).all() and (np.diff(found[order]) > 0).all()
    np.testing.assert_allclose(found[[3, 1]], 5, rtol=1e-11)
    assert found[0] < 1e-300 and np.isinf(found[4])


# ---- both variants


@pytest.mark.parametrize("variant", ["modes", "gram"])
@both
def test_protected_modes_stay_and_do_not_disturb_the_others(variant: str, bidirectional: bool) -> None:
    system = make(7, bidirectional)
    Lambda = np.array(system.Lambda)
    Lambda[1], Lambda[3] = 0.2j, 3.0 + 1j
    found = scores(Method(variant=variant, unstable="protect"), changed(system, Lambda=Lambda))
    assert np.isinf(found[[1, 3]]).all()
    others = [0, 2, 4]
    np.testing.assert_allclose(
        found[others], scores(Method(variant=variant), system.take(np.array(others))), rtol=1e-12
    )


@pytest.mark.parametrize("variant", ["modes", "gram"])
def test_scores_belong_to_the_map_not_to_its_coordinates(variant: str) -> None:
    system, order = make(8, bidirectional=True), np.random.default_rng(0).permutation(P)
    scale = complex_normal(np.random.default_rng(1), P)
    rescaled = changed(
        system,
        B=scale[:, None] * np.asarray(system.B),
        C=np.asarray(system.C) / scale,
        C_backward=np.asarray(system.C_backward) / scale,
    )
    expected = scores(Method(variant=variant), system)
    np.testing.assert_allclose(scores(Method(variant=variant), rescaled), expected, rtol=1e-9)
    np.testing.assert_allclose(scores(Method(variant=variant), system.take(order)), expected[order], rtol=1e-9)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"(?s)reduction.variant 'grams'.*nearest first: gram, modes"):
        Method(variant="grams")
    with pytest.raises(
        UserError, match=r"reduction.variant=gram .* reduction.score=released and reduction.eps=0 belong"
    ):
        Method(variant="gram", score="released")
    with pytest.raises(UserError, match=r"reduction.horizon=sequence: the length .* not known here. Use infinite"):
        scores(Method(horizon="sequence"), make(0))


# ---- allocations for scores that are errors


def test_shares_of_a_state_and_of_a_tail() -> None:
    ranked = np.array([4.0, 3.0, 2.0, 1.0])
    with jax.enable_x64(True):
        np.testing.assert_allclose(greedy(jnp.asarray(ranked)), ranked / 10, rtol=1e-15)
        np.testing.assert_allclose(tolerance(jnp.asarray(ranked)), [1, 0.6, 0.3, 0.1], rtol=1e-15)
        for priority in (greedy, tolerance):
            np.testing.assert_array_equal(priority(jnp.zeros(3)), 0)
            np.testing.assert_allclose(priority(jnp.asarray(7 * ranked)), priority(jnp.asarray(ranked)), rtol=1e-15)


def test_greedy_shares_leave_the_least_sum_of_relative_errors() -> None:
    """Against all ways to share a budget among three layers."""
    rng = np.random.default_rng(3)
    layers = [np.sort(rng.exponential(scale, 4))[::-1] for scale in (1.0, 10.0, 0.1)]
    with jax.enable_x64(True):
        shares = np.concatenate([np.asarray(greedy(jnp.asarray(h))) for h in layers])

    def lost(orders: tuple[int, ...]) -> float:
        return sum(h[r:].sum() / h.sum() for h, r in zip(layers, orders, strict=True))

    for kept in range(3, 12):
        least = min(lost(orders) for orders in itertools.product(range(5), repeat=3) if sum(orders) == kept)
        np.testing.assert_allclose(np.sort(shares)[: 12 - kept].sum(), least, rtol=1e-12)
