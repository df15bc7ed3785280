"""What every selection does to networks that run one system per channel (S4D, DSS), and how they take it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from channel_layers import kernel_of
from networks import LENGTH, PIXELS, batch_for, network, weights_of
from reductions import SELECTIONS, TRAITS, same

from s5c.evaluation.cost import size
from s5c.model import surgery
from s5c.model.classifier import Classifier, resized
from s5c.model.layerwise import log_probs
from s5c.model.network import layer_names
from s5c.model.roles import outputs_of
from s5c.reduction import stage
from s5c.reduction.contract import load_allocation

pytestmark = pytest.mark.slow  # compiles two families for every method

H, P = 3, 4
SLOTS = 2 * H * P
NETWORKS: dict[str, dict[str, Any]] = {
    "s4d": {"family": "s4d", "bidirectional": True, "B": "free", "discretisation": "bilinear"},
    "dss": {"family": "dss"},
}
FROM_PARAMETERS = [name for name, method in SELECTIONS.items() if not getattr(method, "needs_moments", False)]
"""What looks at data is tested on channels in test_calibration.py."""
every_case = pytest.mark.parametrize(("name", "kind"), [(n, kind) for kind in NETWORKS for n in FROM_PARAMETERS])
INPUTS, _ = batch_for(PIXELS, np.random.default_rng(1))


@functools.cache
def trained(kind: str) -> tuple[Classifier, dict[str, Any]]:
    model = network(PIXELS, n_layers=2, d_model=H, activation="half_glu1", **NETWORKS[kind])
    weights = weights_of(model, np.random.default_rng(0))
    for name in layer_names(model.config):  # slow enough for states to matter within a short sequence
        seq = weights["params"]["encoder"][name]["seq"]
        seq |= {"log_step": seq["log_step"] + 2, **{n: 5 * seq[n] for n in outputs_of(model.config) if n in seq}}
    return model, weights


@functools.cache
def ranked(name: str, kind: str, allocation: str = "normalised") -> stage.Ranking:
    model, weights = trained(kind)
    layers = surgery.layers(weights, model.config, horizon=LENGTH)
    return stage.rank(SELECTIONS[name], load_allocation(allocation), layers, seed=0)


def outputs(model: Classifier, weights: dict[str, Any], params: dict[str, Any], config: Any) -> np.ndarray:
    small = resized(model.clone(config=config), surgery.state_dims(params, config))
    return np.asarray(log_probs(small, {**weights, "params": params}, INPUTS, None))


@every_case
def test_the_order_is_honoured_and_every_layer_keeps_one(name: str, kind: str) -> None:
    ranking = ranked(name, kind)
    assert [s.shape for s in ranking.scores] == [(H, P)] * 2 and sorted(ranking.order) == list(range(SLOTS))
    before = np.ones(SLOTS, bool)
    for ratio, removed in {0.0: 0, 0.25: 6, 0.5: 12, 0.9: 22, 0.999: 22}.items():
        selected = stage.select(ranking, ratio)
        assert sum(selected.orders) == SLOTS - (0 if TRAITS[name].keeps_all else removed)
        assert min(selected.orders) >= 1
        kept = np.concatenate([keep.ravel() for keep in selected.keep])
        assert not (kept & ~before).any()
        before = kept
        for scores, keep in zip(ranking.scores, selected.keep, strict=True):
            best_first = np.argsort(-scores.ravel(), kind="stable")
            np.testing.assert_array_equal(np.flatnonzero(keep), np.sort(best_first[: keep.sum()]))


@every_case
def test_masked_equals_shrunk(name: str, kind: str) -> None:
    model, weights = trained(kind)
    params, ranking = weights["params"], ranked(name, kind)
    untouched, config = surgery.take(params, stage.select(ranking, 0).keep, model.config)
    assert same(untouched, params) and config == model.config

    selected = stage.select(ranking, 0.6)
    shrunk, config = surgery.take(params, selected.keep, model.config)
    widths = surgery.state_dims(shrunk, config)
    assert widths == tuple(counts.max() for counts in selected.counts)
    small = resized(model.clone(config=config), widths)
    assert size(small, shrunk, 1).states == H * sum(widths)
    masked = surgery.mask(params, selected.keep, model.config)
    expected = outputs(model, weights, masked, model.config)
    np.testing.assert_allclose(outputs(model, weights, shrunk, config), expected, atol=1e-5)
    if not TRAITS[name].keeps_all:
        assert np.abs(outputs(model, weights, params, model.config) - expected).max() > 1e-3


@every_case
def test_equal_shares_leave_every_channel_the_same(name: str, kind: str) -> None:
    ranking = ranked(name, kind, "equal")
    for ratio, kept in ((0.25, 3), (0.5, 2), (0.75, 1)):
        selected = stage.select(ranking, ratio)
        expected = P if TRAITS[name].keeps_all else kept
        assert all((counts == expected).all() for counts in selected.counts)
        for scores, keep in zip(ranking.scores, selected.keep, strict=True):
            assert (np.where(keep, scores, np.inf).min(1) >= np.where(keep, -np.inf, scores).max(1)).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_channels_that_keep_less_are_filled_up_with_silence(kind: str) -> None:
    model, weights = trained(kind)
    keep = [np.array([[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool), np.eye(H, P, dtype=bool)]
    shrunk, config = surgery.take(weights["params"], keep, model.config)
    assert surgery.state_dims(shrunk, config) == (3, 1)
    masked = surgery.mask(weights["params"], keep, model.config)
    full, small = surgery.systems(masked, model.config), surgery.systems(shrunk, config)
    for system, whole, mask in zip(small, full, keep, strict=True):
        np.testing.assert_allclose(kernel_of(system, 8), kernel_of(whole, 8), rtol=1e-10, atol=1e-10)
        for poles, original, kept in zip(np.asarray(system.Lambda), np.asarray(whole.Lambda), mask, strict=True):
            np.testing.assert_array_equal(poles[: kept.sum()], original[kept])  # bit for bit, and in the same order
        silent = np.arange(mask.sum(1).max()) >= mask.sum(1)[:, None]
        assert (np.asarray(system.C)[:, 0][silent] == 0).all() and (np.asarray(system.C)[:, 0][~silent] != 0).all()
    assert (kernel_of(small[0], 8)[:, 2] == 0).all()  # a channel that keeps nothing
    again, _ = surgery.take(shrunk, [np.ones((H, 3), bool), np.ones((H, 1), bool)], config)
    assert same(again, shrunk)
