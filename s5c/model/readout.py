"""The readout solved again: the last linear map of a reduced network, fitted to what the full network answers.

In a head that compares two documents that is its second layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from s5c.model import network
from s5c.model.classifier import Classifier, output_head, per_step
from s5c.model.layerwise import pooled
from s5c.model.signals import valid_steps
from s5c.types import Float, Params

RIDGE = 1e-2
"""Pull towards the present readout, relative to the energy of each feature; chosen on validation data."""
CONSTANT = 1e-3
"""The pull on the constants, relative to that on the features: a shifted mean is what a reduction changes first."""

LAST = "layer2"
"""The last linear map of a head with two layers."""


def logits(
    model: Classifier, weights: Params, batches: Iterable[Any], *, step_rescale: float = 1.0
) -> list[Float[np.ndarray, "_ c"]]:
    """Returns a network's logits less their mean over the classes, which the answers do not depend on, batch by batch.

    Of targets they are the answers before they get their units; of targets a step, those of all valid steps.

    Args:
        model: the network.
        weights: its weights.
        batches: with `inputs`, `lengths` and `weights` (`s5c.data.batching.Batch`).
        step_rescale: multiplies every Delta.
    """
    return [_features(model, weights, batch, step_rescale) @ _matrix(model, weights) for batch in batches]


def refitted(
    wanted: Sequence[Float[np.ndarray, "_ c"]],
    model: Classifier,
    weights: Params,
    batches: Iterable[Any],
    *,
    ridge: float = RIDGE,
    step_rescale: float = 1.0,
) -> dict[str, Any]:
    """Returns the weights with the readout nearest to the full network's logits on some sequences.

        min over W of  sum |z - W^T [f, 1]|^2 + ridge sum_j S_jj |W_j - W0_j|^2,      S = sum [f, 1] [f, 1]^T

    with f what the reduced network's readout gets and z the logits of the full one. Labels are not looked at.

    Args:
        wanted: `logits` of the full network on the same batches.
        model: the reduced one.
        weights: its weights.
        batches: as for `logits`.
        ridge: pull towards the present readout.
        step_rescale: multiplies every Delta.
    """
    present = _matrix(model, weights)
    energy, cross = np.zeros((len(present), len(present))), np.zeros_like(present)
    for z, batch in zip(wanted, batches, strict=True):
        f = _features(model, weights, batch, step_rescale)
        energy, cross = energy + f.T @ f, cross + f.T @ z
    pull = ridge * np.diag(energy) * np.where(np.arange(len(energy)) == len(energy) - 1, CONSTANT, 1)
    pull += np.finfo(float).tiny  # features that are never there
    found = np.linalg.solve(energy + np.diag(pull), cross + pull[:, None] * present)
    solved = {"kernel": jnp.asarray(found[:-1], jnp.float32), "bias": jnp.asarray(found[-1], jnp.float32)}
    decoder = network.readout(weights)
    return network.with_readout(weights, {**decoder, LAST: solved} if LAST in decoder else solved)


def feature_moments(
    model: Classifier, weights: Params, batches: Iterable[Any], *, step_rescale: float = 1.0
) -> Float[np.ndarray, "rows rows"]:
    """Returns the sum of [f, 1] [f, 1]^T, with f what the last linear map gets; arguments as for `logits`."""
    found = [f.T @ f for f in (_features(model, weights, batch, step_rescale) for batch in batches)]
    return np.sum(found, axis=0)


def _matrix(model: Classifier, weights: Params) -> Float[np.ndarray, "rows c"]:
    """Returns the readout, without what is common to all classes, the constants last."""
    decoder = network.readout(weights)
    last = decoder.get(LAST, decoder)
    found = np.concatenate([np.asarray(last["kernel"], np.float64), np.asarray(last["bias"], np.float64)[None]])
    return found if model.spec.targets is not None else found - found.mean(axis=1, keepdims=True)


def _features(model: Classifier, weights: Params, batch: Any, step_rescale: float) -> Float[np.ndarray, "b rows"]:
    """Returns what the readout gets from the examples of a batch, or from all of their valid steps, and a one."""
    lengths = None if batch.lengths is None else jnp.asarray(batch.lengths)
    found = pooled(model, weights, jnp.asarray(batch.inputs), lengths, step_rescale)
    if model.spec.pairs:
        head = output_head(model.config, model.spec)
        params = {"params": network.readout(weights)}
        _, seen = head.apply(
            params, found, capture_intermediates=lambda module, _: module.name == "layer1", mutable=["intermediates"]
        )
        found = nn.gelu(seen["intermediates"]["layer1"]["__call__"][0])
    counted = valid_steps(batch) if per_step(model.spec) else np.asarray(batch.weights) > 0
    examples = np.asarray(found, np.float64)[counted]
    return np.concatenate([examples, np.ones((len(examples), 1))], axis=1)
