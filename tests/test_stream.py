"""A network fed step by step answers as it does to the whole sequence, whatever it is made of and however it is cut."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from s5c import lookup
from s5c.errors import UserError
from s5c.model import family as families
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.model.stream import CHUNK, StreamState, advance, initial_state
from s5c.types import Targets

CLOSE = 1e-5
FAMILIES = lookup.names(families)


def parallel(model: Classifier, weights: dict[str, Any], inputs: jax.Array) -> np.ndarray:
    return np.asarray(model.apply(weights, inputs))


def long(model: Classifier, steps: int, rng: np.random.Generator) -> jax.Array:
    """Returns inputs of more steps than the batches of `networks` have."""
    spec, rows = model.spec, networks.ROWS
    if spec.tokens:
        return jnp.asarray(rng.integers(0, spec.features, (rows, steps)), jnp.int32)
    return jnp.asarray(rng.normal(size=(rows, steps, spec.features)), jnp.float32)


def in_parts(
    model: Classifier, weights: dict[str, Any], inputs: jax.Array, ends: list[int]
) -> tuple[StreamState, list[np.ndarray]]:
    state, said = initial_state(model, networks.ROWS // (2 if model.spec.pairs else 1)), []
    for start, end in zip([0, *ends], ends, strict=False):
        state, answer = advance(model, weights, state, inputs[:, start:end])
        said.append(np.asarray(answer))
    return state, said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "layer", "pooling": "last"},
        {"prenorm": False, "activation": "half_glu2"},
        {"activation": "lqo"},
        {"activation": "full_glu", "discretisation": "bilinear"},
        {"activation": "gelu", "clip_eigs": True},
    ],
    ids=str,
)
def test_every_step_is_answered_as_the_sequence_up_to_it(options: dict[str, Any], rng: np.random.Generator) -> None:
    model = networks.network(**options)
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    _, said = in_parts(model, weights, inputs, list(range(1, networks.LENGTH + 1)))
    for steps in (1, 4, networks.LENGTH):
        np.testing.assert_allclose(said[steps - 1], parallel(model, weights, inputs[:, :steps]), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_streams(family: str, rng: np.random.Generator) -> None:
    model = networks.network(family=family)
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    _, said = in_parts(model, weights, inputs, [1, 3, networks.LENGTH])
    np.testing.assert_allclose(said[-1], parallel(model, weights, inputs), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("spec", [networks.TOKENS, networks.PAIRS], ids=["tokens", "pairs"])
def test_ids_and_pairs_stream(spec: Any, rng: np.random.Generator) -> None:
    model = networks.network(spec)
    weights = networks.weights_of(model, rng)
    inputs = long(model, networks.LENGTH, rng)
    lengths = jnp.full(networks.ROWS, networks.LENGTH)
    _, said = in_parts(model, weights, inputs, [2, networks.LENGTH])
    np.testing.assert_allclose(said[-1], np.asarray(model.apply(weights, inputs, lengths)), rtol=CLOSE, atol=CLOSE)


def test_a_reduced_network_with_a_constant_streams(rng: np.random.Generator) -> None:
    """What a calibrated refit adds to a layer, and layers of different sizes."""
    model = networks.network().clone(state_dims=(3, 1))
    weights = networks.weights_of(model, rng)
    for layer in weights["params"]["encoder"].values():
        if "seq" in layer:
            layer["seq"]["bias"] = jnp.asarray(rng.normal(size=6), jnp.float32)
    inputs, _ = networks.batch_for(model.spec, rng)
    _, said = in_parts(model, weights, inputs, [5, networks.LENGTH])
    np.testing.assert_allclose(said[-1], parallel(model, weights, inputs), rtol=CLOSE, atol=CLOSE)


def test_targets_of_every_step_are_those_of_the_given_steps(rng: np.random.Generator) -> None:
    model = networks.network(InputSpec(2, 1, targets=Targets((1.0,), (3.0,), True)))
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    _, said = in_parts(model, weights, inputs, [1, 4, networks.LENGTH])
    np.testing.assert_allclose(np.concatenate(said, axis=1), parallel(model, weights, inputs), rtol=CLOSE, atol=CLOSE)


def test_another_sampling_rate_streams(rng: np.random.Generator) -> None:
    model = networks.network()
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    _, said = advance(model, weights, initial_state(model, networks.ROWS), inputs, 2.0)
    np.testing.assert_allclose(said, np.asarray(model.apply(weights, inputs, step_rescale=2.0)), rtol=CLOSE, atol=CLOSE)


def test_how_a_sequence_is_cut_changes_nothing_and_the_state_stays_as_large(rng: np.random.Generator) -> None:
    model = networks.network()
    weights = networks.weights_of(model, rng)
    steps = 2 * CHUNK + 13
    inputs = long(model, steps, rng)
    whole, cut = in_parts(model, weights, inputs, [steps]), in_parts(model, weights, inputs, [7, CHUNK + 8, steps])
    np.testing.assert_allclose(whole[1][-1], parallel(model, weights, inputs), rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(whole[1][-1], cut[1][-1], rtol=CLOSE, atol=CLOSE)
    sizes = [[leaf.shape for leaf in jax.tree.leaves(state)] for state in (whole[0], initial_state(model, 4))]
    assert sizes[0] == sizes[1] and int(whole[0].steps) == steps


def test_a_bidirectional_network_says_why_it_cannot(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match=r"bidirectional.*before the last one is there.*bidirectional=false.*predict"):
        initial_state(networks.network(bidirectional=True), 1)
