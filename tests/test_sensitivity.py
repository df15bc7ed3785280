"""What layers count for the answers: gradients against finite differences, measured weights against known effects."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import PIXELS, network, weights_of

from s5c.data.base import Dataset, Split
from s5c.data.batching import Batch
from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.layerwise import encoded, log_probs
from s5c.model.sensitivity import squared_gradients
from s5c.model.signals import blocks
from s5c.pipeline.calibration import check_alike
from s5c.pipeline.sensitivity import LEAST, divergence_gains, gradient_weights, measured_weights
from s5c.reduction.contract import load_allocation
from s5c.reduction.stage import Ranking, cut, rescored

L = 5


def test_squared_gradients_agree_with_finite_differences(rng: np.random.Generator) -> None:
    """On one sequence of one step: there an output constant of the layer shifts exactly what is differentiated."""
    model = network()
    weights, x = weights_of(model, rng), jnp.asarray(rng.normal(size=(1, 1, 2)), jnp.float32)
    key = jax.random.key(1)
    found, energies = squared_gradients(model, weights, x, None, np.ones((1, 1), bool), key)
    drawn = int(jax.random.categorical(key, log_probs(model, weights, x, None))[0])
    systems = surgery.systems(weights["params"], model.config)

    def answer(layer: int, bias: np.ndarray) -> float:
        with jax.enable_x64(True):
            shifted = dataclasses.replace(systems[layer], bias=jnp.asarray(bias))
        params, config = surgery.with_systems(
            weights["params"], [shifted if i == layer else s for i, s in enumerate(systems)], model.config
        )
        return float(log_probs(model.clone(config=config), {**weights, "params": params}, x, None)[0, drawn])

    signal = encoded(model, weights, x)
    for layer, block in enumerate(blocks(model, weights)):
        y, signal = (lambda s: (s.y, s.out))(block(signal))
        np.testing.assert_allclose(energies[layer], np.sum(np.asarray(y) ** 2), rtol=1e-5)
        step = 2e-2
        slopes = [(answer(layer, step * e) - answer(layer, -step * e)) / (2 * step) for e in np.eye(6)]
        np.testing.assert_allclose(found[layer], np.sum(np.square(slopes)), rtol=2e-2)


def test_steps_that_do_not_count_are_left_out(rng: np.random.Generator) -> None:
    model = network()
    weights, x = weights_of(model, rng), jnp.asarray(rng.normal(size=(2, L, 2)), jnp.float32)
    key, none = jax.random.key(0), np.zeros((2, L), bool)
    parts = [squared_gradients(model, weights, x, None, none | (np.arange(L) == k), key) for k in range(L)]
    whole = squared_gradients(model, weights, x, None, ~none, key)
    for i in range(2):
        np.testing.assert_allclose(sum(part[i] for part in parts), whole[i], rtol=1e-5)


@pytest.fixture
def trained(rng: np.random.Generator) -> Any:
    model = network()
    return SimpleNamespace(model=model, weights=weights_of(model, rng))


def batch(rng: np.random.Generator) -> Batch:
    inputs = rng.normal(size=(4, L, 2)).astype(np.float32)
    return Batch(inputs, np.zeros(4, np.int32), None, np.ones(4, np.float32))


def test_a_layer_without_influence_weighs_next_to_nothing(trained: Any, rng: np.random.Generator) -> None:
    given = batch(rng)
    silent = trained.weights["params"]["encoder"]["layers_1"]
    silent["out2"] = jax.tree.map(jnp.zeros_like, silent["out2"])
    silent["out2"]["bias"] = jnp.full_like(silent["out2"]["bias"], -100.0)  # the gate is shut
    weights = gradient_weights(trained.model, trained.weights, lambda: [given])
    np.testing.assert_allclose(weights, [2, 1e-6], rtol=1e-4)


def test_measured_weights_are_divergence_by_score_removed(trained: Any, rng: np.random.Generator) -> None:
    given, seen = batch(rng), []
    scores = [np.array([4.0, 3.0, 2.0, 1.0]), np.array([np.inf, 0.1, 0.2, 0.3])]

    def reduced(keep: list[np.ndarray]) -> Any:
        seen.append([mask.tolist() for mask in keep])
        return trained.model, {
            **trained.weights,
            "params": surgery.mask(trained.weights["params"], keep, trained.model.config),
        }

    weights = measured_weights(trained.model, trained.weights, lambda: [given], scores, reduced)
    assert seen == [
        [[True, True, False, False], [True] * 4],
        [[True] * 4, [True, False, False, True]],
    ]
    full = np.asarray(log_probs(trained.model, trained.weights, jnp.asarray(given.inputs), None), float)
    costs = []
    for keep, removed in zip(seen, (3.0, 0.3), strict=True):
        masked = surgery.mask(trained.weights["params"], [np.array(k) for k in keep], trained.model.config)
        now = log_probs(trained.model, {**trained.weights, "params": masked}, jnp.asarray(given.inputs), None)
        costs.append(np.mean(np.sum(np.exp(full) * (full - np.asarray(now)), axis=1)) / removed)
    np.testing.assert_allclose(weights, np.array(costs) / np.mean(costs), rtol=1e-4)


def test_gains_share_the_budget_so_that_the_summed_divergences_are_least(
    trained: Any, rng: np.random.Generator
) -> None:
    """Against every way to share it out, by divergences measured here; four states a layer, all orders measured."""
    given = batch(rng)
    scores = [np.array([4.0, 1.0, 2.0, 3.0]), np.array([0.1, np.inf, 0.2, 0.3])]
    ranks = [np.argsort(-own) for own in scores]
    params, config = trained.weights["params"], trained.model.config

    def reduced(keep: list[np.ndarray]) -> Any:
        return trained.model, {**trained.weights, "params": surgery.mask(params, keep, config)}

    gains = divergence_gains(trained.model, trained.weights, lambda: [given], scores, reduced)
    for own, found in zip(scores, gains, strict=True):
        assert (np.argsort(-found, kind="stable") == np.argsort(-own, kind="stable")).all()
        assert (np.isinf(found) == np.isinf(own)).all()
    full = np.asarray(log_probs(trained.model, trained.weights, jnp.asarray(given.inputs), None), float)

    def divergence(layer: int, kept: int) -> float:
        keep = [np.ones(4, bool), np.ones(4, bool)]
        keep[layer] = np.isin(np.arange(4), ranks[layer][:kept])
        now = np.asarray(log_probs(*reduced(keep), jnp.asarray(given.inputs), None), float)
        return max(float(np.mean(np.sum(np.exp(full) * (full - now), axis=1))), LEAST) if kept < 4 else 0.0

    falling = [np.maximum.accumulate([divergence(i, k) for k in (4, 3, 2, 1)])[::-1] for i in range(2)]
    minorants = [
        [
            min(y[a] + (y[b] - y[a]) * (k - a) / (b - a) for a in range(k + 1) for b in range(k, 4) if b > a)
            for k in range(4)
        ]
        for y in falling
    ]
    for i, minorant in enumerate(minorants):
        np.testing.assert_allclose(gains[i][ranks[i][1:]], -np.diff(minorant), rtol=1e-4, atol=1e-9)
    ranking = rescored(
        Ranking(scores, scores, np.arange(8)), load_allocation("global"), [np.array(own) for own in gains]
    )
    for kept in range(2, 9):
        orders = cut(ranking, kept).orders
        best = min(minorants[0][a - 1] + minorants[1][kept - a - 1] for a in range(1, 5) if 1 <= kept - a <= 4)
        assert sum(minorants[i][k - 1] for i, k in enumerate(orders)) == pytest.approx(best, rel=1e-4, abs=1e-9)


def test_a_layer_whose_states_cost_nothing_gives_them_up_in_the_order_of_its_scores(
    trained: Any, rng: np.random.Generator
) -> None:
    given, scores = batch(rng), [np.array([1.0, 4.0, 3.0, 2.0]), np.array([1.0, 4.0, 3.0, 2.0])]
    gains = divergence_gains(
        trained.model, trained.weights, lambda: [given], scores, lambda keep: (trained.model, trained.weights)
    )
    assert [np.argsort(-found).tolist() for found in gains] == [[1, 2, 3, 0]] * 2


def test_sequences_of_another_kind_are_refused() -> None:
    def made(**options: Any) -> Dataset:
        none = Split(np.zeros((1, L, 1), np.float32), np.zeros(1, np.int64))
        return Dataset("digits", "here", none, none, **{"features": PIXELS.features, "classes": 3, **options})

    check_alike(made(classes=7), made())
    for options in ({"tokens": True}, {"features": 3}, {"pairs": True}):
        with pytest.raises(UserError, match="inputs are not of the kind"):
            check_alike(made(**options), made())
