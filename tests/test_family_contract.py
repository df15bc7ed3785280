"""What every family of sequence layers must do (`s5c.model.family`), whichever families there are."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import LENGTH, PIXELS, batch_for, network, weights_of
from systems import simulate

from s5c.model import surgery
from s5c.model.classifier import Classifier, resized
from s5c.model.config import ModelConfig, families, from_dict, load_family
from s5c.model.network import layer_names
from s5c.model.roles import outputs_of
from s5c.ssm.system import DiagonalSSM

H = 6
every_family = pytest.mark.parametrize("name", families())


@functools.cache
def made(name: str) -> tuple[Classifier, dict[str, Any]]:
    model = network(family=name)
    weights = weights_of(model, np.random.default_rng(0))
    for layer in layer_names(model.config):  # what states do must show within a short sequence
        seq = weights["params"]["encoder"][layer]["seq"]
        seq |= {name: 5 * seq[name] for name in outputs_of(model.config) if name in seq}
    return model, weights


def answered(system: DiagonalSSM, u: np.ndarray) -> np.ndarray:
    """Returns what a layer with this system answers, step by step in double precision, one channel after the other."""
    with jax.enable_x64(True):
        a, B = map(np.asarray, system.discretise())
    C, D = np.asarray(system.C), np.asarray(system.D)
    if system.Lambda.ndim == 1:
        return simulate(u, a, B, C) + D * u
    alone = [simulate(u[..., c : c + 1], a[c], B[c], C[c]) for c in range(len(a))]
    return np.concatenate(alone, axis=-1) + D.reshape(-1) * u


@every_family
def test_a_configuration_comes_back_from_what_a_checkpoint_keeps(name: str) -> None:
    config = made(name)[0].config
    assert isinstance(config, ModelConfig) and dataclasses.is_dataclass(config)
    assert config.family == name and from_dict(config.to_dict()) == config


@every_family
def test_a_layer_answers_as_its_system_does_and_so_does_one_written_from_it(name: str) -> None:
    model, weights = made(name)
    family, config, p = load_family(name), model.config, model.state_dims[0]
    params = weights["params"]["encoder"]["layers_0"]["seq"]
    u = np.random.default_rng(1).normal(size=(2, LENGTH, H)).astype(np.float32)
    with jax.enable_x64(True):
        system = family.to_system({key: jnp.asarray(value, jnp.float64) for key, value in params.items()}, config)
        written = family.from_system(system, config)
    expected = answered(system, u)
    run = jax.jit(family.Layer(config, p).apply)
    for stored in (params, written):
        assert {key: (value.shape, value.dtype) for key, value in stored.items()} == {
            key: (value.shape, np.float32) for key, value in params.items()
        }
        np.testing.assert_allclose(run({"params": stored}, u), expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - np.asarray(system.D).reshape(-1) * u).max() > 0.1 * np.abs(expected).max()
    assert family.accommodating(config, [system]) == config


@every_family
def test_removing_states_is_silencing_them(name: str) -> None:
    model, weights = made(name)
    states = surgery.layers(weights, model.config)[0].system.Lambda.shape
    keep = [np.broadcast_to(np.array([True, False, True, False]), states)] * 2
    masked = {**weights, "params": surgery.mask(weights["params"], keep, model.config)}
    params, config = surgery.take(weights["params"], keep, model.config)
    small = resized(model.clone(config=config), surgery.state_dims(params, config))
    assert small.state_dims == (2, 2)
    inputs, lengths = batch_for(PIXELS, np.random.default_rng(2))
    full = jax.jit(model.apply)
    expected = full(masked, inputs, lengths)
    found = jax.jit(small.apply)({**weights, "params": params}, inputs, lengths)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(full(weights, inputs, lengths) - expected).max() > 1e-2 * np.abs(expected).max()


@every_family
def test_fewer_states_cost_less_and_a_small_layer_can_be_drawn(name: str) -> None:
    model, _ = made(name)
    family = load_family(name)
    costs = [family.macs_per_step(model.config, p) for p in range(1, 5)]
    assert costs == sorted(set(costs)) and costs[0] > 0
    drawn = jax.eval_shape(family.Layer(model.config, 2).init, jax.random.key(0), jnp.ones((1, 3, H)))["params"]
    for key, value in drawn.items():
        axis = family.PARAMETERS[key].axis
        assert axis is None or value.shape[axis] == 2
