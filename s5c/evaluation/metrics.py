"""Metrics, loss and agreement, exact over a whole split; none for a network that does not answer with numbers.

A state-space layer may overflow on some sequences. The largest of NaN is class 0, and such a network would be credited
with the share of that class: one answer that is not finite, and it has no accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from s5c import metric as metrics
from s5c.errors import UserError
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.layerwise import log_probs
from s5c.training.loop import to_device
from s5c.training.prefetch import prefetch
from s5c.types import Params


class Predictions(NamedTuple):
    """What a model says about every example of a split."""

    log_probs: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, "n"]

    @property
    def outputs(self) -> Float[np.ndarray, "n c"]:
        """What the network puts out."""
        return self.log_probs

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of such answers, by name."""
        return {metrics.ACCURACY.name: self.accuracy}

    @property
    def single(self) -> dict[str, np.ndarray]:
        """What paired errors are computed from."""
        return {"correct": self.classes == self.labels}

    def stored(self) -> dict[str, np.ndarray]:
        """Returns the arrays that `restored` takes."""
        return {"log_probs": self.log_probs.astype(np.float32), "labels": self.labels}

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


class Values(NamedTuple):
    """What a model answers with real numbers to every example of a split.

    Attributes:
        answers: one row per answer, in the units of the targets: examples, or all valid steps of one after the other.
        labels: the targets, alike.
        steps: answers of each example.
        shift, size: units of the loss, one of each per target.
    """

    answers: Float[np.ndarray, "m k"]
    labels: Float[np.ndarray, "m k"]
    steps: Int[np.ndarray, "n"]
    shift: Float[np.ndarray, "k"]
    size: Float[np.ndarray, "k"]

    @property
    def outputs(self) -> Float[np.ndarray, "m k"]:
        """What the network puts out."""
        return self.answers

    @property
    def finite(self) -> Bool[np.ndarray, "n"]:
        """Whether all answers to an example are finite numbers."""
        return np.logical_and.reduceat(np.isfinite(self.answers).all(axis=1), self._starts)

    @property
    def sums(self) -> Float[np.ndarray, "n five k"]:
        """The sums of `s5c.metric` of every example."""
        each = metrics.sums_of(self.answers, self.labels, self.shift, np.ones(len(self.answers)))
        return np.add.reduceat(each, self._starts, axis=0)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of such answers, by name; None if some are not finite, or nothing varies that has to."""
        if not self.finite.all():
            return dict.fromkeys(metrics.REGRESSION)
        whole = self.sums.sum(axis=0)
        found = {name: one.of(whole) for name, one in metrics.REGRESSION.items() if one.of is not None}
        return {name: value if np.isfinite(value) else None for name, value in found.items()}

    @property
    def loss(self) -> float | None:
        """Mean squared error of the scaled targets; None if some answers are not finite."""
        if not self.finite.all():
            return None
        return float(np.mean(((self.answers - self.labels) / self.size) ** 2))

    @property
    def single(self) -> dict[str, np.ndarray]:
        """What paired errors are computed from."""
        return {"sums": self.sums}

    def stored(self) -> dict[str, np.ndarray]:
        """Returns the arrays that `restored` takes."""
        return {key: np.asarray(value) for key, value in self._asdict().items()}

    def agreement(self, other: Values) -> float | None:
        """Returns the fit of these answers to those of another model, 1 if they are the same."""
        if not (self.finite.all() and other.finite.all()):
            return None
        found = Values(self.answers, other.answers, self.steps, other.answers.mean(axis=0), self.size).metrics["fit"]
        return found if found is not None else float(np.array_equal(self.answers, other.answers))

    @property
    def _starts(self) -> Int[np.ndarray, "n"]:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.steps)[:-1]])


Said = Predictions | Values
"""What a model answers."""


def restored(arrays: Mapping[str, np.ndarray]) -> Said:
    """Returns answers that `stored` took apart."""
    if "log_probs" in arrays:
        return Predictions(arrays["log_probs"].astype(np.float64), arrays["labels"])
    return Values(**{key: arrays[key] for key in Values._fields})


def unanswered(**splits: Said) -> list[str]:
    """Returns in a sentence per split how many answers are not finite; nothing if all are.

    Args:
        splits: what one network said, by the name of the split.
    """
    return [
        f"{np.sum(~said.finite):,} of {len(said.finite):,} answers on the {name} split are not finite numbers: this "
        f"network has no {next(iter(said.metrics))} there."
        for name, said in splits.items()
        if not said.finite.all()
    ]


def check_answers(what: str, **splits: Said) -> None:
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


def predict(model: Classifier, weights: Params, batches: Iterable[Any], *, step_rescale: float = 1.0) -> Said:
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
    ends: list[np.ndarray | None] = []
    with closing(prefetch(batches, lambda batch: (batch, to_device(batch)))) as ready:
        for batch, on_device in ready:
            valid = batch.weights > 0
            said = log_probs(model, weights, on_device.inputs, on_device.lengths, step_rescale)
            rows.append(np.asarray(jax.device_get(said))[valid])
            labels.append(batch.labels[valid])
            ends.append(None if model.spec.targets is None or batch.lengths is None else batch.lengths[valid])
            places += [] if batch.places is None else [batch.places[valid]]
    order = np.argsort(np.concatenate(places), kind="stable") if places else slice(None)
    if model.spec.targets is not None:
        return _values(model.spec, rows, labels, ends, order)
    return Predictions(np.concatenate(rows).astype(np.float64)[order], np.concatenate(labels)[order])


def _values(
    spec: InputSpec,
    rows: list[np.ndarray],
    labels: list[np.ndarray],
    ends: list[np.ndarray | None],
    order: np.ndarray | slice,
) -> Values:
    """Returns the answers of batches in the order of the split; of sequences with an answer a step, the valid steps."""
    assert spec.targets is not None
    units = [np.asarray(one, np.float64) for one in spec.targets[:2]]
    if not spec.targets.per_step:
        said, right = (np.concatenate(one).astype(np.float64)[order] for one in (rows, labels))
        return Values(said, right, np.ones(len(said), np.int64), *units)
    steps = np.concatenate([np.full(len(r), r.shape[1]) if e is None else e for r, e in zip(rows, ends, strict=True)])
    examples = [example for batch in rows for example in batch], [example for batch in labels for example in batch]
    wanted = np.arange(len(steps))[order]
    said, right = (np.concatenate([one[i][: steps[i]] for i in wanted]).astype(np.float64) for one in examples)
    return Values(said, right, steps[wanted].astype(np.int64), *units)
