"""Accuracy, loss and agreement, exact over a whole split."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from s5c.model.classifier import Classifier
from s5c.model.layerwise import log_probs
from s5c.training.loop import to_device
from s5c.training.prefetch import prefetch
from s5c.types import Params


class Predictions(NamedTuple):
    """What a model says about every example of a split."""

    log_probs: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, "n"]

    @property
    def classes(self) -> Int[np.ndarray, "n"]:
        """The most probable class of each example."""
        return self.log_probs.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of examples classified correctly."""
        return float(np.mean(self.classes == self.labels))

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood, nat."""
        return float(-np.mean(np.take_along_axis(self.log_probs, self.labels[:, None], axis=1)))

    def agreement(self, other: Predictions) -> float:
        """Share of examples on which two models predict the same class."""
        return float(np.mean(self.classes == other.classes))


def predict(model: Classifier, weights: Params, batches: Iterable[Any], *, step_rescale: float = 1.0) -> Predictions:
    """Runs a model over a split.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        batches: evaluation batches (`s5c.data.batching.eval_batches`); examples of weight 0 are left out.
        step_rescale: multiplies every Delta; 2 for inputs at half the rate of the training.

    Returns:
        The predictions in the order of the split, whatever that of the batches.
    """
    weights = jax.device_put(dict(weights))  # once, not with every batch
    rows, labels, places = [], [], []
    with closing(prefetch(batches, lambda batch: (batch, to_device(batch)))) as ready:
        for batch, on_device in ready:
            valid = batch.weights > 0
            said = log_probs(model, weights, on_device.inputs, on_device.lengths, step_rescale)
            rows.append(np.asarray(jax.device_get(said))[valid])
            labels.append(batch.labels[valid])
            places += [] if batch.places is None else [batch.places[valid]]
    order = np.argsort(np.concatenate(places), kind="stable") if places else slice(None)
    return Predictions(np.concatenate(rows).astype(np.float64)[order], np.concatenate(labels)[order])


def rank_correlation(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Returns Spearman's coefficient: the correlation of the ranks, equal values sharing the mean of theirs.

    Args:
        x: numbers.
        y: as many.

    Returns:
        In [-1, 1]; NaN where all values of one are the same.
    """

    def ranks(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    size = float(np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return float(np.sum(a * b)) / size if size else float("nan")
