"""The refitted readout: against least squares written out, and that it brings answers nearer to the full network's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import PAIRS, PIXELS, TOKENS, batch_for, network, weights_of

from s5c.data.batching import Batch
from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.layerwise import log_probs, pooled
from s5c.model.readout import CONSTANT, logits, refitted

KEEP = [np.array([True, False, False, True]), np.array([False, True, False, False])]


def given(spec: InputSpec, rng: np.random.Generator, count: int = 3) -> list[Batch]:
    """Returns batches of four sequences, of which the last row counts for nothing and is not even a number."""
    found = []
    for _ in range(count):
        inputs, lengths = (None if x is None else np.array(x) for x in batch_for(spec, rng))
        if not spec.tokens:
            inputs[-1] = np.nan
        found.append(Batch(inputs, np.zeros(4, np.int32), lengths, np.array([1, 1, 1, 0], np.float32)))
    return found


def masked(model: Classifier, weights: Any) -> dict[str, Any]:
    return {**weights, "params": surgery.mask(weights["params"], KEEP, model.config)}


def signals(model: Classifier, weights: Any, batches: list[Batch]) -> np.ndarray:
    """Returns the pooled features of the rows that count, and a one."""
    rows = [
        np.asarray(pooled(model, weights, jnp.asarray(b.inputs), None if b.lengths is None else jnp.asarray(b.lengths)))
        for b in batches
    ]
    features = np.concatenate([r[:3] for r in rows]).astype(float)
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def matrix(weights: Any) -> np.ndarray:
    decoder = weights["params"]["decoder"]
    found = np.concatenate([np.asarray(decoder["kernel"]), np.asarray(decoder["bias"])[None]]).astype(float)
    return found - found.mean(1, keepdims=True)


@pytest.mark.parametrize("spec", [PIXELS, TOKENS], ids=["pixels", "tokens"])
def test_it_is_least_squares_with_rows_for_the_pull(spec: InputSpec, rng: np.random.Generator) -> None:
    model = network(spec)
    weights, batches = weights_of(model, rng), given(spec, rng)
    reduced, ridge = masked(model, weights), 0.05
    found = refitted(logits(model, weights, batches), model, reduced, batches, ridge=ridge)
    ours, theirs = signals(model, reduced, batches), signals(model, weights, batches)
    pull = np.sqrt(ridge * np.sum(ours**2, axis=0) * np.where(np.arange(7) == 6, CONSTANT, 1))
    expected = np.linalg.lstsq(
        np.concatenate([ours, np.diag(pull)]),
        np.concatenate([theirs @ matrix(weights), pull[:, None] * matrix(reduced)]),
        rcond=None,
    )[0]
    np.testing.assert_allclose(matrix(found), expected, rtol=1e-4, atol=1e-6)
    rest = {"params": {**found["params"], "decoder": None}, "batch_stats": found["batch_stats"]}
    same = {"params": {**reduced["params"], "decoder": None}, "batch_stats": reduced["batch_stats"]}
    assert all(a is b for a, b in zip(jax.tree.leaves(rest), jax.tree.leaves(same), strict=True))


def test_a_network_that_lost_nothing_answers_as_before(rng: np.random.Generator) -> None:
    model = network()
    weights, batches = weights_of(model, rng), given(PIXELS, rng)
    found = refitted(logits(model, weights, batches), model, weights, batches)
    x = jnp.asarray(batches[0].inputs[:3])
    np.testing.assert_allclose(log_probs(model, found, x, None), log_probs(model, weights, x, None), atol=1e-5)


def test_answers_come_nearer(rng: np.random.Generator) -> None:
    model = network()
    weights, batches = weights_of(model, rng), given(PIXELS, rng, 12)
    reduced = masked(model, weights)
    wanted = signals(model, weights, batches) @ matrix(weights)
    errors = [
        np.sum((signals(model, w, batches) @ matrix(w) - wanted) ** 2)
        for w in (reduced, refitted(logits(model, weights, batches), model, reduced, batches))
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_head_of_pairs_gets_another_second_layer(rng: np.random.Generator) -> None:
    model = network(PAIRS)
    weights = weights_of(model, rng)

    def batch() -> Batch:
        inputs, lengths = (np.array(x) for x in batch_for(PAIRS, rng))
        return Batch(inputs, np.zeros(2, np.int32), lengths, np.ones(2, np.float32))

    batches, reduced = [batch() for _ in range(20)], masked(model, weights)
    found = refitted(logits(model, weights, batches), model, reduced, batches)
    kept, new = (w["params"]["decoder"] for w in (reduced, found))
    assert new["layer1"] is kept["layer1"] and not np.allclose(new["layer2"]["kernel"], kept["layer2"]["kernel"])

    def odds(w: Any) -> np.ndarray:
        answers = [log_probs(model, w, jnp.asarray(b.inputs), jnp.asarray(b.lengths)) for b in batches]
        return np.concatenate([np.asarray(a[:, 0] - a[:, 1]) for a in answers])

    errors = [np.sum((odds(w) - odds(weights)) ** 2) for w in (reduced, found)]
    assert errors[1] < 0.9 * errors[0]
    whole = refitted(logits(model, weights, batches), model, weights, batches)
    np.testing.assert_allclose(odds(whole), odds(weights), atol=1e-4)
