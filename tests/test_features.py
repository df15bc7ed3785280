"""Narrower networks: which features go, that nothing is lost where others tell them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from test_axes import trained
from test_stages import job

import s5c
from s5c import axes
from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.pipeline.context import Context
from s5c.pipeline.line import run
from s5c.pipeline.narrowed import narrowed
from s5c.pipeline.search import Memory, largest_ratio
from s5c.pipeline.targets import check
from s5c.reduction.features import RIDGE, Reader, eliminate
from s5c.reduction.target import Target
from s5c.ssm.system import DiagonalSSM
from s5c.units import Scale, Targets

# ---- which features go


def lost(readers: list[Reader], kept: np.ndarray) -> float:
    """What all readers lose without some features, by the covariance of what a regression leaves."""
    total = 0.0
    for covariance, weight in readers:
        S = covariance + RIDGE * np.diag(np.diag(covariance))
        told = S[:, kept] @ np.linalg.solve(S[np.ix_(kept, kept)], S[kept])
        total += np.sum(weight * (S - told)) / np.sum(weight * S)
    return total


def test_every_step_takes_the_feature_whose_loss_is_the_least(rng: np.random.Generator) -> None:
    """Against the losses of all features that could go, each from its own regression."""
    readers = []
    for _ in range(3):
        signals, W = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 8)), rng.normal(size=(4, 8))
        signals += 0.3 * rng.normal(size=(40, 8))
        readers.append(Reader(signals.T @ signals, W.T @ W))
    left = np.arange(8)
    for count in range(7, 0, -1):
        tried = [lost(readers, np.delete(left, j)) for j in range(len(left))]
        left = np.delete(left, int(np.argmin(tried)))
        np.testing.assert_array_equal(np.flatnonzero(eliminate(readers, count)), left)


def test_features_that_are_never_there_go_first(rng: np.random.Generator) -> None:
    signals = rng.normal(size=(50, 6))
    signals[:, [1, 4]] = 0
    kept = eliminate([Reader(signals.T @ signals, np.eye(6))], 4)
    np.testing.assert_array_equal(np.flatnonzero(kept), [0, 2, 3, 5])


# ---- a network that holds every feature twice

NETWORKS: list[dict[str, Any]] = [
    *({"family": family} for family in ("s5", "s4d", "dss")),
    {"bidirectional": True, "spec": networks.TOKENS},
    {"norm": "layer", "activation": "full_glu", "discretisation": "bilinear"},
    {"prenorm": False, "activation": "lqo"},
    {"activation": "half_glu2", "family": "s4d", "bidirectional": True},
    {"spec": InputSpec(2, 2, targets=Targets((1.0, 2.0), (2.0, 0.5), True), scale=Scale((1.0, 0.0), (2.0, 1.0)))},
]


def twice(model: Classifier, weights: dict[str, Any]) -> tuple[Classifier, dict[str, Any]]:
    """Returns a network with two copies of every feature that answers the same."""

    def system(one: DiagonalSSM) -> DiagonalSSM:
        if one.Lambda.ndim == 2:
            return jax.tree.map(lambda x: jnp.concatenate([x, x]), one)
        backward = None if one.C_backward is None else jnp.concatenate([one.C_backward] * 2)
        C, D = jnp.concatenate([one.C] * 2), jnp.concatenate([one.D] * 2)
        return dataclasses.replace(one, B=jnp.concatenate([one.B] * 2, 1) / 2, C=C, D=D, C_backward=backward)

    def along(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        if "seq" in names or names[-3:] == ["params", "decoder", "bias"]:
            return leaf
        if names[-1] != "kernel":
            return jnp.concatenate([leaf, leaf])
        if "decoder" in names:
            return jnp.concatenate([leaf, leaf]) / 2
        wide = jnp.concatenate([leaf, leaf], 1)
        return wide if names[-2] == "encoder" else jnp.concatenate([wide, wide]) / 2

    wide = dataclasses.replace(model.config, d_model=2 * model.config.d_model)
    found: Any = jax.tree_util.tree_map_with_path(along, weights)
    with jax.enable_x64(True):
        systems = [system(one) for one in surgery.systems(weights["params"], model.config)]
    params, config = surgery.with_systems(found["params"], systems, wide)
    return model.clone(config=config), {**found, "params": params}


def batch(model: Classifier, rng: np.random.Generator) -> Any:
    inputs, lengths = networks.batch_for(model.spec, rng)
    kind = dataclasses.make_dataclass("Batch", ["inputs", "lengths", "weights"])
    held = None if lengths is None else np.asarray(lengths)
    return kind(np.asarray(inputs), held, np.ones(len(inputs), np.float32))


@pytest.mark.parametrize(
    "options", [NETWORKS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in NETWORKS[1:])], ids=str
)
def test_copies_go_and_the_answers_stay(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the rounding of single precision, once nothing pulls the regressions away from what is exact."""
    monkeypatch.setattr("s5c.pipeline.narrowed.RIDGE", 1e-8)
    rng = np.random.default_rng(3)
    model = networks.network(**options)
    weights = networks.weights_of(model, rng)
    weights = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * (0.1 if path[-1].key == "B" else 1), weights)
    wide, doubled = twice(model, weights)
    seen = [batch(model, rng) for _ in range(16)]
    inputs, lengths = networks.batch_for(model.spec, rng)  # none of those
    wanted = model.apply(weights, inputs, lengths)
    np.testing.assert_allclose(wide.apply(doubled, inputs, lengths), wanted, rtol=1e-3, atol=1e-4)
    found = narrowed(wide, doubled, model.config.d_model, lambda: seen)
    first, second = np.split(found.kept, 2)
    assert (first != second).all(), "one of two copies stays"
    assert found.model.config.d_model == model.config.d_model
    np.testing.assert_allclose(found.model.apply(found.weights, inputs, lengths), wanted, rtol=1e-3, atol=1e-4)


