"""Calibration on whole networks: what layers see, the way from front to back, new statistics of the norms."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import PAIRS, PIXELS, TOKENS, network, weights_of

from s5c.data.base import Split, Splits
from s5c.data.batching import Batch
from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.family import s4d
from s5c.model.layerwise import log_probs
from s5c.model.normalisation import recalibrated
from s5c.pipeline import calibration
from s5c.reduction.method.calibrated import Method
from s5c.reduction.refit.calibrated import Refit
from s5c.reduction.slots import kept
from s5c.ssm.system import DiagonalSSM

N, L, BATCH = 6, 12, 4
KEEP = [np.array([True, False, True, True]), np.array([False, True, False, True])]


def s4d_network(**options: Any) -> Classifier:
    config = s4d.Config(n_layers=2, d_model=6, state_size=8, **options)
    return Classifier(config, PIXELS, (4, 4))


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "s5": lambda: network(),
    "s5 tokens": lambda: network(TOKENS, bidirectional=True, activation="half_glu2"),
    "s5 pairs": lambda: network(PAIRS, prenorm=False, activation="full_glu"),
    "s4d": lambda: s4d_network(bidirectional=True, norm="layer", activation="gelu"),
}


@functools.cache
def made(name: str) -> tuple[Classifier, dict[str, Any], list[Batch]]:
    """Returns a network, weights, and six examples of up to twelve steps in batches of four, the last one filled up."""
    model, rng = NETWORKS[name](), np.random.default_rng(0)
    return model, weights_of(model, rng), batches(model.spec, rng)


def batches(spec: InputSpec, rng: np.random.Generator, size: int = BATCH) -> list[Batch]:
    rows = (2, N) if spec.pairs else (1, N)
    if spec.tokens:
        inputs, lengths = rng.integers(0, spec.features, (*rows, L)), rng.integers(1, L + 1, rows)
    else:
        inputs, lengths = rng.normal(size=(*rows, L, spec.features)).astype(np.float32), None
    found = []
    for first in range(0, N, size):
        real = min(size, N - first)
        pick = np.concatenate([np.arange(first, first + real), np.full(size - real, first)])

        def joined(x: np.ndarray, pick: np.ndarray = pick) -> np.ndarray:
            return np.concatenate([part[pick] for part in x])

        weights = (np.arange(size) < real).astype(np.float32)
        ends = None if lengths is None else joined(lengths)
        found.append(Batch(joined(inputs), np.zeros(size, np.int32), ends, weights))
    return found


@functools.cache
def applied(model: Classifier) -> Any:
    """Returns the compiled network with the outputs of all its modules."""

    def recorded(module: Any, _: str) -> bool:
        return module.name in ("norm", "seq") or str(module.name).startswith("layers_")

    def run(weights: Any, inputs: Any) -> Any:
        _, found = model.apply(weights, inputs, None, capture_intermediates=recorded, mutable=["intermediates"])
        return found["intermediates"]["encoder"]

    return jax.jit(run)


def seen(name: str, model: Classifier, weights: Any, layer: int) -> tuple[np.ndarray, ...]:
    """Returns u, y and validity of one layer over all batches, from the network as a whole."""
    found: list[tuple[np.ndarray, ...]] = []
    for batch in made(name)[2]:
        inside = applied(model)(weights, batch.inputs)[f"layers_{layer}"]
        u = inside["norm"]["__call__"][0] if model.config.prenorm else None
        assert u is not None, "only read off where the norm comes first"
        rows = np.tile(batch.weights > 0, len(batch.inputs) // len(batch.weights))
        ends = np.full(len(rows), L) if batch.lengths is None else batch.lengths
        found.append((u, inside["seq"]["__call__"][0], rows[:, None] & (np.arange(L) < ends[:, None])))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def simulated(system: DiagonalSSM, u: np.ndarray) -> np.ndarray:
    """Returns the real states of a system, of every channel along the last axis but one, in double precision."""
    with jax.enable_x64(True):
        discretise = DiagonalSSM.discretise if system.Lambda.ndim == 1 else jax.vmap(DiagonalSSM.discretise)
        a, B = map(np.asarray, discretise(system))
    b = u @ B.T if a.ndim == 1 else u[..., None] * B[..., 0]
    parts = []
    for reverse in (False, True)[: 1 + (system.C_backward is not None)]:
        x, now = np.zeros_like(b), np.zeros_like(b[:, 0])
        for k in range(L)[:: -1 if reverse else 1]:
            x[:, k] = now = a * now + b[:, k]
        parts += [x.real, x.imag]
    return np.concatenate(parts, axis=-1)


# --- moments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s5 tokens", "s4d"])
def test_moments_are_those_of_the_signals_in_the_network(name: str) -> None:
    model, weights, data = made(name)
    found = calibration.full_moments(model, weights, lambda: data)
    for layer, (system, moments) in enumerate(
        zip(surgery.systems(weights["params"], model.config), found, strict=True)
    ):
        u, y, valid = seen(name, model, weights, layer)
        x, u, y = simulated(system, u)[valid], u[valid].astype(float), y[valid].astype(float)
        size = np.sum(y**2)
        np.testing.assert_allclose(moments.energy, np.full(np.shape(moments.count), size), rtol=1e-5)
        channels = [(x, u, y)] if x.ndim == 2 else [(x[:, c], u[:, [c]], y[:, [c]]) for c in range(u.shape[1])]
        for c, (x_c, u_c, y_c) in enumerate(channels):
            z = np.concatenate([x_c, u_c, np.ones((len(u_c), 1))], axis=1)
            zz, yz, count = (
                np.asarray(a) if x.ndim == 2 else np.asarray(a)[c] for a in (moments.zz, moments.yz, moments.count)
            )
            scale = np.sqrt(np.sum(z**2, axis=0))
            np.testing.assert_allclose(zz / scale[:, None] / scale, z.T @ z / scale[:, None] / scale, atol=1e-4)
            np.testing.assert_allclose(yz / scale / size**0.5, y_c.T @ z / scale / size**0.5, atol=1e-4)
            assert count == len(u_c)


def test_moments_do_not_depend_on_the_batches() -> None:
    model, weights, data = made("s5 tokens")
    rng = np.random.default_rng(0)
    weights_of(model, rng)
    alone = batches(model.spec, rng, size=1)
    shorter = [b._replace(inputs=b.inputs[:, : max(int(b.lengths.max()), 5)]) for b in alone]  # other buckets
    one, two, three = (calibration.full_moments(model, weights, lambda d=d: d) for d in (data, alone, shorter))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(a).max())
    np.testing.assert_array_equal([m.count for m in one], [m.count for m in three])


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, weights, data = made("s5")
    spoilt = [data[0], data[1]._replace(inputs=data[1].inputs * np.nan)]
    calibration.full_moments(model, weights, lambda: data)
    with pytest.raises(UserError, match="Layer 0 does not stay finite"):
        calibration.full_moments(model, weights, lambda: spoilt)
    assert not list(tmp_path.iterdir())


def test_a_shortage_of_data_is_said() -> None:
    model, weights, data = made("s5")
    few = [data[0]._replace(weights=np.array([1, 0, 0, 0], np.float32), inputs=data[0].inputs[:, :8])]
    notes = calibration.shortage(calibration.full_moments(model, weights, lambda: few))
    assert len(notes) == 2
    assert notes[1].startswith("layer 1: 8 calibration steps for 10 unknowns per output, 2 too few;")
    assert calibration.shortage(calibration.full_moments(model, weights, lambda: data)) == []


# --- from front to back -----------------------------------------------------------------------------------------------


def written(model: Classifier, weights: Any, systems: list[DiagonalSSM]) -> tuple[Classifier, dict[str, Any]]:
    params, config = surgery.with_systems(weights["params"], systems, model.config)
    return model.clone(config=config, state_dims=surgery.state_dims(params, config)), {**weights, "params": params}


def masks(model: Classifier) -> list[np.ndarray]:
    if model.config.family == "s5":
        return KEEP
    rng = np.random.default_rng(0)
    return [np.argsort(rng.random((6, 4)), axis=1) < counts[:, None] for counts in rng.integers(1, 4, (2, 6))]


@pytest.mark.parametrize("name", ["s5 pairs", "s4d"])
@pytest.mark.slow
def test_with_all_states_kept_nothing_changes(name: str) -> None:
    model, weights, data = made(name)
    keep = [np.ones_like(mask) for mask in masks(model)]
    refitted = calibration.refit_selected(
        model, weights, keep, lambda: data, refit=Refit(), sequential="reselect", method=Method()
    )
    (batch, *_), (small, new) = data, written(model, weights, refitted.systems)
    arguments = jnp.asarray(batch.inputs), None if batch.lengths is None else jnp.asarray(batch.lengths)
    one, two = log_probs(model, weights, *arguments), log_probs(small, new, *arguments)
    np.testing.assert_allclose(one, two, atol=2e-3)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "sequential"),
    [("s5 tokens", "off"), ("s5 tokens", "refit"), ("s5 tokens", "reselect"), ("s4d", "reselect")],
)
def test_every_layer_corrects_those_before_it(name: str, sequential: str) -> None:
    """What least squares leaves has mean zero and no share of the own input, in the network that was measured."""
    model, weights, data = made(name)
    refitted = calibration.refit_selected(
        model, weights, masks(model), lambda: data, refit=Refit(ridge=0), sequential=sequential, method=Method()
    )
    assert refitted.keep is not None
    for before, after, system in zip(masks(model), refitted.keep, refitted.systems, strict=True):
        np.testing.assert_array_equal(before.sum(-1), after.sum(-1))
        assert system.state_dim == before.sum(-1).max()
        if sequential != "reselect":
            np.testing.assert_array_equal(before, after)
    small, new = written(model, weights, refitted.systems)
    for layer in range(2):
        _, target, valid = seen(name, model, weights, layer)
        u, y, _ = seen(name, small, new, layer)
        error, u = (target - y)[valid], u[valid]
        size = np.sqrt(np.mean(target[valid] ** 2, axis=0))
        bias, slope = np.mean(error, axis=0) / size, np.mean(error * u, axis=0) / size / np.sqrt(np.mean(u**2, axis=0))
        orthogonal = np.abs([bias, slope]).max() < 1e-3
        assert orthogonal == (sequential != "off" or layer == 0)
        assert np.sqrt(np.mean(error**2)) > 1e-2


def test_any_systems_are_refitted_as_a_selection_is() -> None:
    model, weights, data = made("s5 tokens")
    one = calibration.refit_selected(model, weights, KEEP, lambda: data, refit=Refit())
    small = [kept(s, k) for s, k in zip(surgery.systems(weights["params"], model.config), KEEP, strict=True)]
    two = calibration.refit_systems(model, weights, small, lambda: data, refit=Refit())
    for a, b in zip(one.systems, two.systems, strict=True):
        assert a.state_dim == b.state_dim
        for name in ("Lambda", "C", "C_backward", "D", "bias"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-4)


def test_measured_moments_serve_every_ratio() -> None:
    model, weights, data = made("s5")
    measured = calibration.full_moments(model, weights, lambda: data)

    def no_data() -> list[Batch]:
        raise AssertionError("looked at data")

    arguments = {"refit": Refit(), "sequential": "off"}
    one = calibration.refit_selected(model, weights, KEEP, no_data, measured=measured, **arguments)
    two = calibration.refit_selected(model, weights, KEEP, lambda: data, **arguments)
    three = calibration.refit_systems(model, weights, one.systems, lambda: data, **arguments)
    for a, b, c in zip(one.systems, two.systems, three.systems, strict=True):
        np.testing.assert_array_equal(a.C, b.C)
        np.testing.assert_allclose(a.C, c.C, rtol=1e-2, atol=1e-3)  # the ridge pulls the third towards the first


def test_an_unknown_way_is_refused() -> None:
    model, weights, data = made("s5")
    with pytest.raises(UserError, match=r"reduction.sequential 'sideways'(.|\n)*reselect"):
        calibration.refit_selected(model, weights, KEEP, lambda: data, refit=Refit(), sequential="sideways")


# --- norms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s5 tokens", "s5 pairs"])
def test_norms_take_the_statistics_of_what_they_see(name: str) -> None:
    model, weights, data = made(name)
    new = recalibrated(model, weights, data)
    again = recalibrated(model, new, data)
    whole = [applied(model)(new, batch.inputs) for batch in data]
    rows = np.concatenate([np.tile(b.weights > 0, len(b.inputs) // len(b.weights)) for b in data])
    for layer in ("layers_0", "layers_1"):
        norm = new["params"]["encoder"][layer]["norm"]
        out = np.concatenate([w[layer]["norm"]["__call__"][0] for w in whole])[rows]
        np.testing.assert_allclose(out.mean((0, 1)), norm["bias"], atol=1e-4)
        np.testing.assert_allclose(out.std((0, 1)), np.abs(norm["scale"]), rtol=1e-3)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not np.allclose(new["batch_stats"]["encoder"]["layers_1"]["norm"]["mean"], 0, atol=1e-2)
    assert new["params"] is weights["params"]


def test_layer_norms_have_no_statistics() -> None:
    model, weights, data = made("s4d")
    assert recalibrated(model, weights, data) == weights


# --- sequences --------------------------------------------------------------------------------------------------------


def splits(selected_on: str = "validation") -> Splits:
    train, other = (Split(np.arange(n, dtype=np.float32)[:, None, None], np.zeros(n, np.int32)) for n in (20, 8))
    return Splits(train, other, other, selected_on)


def rows_of(split: Split) -> list[float]:
    return split.read(np.arange(len(split)))[:, 0, 0].tolist()


def test_fewer_sequences_are_a_part_of_more() -> None:
    few, many = (calibration.calibration_split(splits(), sequences=n) for n in (3, 9))
    assert rows_of(few) == rows_of(many)[:3] and len(set(rows_of(many))) == 9
    assert rows_of(calibration.calibration_split(splits(), sequences=9, seed=1)) != rows_of(many)
    validation = calibration.calibration_split(splits(), sequences=8, split="validation")
    assert sorted(rows_of(validation)) == list(range(8))
    sizes = {len(b.inputs) for b in calibration.calibration_batches(many, calibration.STEPS_PER_BATCH // 4)()}
    assert sizes == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, r"calibration split 'test'(.|\n)*must not decide it"),
        ({"split": "tran"}, "Did you mean 'train'"),
        ({"sequences": 21}, "the train split has 20 sequences; choose from 1 to 20"),
        ({"sequences": 0}, "choose from 1 to 20"),
    ],
)
def test_wrong_sequences_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibration.calibration_split(splits(), **{"sequences": 4, **arguments})


def test_a_selection_split_that_is_the_test_split_is_refused() -> None:
    with pytest.raises(UserError, match="selected on the test split"):
        calibration.calibration_split(splits("test"), sequences=4, split="validation")
