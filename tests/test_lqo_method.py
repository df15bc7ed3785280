"""`lqo` as a method: elimination, descent, allocation, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lqo_layers import STEPS, H, P, dense_forms, double_sum, gate_of, layer_of, taps, white_taps
from systems import random_system

from s5c.errors import UserError
from s5c.reduction import stage
from s5c.reduction.contract import load_allocation
from s5c.reduction.layer import Layer
from s5c.reduction.method.lqo import Curves, Method
from s5c.reduction.quadratic import LQO, lqo, white
from s5c.reduction.quadratic_descent import descend
from s5c.reduction.quadratic_elimination import best_outputs, eliminate
from s5c.reduction.removal import marginal_gains
from s5c.ssm.modal import ModalSystem, from_ssm
from s5c.ssm.system import DiagonalSSM, stack

pytestmark = pytest.mark.slow  # compiles searches


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def without_feedthrough(system: DiagonalSSM) -> DiagonalSSM:
    return dataclasses.replace(system, D=0 * system.D)


def relative(full: LQO, reduced: np.ndarray, h: np.ndarray) -> float:
    """Returns the squared relative error by double sums."""
    L, forms = dense_forms(full.form)
    return double_sum(L, forms, h, reduced) / double_sum(L, forms, h)


# ---- elimination


def state_taps(linear: ModalSystem, slots: np.ndarray) -> np.ndarray:
    """Returns the impulse responses of the real states of both directions, one row per (lag, input)."""
    log_a, B = np.asarray(linear.log_a)[slots], np.asarray(linear.B)[slots]
    x = np.exp(np.arange(STEPS)[:, None, None] * log_a[:, None]) * B
    ahead = np.concatenate([x.real, x.imag], axis=1)
    rows = np.zeros((2 * STEPS - 1, 2 * ahead.shape[1], B.shape[1]))
    rows[STEPS - 1 :, : ahead.shape[1]], rows[:STEPS, ahead.shape[1] :] = ahead, ahead[::-1]
    return np.moveaxis(rows, 1, 2).reshape(len(rows) * B.shape[1], 2 * ahead.shape[1])


def test_elimination_removes_the_cheapest_state_and_knows_the_error_left() -> None:
    """Against least squares on impulse responses and double sums, for every state that could go, down to none."""
    rng = np.random.default_rng(20)
    layer = layer_of(rng, bidirectional=True)
    layer = dataclasses.replace(layer, system=without_feedthrough(layer.system))
    full = lqo(layer, horizon=STEPS)
    found = eliminate(full, jnp.zeros(P, bool), horizon=STEPS)
    h = taps(full.linear, STEPS)
    target = np.moveaxis(h, 1, 2).reshape(-1, H)

    def refitted(slots: list[int]) -> float:
        x = state_taps(full.linear, np.asarray(slots, int))
        fitted = x @ np.linalg.lstsq(x, target, rcond=None)[0]
        return relative(full, np.moveaxis(fitted.reshape(len(h), H, H), 1, 2), h)

    left = list(range(P))
    norm = float(found.squared_norm)
    for slot, error in zip(np.asarray(found.order), np.asarray(found.errors)[::-1], strict=False):
        assert error / norm == pytest.approx(refitted(left), abs=1e-9)
        costs = {s: refitted([t for t in left if t != s]) for s in left}
        assert min(costs, key=lambda s: costs[s]) == slot
        left.remove(slot)
    assert float(found.errors[0]) == pytest.approx(norm, rel=1e-12)


def test_errors_of_the_elimination_count_what_states_and_feedthrough_share() -> None:
    rng = np.random.default_rng(21)
    layer = layer_of(rng, bidirectional=True)
    full = lqo(layer, horizon=STEPS)
    found = eliminate(full, jnp.zeros(P, bool), horizon=STEPS)
    kept = found.kept(2)
    log_a, B, _, D = full.linear
    C = best_outputs(full.linear, log_a[kept], B[kept], horizon=STEPS)
    reduced = taps(ModalSystem(log_a[kept], B[kept], C, D), STEPS)
    expected = relative(full, reduced, taps(full.linear, STEPS))
    assert float(found.errors[2] / found.squared_norm) == pytest.approx(expected, rel=1e-8)


def test_protected_states_go_last() -> None:
    full = lqo(layer_of(np.random.default_rng(22), bidirectional=True), horizon=STEPS)
    protected = eliminate(full, jnp.zeros(P, bool), horizon=STEPS).order[:2]
    found = eliminate(full, jnp.zeros(P, bool).at[protected].set(True), horizon=STEPS)
    assert set(found.kept(2).tolist()) == set(np.asarray(protected).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_gains_are_slopes_of_the_greatest_convex_minorant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = np.sort(rng.exponential(size=9))[::-1]
    gains = marginal_gains(errors)
    minorant = errors[0] - np.concatenate([[0], np.cumsum(gains)])
    chords = [
        min(errors[a] + (errors[b] - errors[a]) * (k - a) / (b - a) for a in range(k + 1) for b in range(k, 9) if b > a)
        for k in range(9)
    ]
    np.testing.assert_allclose(minorant, chords, atol=1e-12)
    assert np.all(np.diff(gains) <= 1e-12)


# ---- descent


def test_descent_lowers_the_error_and_moves_nothing_that_must_stay() -> None:
    """An unstable pole, a real pole, an empty slot and an input of gain 0, in one layer on a finite horizon."""
    rng = np.random.default_rng(23)
    layer = layer_of(rng, bidirectional=True)
    assert layer.gate is not None
    gain = jnp.asarray(layer.gate.gain).at[1].set(0)
    layer = dataclasses.replace(layer, gate=dataclasses.replace(layer.gate, gain=gain))
    full = lqo(layer, horizon=STEPS)
    log_a, B, C, D = from_ssm(layer.system)
    start = ModalSystem(
        log_a.at[0].set(1e-3 + 0.3j).at[1].set(log_a[1].real),
        B.at[1].set(B[1].real).at[3].set(0),
        C.at[:, 1].set(C[:, 1].real).at[:, 3].set(0),
        D,
    )
    found, error = descend(full, start, gain, horizon=STEPS, steps=60)
    before, after = (
        relative(full, taps(white(s, layer.gate), STEPS), taps(full.linear, STEPS)) for s in (start, found)
    )
    assert float(error) == pytest.approx(after, rel=1e-9)
    assert after < 0.5 * before
    assert found.log_a[0] == start.log_a[0]
    assert np.all(np.asarray(found.log_a.real)[1:] < 0)
    assert np.abs(found.log_a[1].imag) + np.abs(found.B[1].imag).max() + np.abs(found.C[:, 1].imag).max() < 1e-12
    assert not np.any(found.B[3]) and not np.any(found.C[:, 3])
    np.testing.assert_allclose(found.B[:, 1], start.B[:, 1], rtol=1e-14)
    assert not np.any(found.D - np.concatenate([np.diag(np.diagonal(found.D)), np.zeros((H, H))]))


# ---- the method


TWO = [np.asarray(2)] * 2


def network(seed: int = 30, **options: Any) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer_of(rng, bidirectional=True, **options) for _ in range(2)]


def test_reduced_layers_are_no_worse_than_either_start() -> None:
    layers = network()
    method = Method(steps=60)
    fitted = method.fit(layers, 0)
    assert isinstance(fitted, Curves)
    start = Method(steps=0).fit(layers, 0).reduce(TWO)
    for layer, errors, raw, reduced in zip(layers, fitted.errors, start, fitted.reduce(TWO), strict=True):
        assert layer.gate is not None
        full = lqo(layer, horizon=STEPS)
        h = taps(full.linear, STEPS)
        found, at_start = (np.sqrt(relative(full, white_taps(r.system, layer.gate, STEPS), h)) for r in (reduced, raw))
        assert reduced.system.Lambda.shape == (2,)
        assert found <= at_start * (1 + 1e-9) <= errors[2] * (1 + 2e-9)
        assert found < 0.999 * errors[2]
        assert np.all(np.abs(reduced.system.discretise()[0]) < 1)


def test_full_order_is_the_layer_itself_and_scores_share_the_budget() -> None:
    layers = network()
    method = Method(steps=60)
    fitted = method.fit(layers, 0)
    ranking = stage.rank(method, load_allocation("global"), layers, seed=0, fitted=fitted)
    kept = stage.select(ranking, 0.5).orders
    assert sum(kept) == P
    assert fitted.reduce([np.asarray(P)] * 2)[0].system is layers[0].system
    preferred = dataclasses.replace(method, sensitivity=(1e3, 1.0)).fit(layers, 0)
    ranking = stage.rank(method, load_allocation("global"), layers, seed=0, fitted=preferred)
    assert stage.select(ranking, 0.5).orders == [P - 1, 1]


def test_what_the_budget_is_shared_out_by() -> None:
    """The slopes of the squared error, of the terms of the bound, and of those relative to the layers' norms."""
    layers = network()
    weights = (3.0, 0.5)
    usual = Method(steps=0).fit(layers, 0)
    norms = [
        np.sqrt(double_sum(*dense_forms(full.form), taps(full.linear, STEPS)))
        for full in (lqo(layer, horizon=STEPS) for layer in layers)
    ]
    for shared, power in (("squared", 2), ("error", 1), ("relative", 1)):
        fitted = Method(steps=0, sensitivity=weights, shared=shared).fit(layers, 0)
        for i, weight in enumerate(weights):
            size = 1.0 if shared == "relative" else norms[i] ** power
            expected = weight**power * size * marginal_gains(usual.errors[i] ** power)
            np.testing.assert_allclose(fitted.scores[i], expected, rtol=1e-9)