# ---- in a reduction


def test_states_are_removed_from_the_narrow_network() -> None:
    context = Context(trained(), job("last", features=0.5), Path("nowhere"))
    before = trained().model.config.d_model
    assert context.trained.model.config.d_model == before // 2 and context.given is trained()
    assert context.notes[0] == f"{before // 2} of {before} features between the layers stay."
    one, other = (run(context, Target("ratio", ratio)) for ratio in (0.0, 0.5))
    assert one.model.config.d_model == other.model.config.d_model == before // 2
    assert sum(other.orders) == sum(one.orders) // 2
    assert other.notes[0] == context.notes[0]
    held = np.asarray(one.model.apply(one.weights, jnp.asarray(trained().splits.test.inputs)))
    assert np.isfinite(held).all()


def test_parameters_and_bytes_are_counted_of_the_given_network() -> None:
    full = surgery.parameters(trained().weights["params"], trained().model.config).total
    context = Context(trained(), job("last", features=0.5, params=0.6), Path("nowhere"))
    network = run(context, Target("params", 0.6))
    left = surgery.parameters(network.weights["params"], network.model.config).total
    assert 0.3 * full < left <= 0.4 * full
    asked = job("last", features=0.5, params=0.9)
    network = trained()
    of = network.model.config, network.model.state_dims, network.splits, lambda: network.weights["params"]
    check(asked, *of, network.model.spec)
    with pytest.raises(UserError, match="cannot be reached"):
        check(job("last", params=0.9), *of, network.model.spec)


def test_the_front_door_saves_and_loads_a_narrow_network(tmp_path: Path) -> None:
    model = s5c.load("zoo:digits_s5")
    x = np.random.default_rng(0).uniform(size=(8, 64, 1)).astype(np.float32)
    small = s5c.reduce(model, "width", ratio=0.5, data=x, calibration={"sequences": 8})
    assert small.network.config.d_model == model.network.config.d_model // 2
    s5c.save(small, tmp_path / "small")
    again = s5c.load(tmp_path / "small")
    np.testing.assert_array_equal(again.predict(x), small.predict(x))
    state, running = small.init_state(len(x)), None
    for k in range(x.shape[1]):
        state, running = small.step(state, x[:, k])
    np.testing.assert_allclose(running, small.predict(x), rtol=1e-4, atol=1e-4)


def test_an_arm_says_how_many_features_went() -> None:
    assert axes.name(job("last", features=0.25)) == "last +25 % fewer features"
    assert axes.name(job("width")) == "width"
    assert axes.name(job("last")) == "last"


# ---- what is refused


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    with pytest.raises(UserError, match=r"reduction\.features=.*lies between 0 and 1"):
        job("last", features=share)


@pytest.mark.parametrize("preset", ["fresh", "unstructured_random", "none"])
def test_methods_that_keep_nothing_of_the_layers_refuse_it(preset: str) -> None:
    with pytest.raises(UserError, match=r"reduction\.features=0\.5"):
        job(preset, features=0.5)


def test_what_cannot_be_narrowed_is_a_message(tmp_path: Path) -> None:
    config = networks.network().config
    tiny = job("last", features=0.01)
    with pytest.raises(UserError, match=r"features=0\.01 changes nothing: it is less than half of one of 6 features"):
        axes.check_network(tiny, config)
    feedforward = networks.network(activation="geglu").config
    with pytest.raises(UserError, match=r"geglu.* keep their width"):
        axes.check_network(job("last", features=0.5), feedforward)
    with pytest.raises(UserError, match="features are removed once"):
        job("last", features=0.5, rounds=2, finetune={**job("last").ungrouped().get("finetune", {}), "epochs": 1})
    values = iter([0.9, 0.5])
    with pytest.raises(UserError, match="50 % fewer features alone cost 40 points"):
        largest_ratio(
            trained(),
            job("last", features=0.5, max_drop=1.0),
            tmp_path,
            lambda *_: next(values),
            Memory(tmp_path / "s", ""),
        )
    pairs = networks.network(spec=networks.PAIRS)
    own = dataclasses.replace(trained(), model=pairs, weights=networks.weights_of(pairs, np.random.default_rng(0)))
    with pytest.raises(UserError, match="compare two documents"):
        Context(own, job("last", features=0.5), Path("nowhere"))


def test_a_network_that_does_not_stay_finite_is_a_message() -> None:
    weights = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + (2000.0 if path[-1].key == "Lambda_re" else 0.0), trained().weights
    )
    with pytest.raises(UserError, match="Layer 0 does not stay finite on the calibration sequences"):
        Context(dataclasses.replace(trained(), weights=weights), job("last", features=0.5), Path("nowhere"))
