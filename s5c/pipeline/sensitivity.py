"""What the outputs of the layers count for a network's answers, as weights of the layers' scores.

Scores relative to their layer (those of `calibrated`, or any with the allocation `greedy`) say nothing about how much
the layer matters. Three ways to find out, all on calibration sequences and without labels:

    gradient   Fisher information of the layer's output times its energy, one backward pass
    measured   divergence of the answers when the layer alone loses half of its states, per unit of score removed
    curve      divergence of the answers with the layer alone at one order after another, in place of its scores

The first two weigh the layers' scores, and are right where what a layer loses stays in proportion to them. It does not:
below some order the answers fall apart. The third knows where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from s5c.evaluation.metrics import Predictions, Said, Values, check_answers, predict
from s5c.model.classifier import Classifier
from s5c.model.sensitivity import squared_gradients
from s5c.model.signals import valid_steps
from s5c.pipeline.calibration import Batches
from s5c.reduction.removal import GAP, marginal_gains
from s5c.training.loop import to_device
from s5c.types import Bool, Float

KEPT = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
"""Shares of a layer's states that its curve is measured at, besides the least that can stay: a network for each."""

LEAST = 1e-6
"""Divergence, nat, that counts as none: the answers are in single precision."""

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
        scores: scores of every layer's states.
        reduced: makes the network of the states that stay.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: one of the networks does not answer with finite numbers.
    """
    full = _full_answers(model, weights, batches, step_rescale)
    found = []
    for layer, own in enumerate(scores):
        keep = [np.ones(s.shape, bool) for s in scores]
        by_rank = np.argsort(np.argsort(-own, axis=-1, kind="stable"), axis=-1, kind="stable")
        keep[layer] = (by_rank < -(-own.shape[-1] // 2)) | np.isinf(own)
        answers = predict(*reduced(keep), batches(), step_rescale=step_rescale)
        check_answers(f"The network without half of the states of layer {layer}", calibration=answers)
        divergence = _divergence(full, answers)
        removed = float(np.maximum(own[~keep[layer]], 0).sum())  # negative scores cost nothing
        found.append(max(divergence, 0) / removed if removed > 0 else 0.0)
    return _of_mean_one(np.array(found))


def divergence_gains(
    model: Classifier,
    weights: dict[str, Any],
    batches: Batches,
    scores: Sequence[Float[np.ndarray, "..."]],
    reduced: Callable[[list[Bool[np.ndarray, "..."]]], Network],
    *,
    step_rescale: float = 1.0,
) -> list[Float[np.ndarray, "..."]]:
    """Returns scores for the allocation `global`: what each state takes off the divergence of the answers.

        D_l(k) = KL(answers of the full network || those with the k best states of layer l, all of the others)

    measured at the orders `KEPT`, geometric in between. The scores are the slopes of its greatest convex minorant, in
    the order of the layer's own scores, so that one threshold makes sum_l D_l(k_l) small: the divergence of all layers
    together, if they add up.

    Args:
        model: the full network.
        weights: its weights.
        batches: starts the calibration batches.
        scores: scores of every layer's states; infinite ones stay so.
        reduced: makes the network of the states that stay.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: one of the networks does not answer with finite numbers.
    """
    full = _full_answers(model, weights, batches, step_rescale)
    found = []
    for layer, own in enumerate(scores):
        order, slots = np.argsort(-own.ravel(), kind="stable"), own.size
        least = max(int(np.isinf(own).sum()), 1)
        orders = sorted({min(max(math.ceil(share * slots), least), slots) for share in (0, *KEPT)} | {slots})
        costs = []
        for kept in orders[:-1]:
            keep = [np.ones(s.shape, bool) for s in scores]
            keep[layer] = np.isin(np.arange(slots), order[:kept]).reshape(own.shape)
            answers = predict(*reduced(keep), batches(), step_rescale=step_rescale)
            check_answers(f"The network with {kept} of {slots} states in layer {layer}", calibration=answers)
            costs.append(max(_divergence(full, answers), LEAST))
        falling = np.maximum.accumulate([LEAST, *costs[::-1]])[::-1]
        curve = np.exp(np.interp(np.arange(least, slots + 1), orders, np.log(falling)))
        gains = marginal_gains(np.append(curve[:-1], 0.0)) if slots > least else np.zeros(0)
        # The states that stay in any case, then the others; equal ones in the order of their own scores.
        ranked = np.concatenate([np.full(least, 2 * gains.max(initial=1.0)), gains])
        ranked = np.maximum(ranked, np.finfo(float).tiny) * (1 + GAP * np.arange(slots, 0, -1))
        gained = np.empty(slots)
        gained[order] = np.where(np.isinf(own.ravel()[order]), np.inf, ranked)
        found.append(gained.reshape(own.shape))
    return found


def _full_answers(model: Classifier, weights: dict[str, Any], batches: Batches, step_rescale: float) -> Said:
    full = predict(model, weights, batches(), step_rescale=step_rescale)
    check_answers("The full network", calibration=full)
    return full


def _divergence(full: Said, answers: Said) -> float:
    """Returns the divergence of answers; targets count as means of normal distributions, as wide as the targets are."""
    if isinstance(full, Values):
        return float(np.mean(np.sum(((full.outputs - answers.outputs) / full.size) ** 2, axis=1)) / 2)
    assert isinstance(answers, Predictions), "both are of one task"
    said = full.log_probs
    return float(np.mean(np.sum(np.exp(said) * (said - answers.log_probs), axis=1)))


def _of_mean_one(weights: Float[np.ndarray, "layers"]) -> Float[np.ndarray, "layers"]:
    """A layer that does not count at all keeps a weight: its states still go in the order of their scores."""
    mean = weights.mean()
    return np.maximum(weights / mean, 1e-6) if mean > 0 else np.ones_like(weights)