def test_unstable_states_are_protected_on_a_finite_horizon_and_refused_on_an_infinite_one() -> None:
    layers = network()
    system = layers[0].system
    growing = dataclasses.replace(system, Lambda=system.Lambda.at[2].set(1e-3 / system.Delta[2] + 0.5j))
    layers[0] = dataclasses.replace(layers[0], system=growing)
    fitted = Method(steps=60).fit(layers, 0)
    assert np.isinf(fitted.scores[0]).tolist() == [True, False, False, False]
    radii = np.abs(fitted.reduce(TWO)[0].system.discretise()[0])
    assert sorted(radii > 1) == [False, True]
    assert radii.max() == pytest.approx(np.exp(1e-3), rel=1e-9)
    with pytest.raises(UserError, match=r"Layer 0: 1 poles are not stable, the first in state 2"):
        Method(horizon="infinite").fit(layers, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": "fourier"}, "taylor"),
        ({"layer_weights": "deep"}, "reversed"),
        ({"quadratic": -1.0}, "negative"),
        ({"sensitivity": (1.0, -1.0)}, "one positive number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Method(**options).fit(network(), 0)


def test_layers_with_channels_are_refused_by_name() -> None:
    rng = np.random.default_rng(24)
    channels = Layer(stack([random_system(rng, P, 1) for _ in range(H)]), 30, gate_of(rng, "gelu"))
    with pytest.raises(UserError, match=r"Layer 0.*S4D, DSS"):
        Method().fit([channels], 0)


def test_weights_rise_towards_the_input_and_reverse() -> None:
    layers = network()
    forward, reverse = (Method(layer_weights=name).fit(layers, 0) for name in ("bound", "reversed"))
    assert isinstance(forward, Curves) and isinstance(reverse, Curves)
    assert forward.weights[0] > forward.weights[1] == 1
    np.testing.assert_array_equal(forward.weights, reverse.weights[::-1])
    np.testing.assert_allclose(forward.scores[0], forward.weights[0] ** 2 * np.asarray(reverse.scores[0]), rtol=1e-12)
