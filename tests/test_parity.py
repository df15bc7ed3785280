"""Agreement with the published S5 code: same weights, same batches, same numbers (see tests/reference/README.md)."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.family.s5 import Config
from s5c.model.published import from_published
from s5c.reduction.contract import load_allocation, load_method
from s5c.reduction.layer import Layer
from s5c.reduction.stage import Ranking, rank
from s5c.training.optimiser import optimiser, schedule
from s5c.training.steps import Inputs, TrainState, make_train_step

CASES = sorted((Path(__file__).parent / "reference").glob("*.npz"))


class Case(NamedTuple):
    """One reference file and what our code makes of it."""

    data: dict[str, np.ndarray]
    config: dict[str, Any]
    model: Classifier
    rates: tuple[optax.Schedule, optax.Schedule]
    state: TrainState  # after the steps
    losses: list[float]
    logits: tuple[np.ndarray, np.ndarray]  # before and after the steps


def weights(case: dict[str, np.ndarray], collection: str, config: Config) -> Any:
    """Returns a collection as nested dictionaries, in our layout."""
    tree: dict[str, Any] = {}
    for key, value in case.items():
        first, *path = key.split("/")
        if first == collection:
            node = tree
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = jnp.asarray(value)
    return jax.tree.map(jnp.asarray, from_published(tree, config))


def batch(data: dict[str, np.ndarray], i: int) -> Inputs:
    lengths = data.get(f"batch{i}/lengths")
    labels = jnp.asarray(data[f"batch{i}/labels"])
    return Inputs(
        jnp.asarray(data[f"batch{i}/inputs"]),
        labels,
        None if lengths is None else jnp.asarray(lengths),
        jnp.ones(len(labels)),
    )


def our_config(c: dict[str, Any]) -> Config:
    renamed = {"d_model": "H", "state_size": "P", "blocks": "J", "discretisation": "discretization"}
    options = {f.name: c[renamed.get(f.name, f.name)] for f in fields(Config) if renamed.get(f.name, f.name) in c}
    return Config(**options)


@pytest.fixture(scope="module", params=CASES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Case:
    """Trains the reference's model for the reference's steps."""
    with np.load(request.param) as archive:
        data = dict(archive)
    c = json.loads(str(data.pop("config")))
    config = our_config(c)
    spec = InputSpec(c["in_dim"], c["n_out"], tokens=c["padded"], pairs=c["retrieval"])
    model = Classifier(config, spec, (config.full_state_dim,) * config.n_layers)
    rate = partial(schedule, warmup_steps=c["warmup_steps"], total_steps=c["total_steps"], minimum=c["lr_min"])
    rates = rate(c["lr"]), rate(c["ssm_lr"])
    params, batch_stats = weights(data, "params", config), weights(data, "batch_stats", config)
    options = {"weight_decay": c["weight_decay"], "grouping": c["opt_config"], "dt_global": c["dt_global"]}
    transform = optimiser(params, lr=rates[0], ssm_lr=rates[1], **options)
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, jax.jit(transform.init)(params))
    apply, step, losses = jax.jit(model.apply), make_train_step(model, transform), []

    def logits(state: TrainState) -> np.ndarray:
        first = batch(data, 0)
        return np.asarray(
            apply({"params": state.params, "batch_stats": state.batch_stats}, first.inputs, first.lengths)
        )

    before = logits(state)
    for i in range(c["steps"]):
        state, metrics = step(state, batch(data, i), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return Case(data, c, model, rates, state, losses, (before, logits(state)))


def test_there_are_references() -> None:
    assert len(CASES) == 5


@pytest.mark.few(1)
def test_outputs_before_training(case: Case) -> None:
    np.testing.assert_allclose(case.logits[0], case.data["logits_init"], atol=1e-5)


def test_losses_of_every_step(case: Case) -> None:
    np.testing.assert_allclose(case.losses, case.data["losses"], rtol=1e-4)


def test_learning_rates_of_every_step(case: Case) -> None:
    ours = [[float(rate(k)) for rate in case.rates] for k in range(case.config["steps"])]
    np.testing.assert_allclose(ours, case.data["learning_rates"], rtol=1e-6)


def test_parameters_after_training(case: Case) -> None:
    """Adam divides by the root mean square of the gradient: where that is tiny, rounding decides the step.

    There the difference is bounded by the length of the steps alone.
    """
    nothing = optax.MaskedNode  # stands in the state of one parameter group for the parameters of the others
    by_group = [nu for _, nu in optax.tree_utils.tree_get_all_with_path(case.state.opt_state, "nu")]
    moments = zip(*(jax.tree.leaves(nu, is_leaf=lambda n: isinstance(n, nothing)) for nu in by_group), strict=True)
    expected = weights(case.data, "params_after", case.model.config)
    assert jax.tree.structure(expected) == jax.tree.structure(case.state.params)
    longest = 2 * case.data["learning_rates"].max(axis=1).sum()
    compared = total = 0
    leaves = zip(jax.tree.leaves(case.state.params), jax.tree.leaves(expected), moments, strict=True)
    for ours, theirs, candidates in leaves:
        (moment,) = (m for m in candidates if not isinstance(m, nothing))
        clear = np.sqrt(moment / (1 - 0.999 ** case.config["steps"])) > 1e-5
        difference = np.abs(ours - theirs)
        assert difference.max() <= longest
        assert difference[clear].max(initial=0) <= 1e-4
        compared += clear.sum()
        total += clear.size
    assert compared > 0.9 * total


def test_batch_statistics_after_training(case: Case) -> None:
    expected = weights(case.data, "batch_stats_after", case.model.config)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), case.state.batch_stats, expected)


def test_outputs_after_training(case: Case) -> None:
    np.testing.assert_allclose(case.logits[1], case.data["logits_after"], atol=1e-5)


# ---- scores


def ranking(case: Case, score: str, name: str = "hinf") -> Ranking:
    """Ranks the reference's own trained weights."""
    config = case.model.config
    systems = surgery.systems(weights(case.data, "params_after", config), config)
    method = load_method(name, {"score": score, "eps": 1e-8})
    return rank(method, load_allocation("normalised"), [Layer(system) for system in systems], seed=0)


