"""What the outputs of the layers count for a network's answers, as weights of the layers' scores.

Scores relative to their layer (those of `calibrated`, or any with the allocation `greedy`) say nothing about how much
the layer matters. Two ways to find out, both on calibration sequences and without labels:

    gradient   Fisher information of the layer's output times its energy, one backward pass
    measured   divergence of the answers when the layer alone loses half of its states, per unit of score removed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from s5c.evaluation.metrics import check_answers, predict
from s5c.model.classifier import Classifier
from s5c.model.sensitivity import squared_gradients
from s5c.model.signals import valid_steps
from s5c.pipeline.calibration import Batches
from s5c.training.loop import to_device
from s5c.types import Bool, Float

Network = tuple[Classifier, dict[str, Any]]


def gradient_weights(
    model: Classifier, weights: dict[str, Any], batches: Batches, *, step_rescale: float = 1.0
) -> Float[np.ndarray, "layers"]:
    """Returns one weight per layer, of mean 1: the divergence that a small relative error of its output causes.

    Args:
        model: the full network.
        weights: its weights.
        batches: starts the calibration batches.
        step_rescale: multiplies every Delta.
    """
    gradients, energies = np.zeros((2, model.config.n_layers))
    for number, batch in enumerate(batches()):
        given, valid = to_device(batch), valid_steps(batch)
        key = jax.random.fold_in(jax.random.key(0), number)
        found = squared_gradients(model, weights, given.inputs, given.lengths, valid, key, step_rescale=step_rescale)
        gradients, energies = gradients + np.asarray(found[0]), energies + np.asarray(found[1])
    return _of_mean_one(gradients * energies)


def measured_weights(
    model: Classifier,
    weights: dict[str, Any],
    batches: Batches,
    scores: Sequence[Float[np.ndarray, "..."]],
    reduced: Callable[[list[Bool[np.ndarray, "..."]]], Network],
    *,
    step_rescale: float = 1.0,
) -> Float[np.ndarray, "layers"]:
    """Returns one weight per layer, of mean 1: what a unit of its scores costs in divergence of the answers.

    Args:
        model: the full network.
        weights: its weights.
        batches: starts the calibration batches.
        scores: of every layer's states.
        reduced: makes the network of the states that stay.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: one of the networks does not answer with finite numbers.
    """
    full = predict(model, weights, batches(), step_rescale=step_rescale)
    check_answers("The full network", calibration=full)
    found = []
    for layer, own in enumerate(scores):
        keep = [np.ones(s.shape, bool) for s in scores]
        by_rank = np.argsort(np.argsort(-own, axis=-1, kind="stable"), axis=-1, kind="stable")
        keep[layer] = (by_rank < -(-own.shape[-1] // 2)) | np.isinf(own)
        answers = predict(*reduced(keep), batches(), step_rescale=step_rescale)
        check_answers(f"The network without half of the states of layer {layer}", calibration=answers)
        said = full.log_probs
        divergence = float(np.mean(np.sum(np.exp(said) * (said - answers.log_probs), axis=1)))
        removed = float(np.maximum(own[~keep[layer]], 0).sum())  # negative scores cost nothing
        found.append(max(divergence, 0) / removed if removed > 0 else 0.0)
    return _of_mean_one(np.array(found))


def _of_mean_one(weights: Float[np.ndarray, "layers"]) -> Float[np.ndarray, "layers"]:
    """A layer that does not count at all keeps a weight: its states still go in the order of their scores."""
    mean = weights.mean()
    return np.maximum(weights / mean, 1e-6) if mean > 0 else np.ones_like(weights)
