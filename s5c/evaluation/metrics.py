"""Accuracy, loss and agreement, exact over a whole split; none for a network that does not answer with numbers.

A state-space layer may overflow on some sequences. The largest of NaN is class 0, and such a network would be credited
with the share of that class: one answer that is not finite, and it has no accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from s5c.errors import UserError
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
    def finite(self) -> Bool[np.ndarray, "n"]:
        """Whether all log-probabilities of an example are finite numbers."""
        return np.isfinite(self.log_probs).all(axis=1)

    @property
    def classes(self) -> Int[np.ndarray, "n"]:
        """The most probable class of each example; -1, which is no class, where there is no answer."""
        return np.where(self.finite, self.log_probs.argmax(axis=1), -1)

    @property
    def accuracy(self) -> float | None:
        """Share of examples classified correctly; None if some answers are not finite."""
        return float(np.mean(self.classes == self.labels)) if self.finite.all() else None

    @property
    def loss(self) -> float | None:
        """Mean negative log-likelihood, nat; None if some answers are not finite."""
        if not self.finite.all():
            return None
        return float(-np.mean(np.take_along_axis(self.log_probs, self.labels[:, None], axis=1)))

    def agreement(self, other: Predictions) -> float | None:
        """Share of examples on which two models predict the same class; None if one does not answer all of them."""
        if not (self.finite.all() and other.finite.all()):
            return None
        return float(np.mean(self.classes == other.classes))


def unanswered(**splits: Predictions) -> list[str]:
    """Returns in a sentence per split how many answers are not finite; nothing if all are.

    Args:
        splits: what one network said, by the name of the split.
    """
    return [
        f"{np.sum(~said.finite):,} of {len(said.labels):,} answers on the {name} split are not finite numbers: this "
        "network has no accuracy there."
        for name, said in splits.items()
        if not said.finite.all()
    ]


def check_answers(what: str, **splits: Predictions) -> None:
    """Raises `UserError` if a network that is measured against, or handed out, does not answer with finite numbers.

    Args:
        what: the network is called.
        splits: what it said, by the name of the split.
    """
    if notes := unanswered(**splits):
        raise UserError(
            f"{what}: {' '.join(notes)} Either its weights are damaged, or its layers overflow on these sequences. "
            "Take a checkpoint from before that, or train with model.clip_eigs=true, which keeps S5's modes stable."
        )


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