def test_hinf_gains(case: Case) -> None:
    for i, scores in enumerate(ranking(case, "paper").scores):
        np.testing.assert_allclose(scores, case.data[f"layers_{i}/hinf_squared"], rtol=1e-3)


@pytest.mark.parametrize("score", ["paper", "released"])
def test_last_scores(case: Case, score: str) -> None:
    for i, priorities in enumerate(ranking(case, score).priorities):
        expected = case.data[f"layers_{i}/last_{score}"]
        best = expected.argmax()
        assert expected[best] == 1
        assert np.isposinf(priorities[best])  # our mark for the best state of a layer, which always stays
        others = np.arange(len(expected)) != best
        np.testing.assert_allclose(priorities[others], expected[others], rtol=2e-4)


# ---- scores of unstable modes


@pytest.fixture(scope="module")
def unstable() -> Case:
    """The reference whose training left modes outside of the unit circle; its own weights, nothing is trained."""
    with np.load(CASES[0].parent / "unstable_bidirectional.npz") as archive:
        data = dict(archive)
    c = json.loads(str(data.pop("config")))
    model = Classifier(our_config(c), InputSpec(c["in_dim"], c["n_out"]), (c["stored_states"],) * c["n_layers"])
    return Case(data, c, model, None, None, [], None)  # type: ignore[arg-type]


def test_the_original_trains_modes_out_of_the_unit_circle(unstable: Case) -> None:
    config = unstable.model.config
    params = weights(unstable.data, "params_after", config)
    there = [unstable.data[f"layers_{i}/unstable"] for i in range(2)]
    assert surgery.unstable_modes(params, config) == [int(mask.sum()) for mask in there] == [3, 4]


def test_energies_of_unstable_modes_are_negative_as_published(unstable: Case) -> None:
    for i, scores in enumerate(ranking(unstable, "paper", "aire").scores):
        np.testing.assert_allclose(scores, unstable.data[f"layers_{i}/energy"], rtol=1e-3)
        np.testing.assert_array_equal(scores < 0, unstable.data[f"layers_{i}/unstable"])


@pytest.mark.parametrize("score", ["paper", "released"])
@pytest.mark.parametrize(("name", "called"), [("hinf", "last"), ("aire", "aire")])
def test_priorities_of_unstable_modes_are_the_published_ones(
    name: str, called: str, score: str, unstable: Case
) -> None:
    """Also AIRE's above 1: where negative energies outweigh the others, two negative numbers are divided."""
    found = ranking(unstable, score, name)
    expected = [unstable.data[f"layers_{i}/{called}_{score}"] for i in range(2)]
    for ours, theirs, scores in zip(found.priorities, expected, found.scores, strict=True):
        others = np.arange(len(theirs)) != scores.argmax()  # the best of a layer always stays
        np.testing.assert_allclose(ours[others], theirs[others], rtol=2e-3)
    beyond = [float(theirs.max()) for theirs in expected]
    assert (max(beyond) > 1) == (called == "aire"), "the reference has such a layer"
    # One threshold for the network: the same states stay as in the published code, at every number of them.
    marked = [np.where(np.isinf(ours), theirs, ours) for ours, theirs in zip(found.priorities, expected, strict=True)]
    np.testing.assert_array_equal(np.argsort(-np.concatenate(marked)), np.argsort(-np.concatenate(expected)))
