"""Tasks with real targets: metrics against formulas written out, their errors, masks, units, and what tables say."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import network

import s5c
from s5c import metric as metrics
from s5c.data.batching import Batch
from s5c.evaluation import cost
from s5c.evaluation.metrics import Values, predict, restored
from s5c.metric import ACCURACY, METRICS, REGRESSION, changed, named, sums_of
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.readout import logits, refitted
from s5c.model.sensitivity import squared_gradients
from s5c.networks import Model
from s5c.pipeline.sensitivity import gradient_weights
from s5c.report.average import aggregate
from s5c.report.collect import studies
from s5c.report.row import as_row
from s5c.report.summary import accuracies, largest_ratios
from s5c.training.objective import Inputs, objective_of

UNITS = ((3.0, -200.0), (2.0, 50.0))
SEQUENCE = InputSpec(2, 2, targets=(*UNITS, False), scale=((1.0, -5.0), (2.0, 0.5)))
STEPS = InputSpec(2, 2, targets=(*UNITS, True), scale=((1.0, -5.0), (2.0, 0.5)))


def answers(rng: np.random.Generator, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    y = rng.normal(size=(n, 2)) * UNITS[1] + UNITS[0]
    return y, y + 0.3 * rng.normal(size=y.shape) * UNITS[1]


def by_the_book(y: np.ndarray, found: np.ndarray) -> dict[str, float]:
    error, spread = found - y, y - y.mean(0)
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "r2": float(np.mean(1 - (error**2).sum(0) / (spread**2).sum(0))),
        "fit": float(np.mean(1 - np.linalg.norm(error, axis=0) / np.linalg.norm(spread, axis=0))),
    }


# ---- metrics


def test_metrics_by_sums_are_those_by_the_book(rng: np.random.Generator) -> None:
    y, found = answers(rng)
    for far in (0.0, 1e6):  # the sums are about a number near the mean, so that nothing cancels
        each = sums_of(found + far, y + far, np.asarray(UNITS[0]) + far, np.ones(len(y)))
        whole = each.sum(0)
        for name, value in by_the_book(y, found).items():
            of = REGRESSION[name].of
            assert of is not None and of(whole) == pytest.approx(value, rel=1e-6)
    half = sums_of(found, y, np.zeros(2), np.arange(len(y)) < 20).sum(0)
    assert REGRESSION["mae"].of is not None
    assert REGRESSION["mae"].of(half) == pytest.approx(by_the_book(y[:20], found[:20])["mae"])


def test_direction_and_unit_belong_to_the_metric() -> None:
    rmse, fit = METRICS["rmse"], METRICS["fit"]
    assert (rmse.lost(2.0, 2.5), rmse.change(2.0, 2.5), rmse.score(2.0)) == (25.0, -25.0, -2.0)
    assert (fit.lost(0.75, 0.5), fit.change(0.5, 0.75), fit.score(0.75)) == (25.0, 25.0, 0.75)
    assert (rmse.told(0.01234), fit.told(0.5), ACCURACY.told(0.9)) == ("RMSE 0.01234", "fit 50.00%", "accuracy 90.00%")
    assert rmse.heading == "test RMSE" and fit.heading == "test fit, %" and ACCURACY.heading == "test accuracy, %"
    for name, targets in (("accuracy", True), ("r2", False), ("nrmse", True)):
        with pytest.raises(s5c.UserError):
            named(name, targets=targets)


@pytest.mark.parametrize("name", REGRESSION)
def test_the_paired_error_is_the_spread_over_draws_of_the_examples(name: str, rng: np.random.Generator) -> None:
    metric, n = REGRESSION[name], 400
    y, full = answers(rng, n)
    now = full + 0.1 * rng.normal(size=y.shape) * UNITS[1]
    sums = [sums_of(one, y, np.asarray(UNITS[0]), np.ones(n)) for one in (full, now)]
    change, error = changed(metric, *sums)
    book = [by_the_book(y, one)[name] for one in (full, now)]
    assert change == pytest.approx(metric.change(*book)) and change < 0
    drawn = []
    for _ in range(300):
        rows = rng.integers(0, n, n)
        assert metric.of is not None
        drawn.append(metric.change(*(metric.of(one[rows].sum(0)) for one in sums)))
    assert error == pytest.approx(np.std(drawn), rel=0.2)
    unpaired = np.hypot(*(np.std([metric.of(one[rng.integers(0, n, n)].sum(0)) for _ in range(99)]) for one in sums))
    assert error < 0.8 * (100 * unpaired if metric.share else 100 * unpaired / book[0])


# ---- network


def weights_of(model: Classifier, length: int = 7) -> Any:
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, length, 2)), None)


def batch(spec: InputSpec, rng: np.random.Generator, length: int = 7) -> Batch:
    """Returns four sequences, one of them filling, whose padding and filling are not even numbers."""
    inputs = rng.normal(size=(4, length, 2)).astype(np.float32)
    lengths = np.array([length, 3, 5, 2], np.int32)
    shape = (4, length, 2) if spec.targets and spec.targets.per_step else (4, 2)
    labels = (rng.normal(size=shape) * UNITS[1] + UNITS[0]).astype(np.float32)
    if len(shape) == 3:
        labels[np.arange(length) >= lengths[:, None]] = np.nan
    labels[3] = np.nan
    return Batch(inputs, labels, lengths, np.array([1, 1, 1, 0], np.float32), np.array([2, 0, 1, 2]))


@pytest.mark.parametrize("spec", [SEQUENCE, STEPS], ids=["sequence", "steps"])
def test_answers_are_linear_in_their_units_and_inputs_are_scaled_inside(
    spec: InputSpec, rng: np.random.Generator
) -> None:
    model, plain = (
        network(spec, n_layers=1),
        network(InputSpec(2, 2, targets=((0, 0), (1, 1), spec.targets[2])), n_layers=1),
    )
    weights = weights_of(model)
    assert jax.tree.map(np.shape, weights) == jax.tree.map(np.shape, weights_of(plain))
    x = rng.normal(size=(3, 7, 2)).astype(np.float32)
    scaled = (x - np.float32([1, -5])) / np.float32([2, 0.5])
    found, inner = model.apply(weights, jnp.asarray(x)), plain.apply(weights, jnp.asarray(scaled))
    np.testing.assert_allclose(found, np.asarray(inner) * UNITS[1] + UNITS[0], rtol=1e-5)
    assert found.shape == ((3, 7, 2) if spec is STEPS else (3, 2))
    assert InputSpec(*json.loads(json.dumps(spec.stored()))) == spec
    assert InputSpec(1, 3).stored() == [1, 3, False, False], "checkpoints of classes stay as they are"
    sizes = [cost.size(one, weights["params"], 7).macs for one in (network(SEQUENCE, n_layers=1), model)]
    assert sizes[1] - sizes[0] == (0 if spec is SEQUENCE else 6 * 6 * 2)


@pytest.mark.parametrize("spec", [SEQUENCE, STEPS], ids=["sequence", "steps"])
def test_loss_and_sums_count_valid_answers_only(spec: InputSpec, rng: np.random.Generator) -> None:
    given = batch(spec, rng)
    inputs = Inputs(*(jnp.asarray(one) for one in given[:4]))
    found = (rng.normal(size=given.labels.shape) * UNITS[1] + UNITS[0]).astype(np.float32)
    objective = objective_of(spec)
    rows = [(0, 7), (1, 3), (2, 5)]
    if spec is STEPS:
        said, right = (np.concatenate([one[i, :end] for i, end in rows]) for one in (found, given.labels))
    else:
        said, right = found[:3], given.labels[:3]
    results = objective.results([objective.totals(jnp.asarray(found), inputs)] * 2)
    for name, value in by_the_book(right.astype(float), said.astype(float)).items():
        assert results[name] == pytest.approx(value, rel=1e-4)
    assert results["loss"] == pytest.approx(np.mean(((said - right) / UNITS[1]) ** 2), rel=1e-5)
    assert objective.loss(jnp.asarray(found), inputs, None) == pytest.approx(results["loss"], rel=1e-5)
    taught = objective.loss(jnp.asarray(found), inputs, lambda _: jnp.asarray(found) + 2)
    assert taught == pytest.approx(np.mean((2 / np.asarray(UNITS[1])) ** 2), rel=1e-5)
    gradient = jax.grad(lambda one: objective.loss(one, inputs, None))(jnp.asarray(found))
    assert np.isfinite(gradient).all(), "what does not count has no gradient, whatever it is"


@pytest.mark.parametrize("spec", [SEQUENCE, STEPS], ids=["sequence", "steps"])
def test_predictions_are_in_the_order_of_the_split(spec: InputSpec, rng: np.random.Generator) -> None:
    model = network(spec, n_layers=1)
    weights, given = weights_of(model), batch(spec, rng)
    said = predict(model, weights, [given])
    assert isinstance(said, Values)
    whole = np.asarray(model.apply(weights, jnp.asarray(given.inputs), jnp.asarray(given.lengths)))
    order = [(1, 3), (2, 5), (0, 7)]  # by places
    expected = np.concatenate([whole[i, :end] if spec is STEPS else whole[i : i + 1] for i, end in order])
    np.testing.assert_allclose(said.answers, expected, rtol=1e-4, atol=1e-4)
    assert said.steps.tolist() == ([3, 5, 7] if spec is STEPS else [1, 1, 1])
    assert said.finite.tolist() == [True] * 3 and said.agreement(said) == 1
    again = restored({key: np.array(value) for key, value in said.stored().items()})
    assert again.metrics == said.metrics and isinstance(again, Values)
    broken = Values(np.where(np.arange(len(said.answers))[:, None] == 0, np.nan, said.answers), *said[1:])
    assert broken.finite.tolist() == [False, True, True] and set(broken.metrics.values()) == {None}


def test_the_readout_solved_again_finds_the_answers_of_the_full_network(rng: np.random.Generator) -> None:
    model = network(STEPS, n_layers=1)
    weights, batches = weights_of(model), [batch(STEPS, rng, 30) for _ in range(3)]
    decoder = weights["params"]["decoder"]
    lost = {**weights, "params": {**weights["params"], "decoder": jax.tree.map(lambda one: one + 0.5, decoder)}}
    found = refitted(logits(model, weights, batches), model, lost, batches, ridge=1e-9)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(found["params"]["decoder"][name], decoder[name], atol=2e-3)


def test_gradients_are_those_of_answers_in_sizes_of_the_targets(rng: np.random.Generator) -> None:
    model = network(STEPS, n_layers=1, activation="gelu")
    weights, given = weights_of(model), batch(STEPS, rng)
    valid = np.arange(7) < np.array([7, 3, 5, 0])[:, None]
    key = jax.random.key(0)
    args = jnp.asarray(given.inputs), None, jnp.asarray(valid)
    found = squared_gradients(model, weights, *args, key)[0]
    wider = InputSpec(2, 2, targets=(UNITS[0], (4.0, 100.0), True), scale=SEQUENCE.scale)
    other = model.clone(spec=wider)
    same = squared_gradients(other, weights, *args, key)[0]
    assert found[0] > 0
    np.testing.assert_allclose(found, same, rtol=1e-5)  # in sizes of the targets the answers are the same
    padded = given._replace(inputs=np.where(valid[..., None], given.inputs, 9.0).astype(np.float32))
    rest = squared_gradients(model, weights, jnp.asarray(padded.inputs), *args[1:], key)[0]
    np.testing.assert_allclose(found, rest, rtol=1e-4)  # answers after the valid steps do not count
    assert gradient_weights(network(STEPS), weights_of(network(STEPS)), lambda: [given]).mean() == pytest.approx(1)


def test_from_python_targets_are_checked_and_steps_keep_their_axis(rng: np.random.Generator) -> None:
    model = Model("toy", network(STEPS, n_layers=1), weights_of(network(STEPS, n_layers=1)), {"step_rescale": 1.0})
    x, lengths = rng.normal(size=(3, 7, 2)), [7, 3, 5]
    found = model.predict(x, lengths=lengths)
    assert found.shape == (3, 7, 2) and np.isnan(found[1, 3:]).all() and np.isfinite(found[1, :3]).all()
    x[1, 3:] = 1e3  # padding is what it was in training, whatever is given
    np.testing.assert_array_equal(model.predict(x, lengths=lengths), found)
    right = np.where(np.isnan(found), np.nan, found + 1)
    scores = model.evaluate(x, right, lengths=lengths)
    assert scores.rmse == pytest.approx(1, rel=1e-4) and scores.examples == 3  # type: ignore[union-attr]
    assert "RMSE" in str(s5c.compare([model])) and "1" in str(s5c.compare([model]))
    for wrong in (np.zeros((3, 2)), np.full((3, 7, 2), np.nan), np.zeros((3, 7, 2), complex), np.zeros(3, int)):
        with pytest.raises(s5c.UserError, match="targets must be finite real numbers of shape"):
            model.evaluate(x, wrong, lengths=lengths)


# ---- reports


def rows(metric: str, scores: list[tuple[str, float, float, float]]) -> list[Any]:
    common = {"task": "toy", "metric": metric, "seed": 0, "trained_id": "a", "orders_full": [8], "params_full": 9}
    return [
        as_row(
            {
                **common, "reduction": name, "ratio": ratio, "target": f"ratio {ratio}", "orders": [8], "params": 9,
                f"test_{metric}": found, f"test_{metric}_full": 2.0, f"val_{metric}": found, "points_lost_se": error,
            }
        )
        for name, ratio, found, error in scores
    ]  # fmt: skip


def test_tables_are_in_the_metric_of_the_task_lower_is_better() -> None:
    given = rows(
        "rmse", [("none", 0.0, 2.0, 0), ("last", 0.5, 2.5, 2.0), ("h2", 0.5, 2.01, 0.3), ("h2", 0.8, 3.0, 1.0)]
    )
    (study,) = studies(given)
    table = accuracies(study)
    assert table.index("| h2 |") < table.index("last"), "best first"
    assert "2.5 (−25.0 ± 2.0)" in table and "2.01 (−0.5 ± 0.3)" in table and "in % of its RMSE" in table
    assert "≤ 1 % lost" in largest_ratios(study) and "| h2 | 0.5 | 0.5 |" in largest_ratios(study).replace("**", "")
    lost = {row["reduction"]: row["points_lost"] for row in aggregate(given) if row["ratio"] == 0.5}
    assert lost == {"last": pytest.approx(25.0), "h2": pytest.approx(0.5)}


def test_metrics_and_columns_have_one_name_each() -> None:
    from s5c.report.row import columns

    known = columns()
    for name in metrics.REGRESSION:
        assert {f"val_{name}", f"test_{name}", f"test_{name}_full"} <= set(known)
