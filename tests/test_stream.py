"""A network fed step by step answers as it does to the whole sequence, whatever it is made of and however it is cut."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import jobs
import networks
import numpy as np
import pytest

import s5c
from s5c import lookup
from s5c.errors import UserError
from s5c.model import family as families
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.model.stream import CHUNK, MOST_STEPS, StreamState, advance, initial_state
from s5c.pipeline import streaming
from s5c.units import Targets

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


@pytest.mark.few(2)
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


@pytest.mark.few(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_streams(family: str, rng: np.random.Generator) -> None:
    """With outputs of about one: those of some families reach a thousand here, where float32 ends at 6e-5."""
    model = networks.network(family=family)
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    decoder, largest = weights["params"]["decoder"], np.abs(parallel(model, weights, inputs)).max()
    decoder["kernel"] = decoder["kernel"] / max(float(largest), 1)
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


def test_a_stream_may_last_longer_than_its_count(rng: np.random.Generator) -> None:
    """2^31 steps are 37 hours at 16 kHz; a count that wraps round turns the mean over."""
    model = networks.network()
    weights = networks.weights_of(model, rng)
    inputs, _ = networks.batch_for(model.spec, rng)
    state, before = advance(model, weights, initial_state(model, networks.ROWS), inputs)
    state, said = advance(model, weights, state._replace(steps=jnp.asarray(MOST_STEPS - 1, jnp.int32)), inputs)
    assert state.steps == MOST_STEPS
    np.testing.assert_allclose(said, before, rtol=CLOSE, atol=CLOSE)  # a few steps do not move the mean of so many


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


# ---- from Python and from the command line


@pytest.fixture(scope="module")
def digits() -> s5c.Model:
    return s5c.load("zoo:digits_s5")


def test_steps_of_a_model(digits: s5c.Model, rng: np.random.Generator) -> None:
    x = rng.uniform(size=(2, 24, 1))
    state, said = digits.prefill(digits.init_state(2), x[:, :23])
    state, said = digits.step(state, x[:, 23])
    np.testing.assert_allclose(said, digits.predict(x), rtol=CLOSE, atol=CLOSE)
    with pytest.raises(UserError, match=r"2 rows.*state of 1"):
        digits.prefill(digits.init_state(1), x)
    with pytest.raises(UserError, match=r"reads \(n, length, 1\)"):
        digits.step(state, np.zeros((2, 3)))


def streamed(given: bytes, *arguments: str, folder: Path) -> jobs.Outcome:
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given))):
        return jobs.run("stream", "checkpoint=zoo:digits_s5", *arguments, folder=folder)


def test_the_command_answers_as_samples_come_and_goes_on_from_a_state(
    digits: s5c.Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rng.uniform(size=64).astype(np.float32)
    whole = streamed("\n".join(map(str, x)).encode(), "every=32", folder=tmp_path)
    assert whole.code == 0, whole.err
    said = [line.split("\t") for line in whole.out.splitlines()]
    right = np.exp(digits.predict(x[None]))[0]
    assert [words[0] for words in said] == ["32", "64"] and int(said[-1][1]) == right.argmax()
    assert abs(float(said[-1][2]) - right.max()) < 1e-3
    first = streamed(x[:40].tobytes(), "every=40", "format=float32", "state=s.npz", folder=tmp_path)
    second = streamed(x[40:].tobytes(), "every=24", "format=float32", "state=s.npz", folder=tmp_path)
    assert first.code == second.code == 0 and "after step 40" in second.err
    assert second.out.splitlines()[-1].split("\t")[:2] == said[-1][:2]


@pytest.mark.parametrize(
    ("given", "arguments", "words"),
    [
        (b"0.5\nx\n", [], ["Line 2", "'x' is no number"]),
        (b"0.5\n1,2\n", [], ["Line 2 has 2 numbers", "has 1"]),
        (b"nan\n", [], ["Line 1", "not finite"]),
        (b"\xff\xfe\n", [], ["Line 1 is no text", "binary"]),
        (b"\0\0\0", ["format=float32"], ["Step 1 is cut", "3 bytes of 4"]),
        (b"a", ["format=text"], ["format=text", "characters"]),
        (b"", ["format=wav"], ["'wav'", "lines", "int16"]),
        (b"", ["every=0"], ["every=0"]),
        (b"1\n", ["state=old.npz"], ["old.npz holds no state"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_samples_that_cannot_be_read_have_a_place(
    given: bytes, arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "old.npz").write_bytes(b"PK cut")
    done = streamed(given, *arguments, folder=tmp_path)
    assert done.code == 1 and all(word in done.err for word in words), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["old.npz"]


def test_what_went_before_a_wrong_sample_is_kept(tmp_path: Path) -> None:
    done = streamed(b"1\n0\nx\n", "state=s.npz", folder=tmp_path)
    assert done.code == 1 and len(done.out.splitlines()) == 2
    assert np.load(tmp_path / "s.npz")["steps"] == 2
    other = jobs.run("stream", "checkpoint=zoo:smnist_small_s5", "state=s.npz", folder=tmp_path)
    assert other.code == 1 and "of another network" in other.err


def test_characters_and_ids() -> None:
    vocabulary = ["<pad>", "<unk>", "a", "b"]
    found = streaming.samples(io.BytesIO("bé\na".encode()), "text", InputSpec(4, 2, tokens=True), vocabulary)
    assert [int(one) for one in found] == [3, 1, 1, 2]
    found = streaming.samples(io.BytesIO(b"3, 0 2"), "lines", InputSpec(4, 2, tokens=True), vocabulary)
    assert [int(one) for one in found] == [3, 0, 2]
    with pytest.raises(UserError, match=r"Line 1: '4' is no token id; they are 0 to 3"):
        list(streaming.samples(io.BytesIO(b"4"), "lines", InputSpec(4, 2, tokens=True), vocabulary))
    half = streaming.samples(io.BytesIO(np.array([16384, -32768], "<i2").tobytes()), "int16", InputSpec(1, 2), None)
    assert np.ravel(list(half)).tolist() == [0.5, -1.0]
