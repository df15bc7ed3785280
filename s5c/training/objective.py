"""What training minimises and what is counted on the selection split: of classes, and of real targets.

classes    -log p(label),  or with a teacher  -sum_c p_teacher(c) log p(c)
targets    mean of ((y^ - y) / size)^2 over all valid answers and targets; with a teacher y is what it answers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from s5c import metric as metrics
from s5c.model.inputs import InputSpec
from s5c.types import Array, Float, Int, Num
from s5c.units import Targets


class Inputs(NamedTuple):
    """A batch on the device (see `s5c.data.batching.Batch`)."""

    inputs: Num[Array, "rows l *features"]
    labels: Int[Array, "b"] | Float[Array, "b k"] | Float[Array, "b l k"]
    lengths: Int[Array, "rows"] | None
    weights: Float[Array, "b"]


Teacher = Callable[[Inputs], Float[Array, "b *l c"]]
"""Answers to learn instead of the labels."""


class Totals(NamedTuple):
    """Sums over examples, so that any number of batches adds up exactly."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    examples: Float[Array, ""]


@runtime_checkable
class Objective(Protocol):
    """What is minimised, and what is counted."""

    def loss(self, answers: Array, batch: Inputs, teacher: Teacher | None) -> Array:
        """Returns what a step minimises, a scalar."""

    def told(self, answers: Array, batch: Inputs) -> dict[str, Array]:
        """Returns what a step says besides."""

    def totals(self, answers: Array, batch: Inputs) -> Any:
        """Returns sums over a batch of evaluation."""

    def results(self, totals: Sequence[Any]) -> dict[str, float]:
        """Returns the loss and all metrics by the sums of all batches; NaN where answers are not finite."""


def totals(log_probs: Float[Array, "b c"], labels: Int[Array, "b"], weights: Float[Array, "b"]) -> Totals:
    """Returns the summed loss, number of correct predictions and number of examples of a batch."""
    nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    correct = jnp.argmax(log_probs, axis=1) == labels
    return Totals(jnp.sum(weights * nll), jnp.sum(weights * correct), jnp.sum(weights))


class Classes:
    """Cross-entropy."""

    def loss(self, answers: Array, batch: Inputs, teacher: Teacher | None) -> Array:
        """Returns the mean cross-entropy to the labels, or to a teacher's predictions."""
        if teacher is None:
            nll = -jnp.take_along_axis(answers, batch.labels[:, None], axis=1)
        else:
            nll = -jnp.sum(jnp.exp(jax.lax.stop_gradient(teacher(batch))) * answers, axis=1)
        return jnp.mean(nll)

    def told(self, answers: Array, batch: Inputs) -> dict[str, Array]:
        """Returns the share of the batch that is classified correctly."""
        return {"accuracy": jnp.mean(jnp.argmax(answers, axis=1) == batch.labels)}

    def totals(self, answers: Array, batch: Inputs) -> Totals:
        """Returns `totals`."""
        return totals(answers, batch.labels, batch.weights)

    def results(self, totals: Sequence[Any]) -> dict[str, float]:
        """Returns mean loss and accuracy."""
        loss, correct, examples = (math.fsum(float(s[i]) for s in totals) for i in range(3))
        return {"loss": loss / examples, "accuracy": correct / examples if math.isfinite(loss) else math.nan}


class Numbers:
    """Squared error of scaled targets.

    Args:
        targets: their units.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def loss(self, answers: Array, batch: Inputs, teacher: Teacher | None) -> Array:
        """Returns the mean squared error to the targets, or to a teacher's answers."""
        wanted = batch.labels if teacher is None else jax.lax.stop_gradient(teacher(batch))
        size = jnp.asarray(self._targets.size, jnp.float32)
        counted = jnp.broadcast_to(self._counted(batch)[..., None], answers.shape)
        off = jnp.where(counted > 0, (answers - wanted) / size, 0)  # before the square, whose derivative keeps a NaN
        return jnp.sum(off**2) / jnp.sum(counted)

    def told(self, answers: Array, batch: Inputs) -> dict[str, Array]:
        """Returns nothing: metrics of batches do not add up to those of a split."""
        return {}

    def totals(self, answers: Array, batch: Inputs) -> Array:
        """Returns the sums of `s5c.metric`, (5, k)."""
        shift = jnp.asarray(self._targets.shift, jnp.float32)
        each = metrics.sums_of(answers, batch.labels, shift, self._counted(batch), jnp)
        return jnp.sum(each, axis=tuple(range(each.ndim - 2)))

    def results(self, totals: Sequence[Any]) -> dict[str, float]:
        """Returns the mean squared error of the scaled targets, and all metrics."""
        sums = np.sum([np.asarray(one, np.float64) for one in totals], axis=0)
        size = np.asarray(self._targets.size, np.float64)
        loss = float(np.mean(sums[metrics.SQUARED] / size**2 / sums[metrics.COUNT]))
        found = {name: one.of(sums) for name, one in metrics.REGRESSION.items() if one.of is not None}
        return {"loss": loss, **{name: value if math.isfinite(loss) else math.nan for name, value in found.items()}}

    def _counted(self, batch: Inputs) -> Array:
        """Returns which answers count: of examples, and not of padding."""
        if not self._targets.per_step:
            return batch.weights
        steps = jnp.arange(batch.inputs.shape[1])
        ends = jnp.full(batch.weights.shape, len(steps)) if batch.lengths is None else batch.lengths
        return batch.weights[:, None] * (steps < ends[:, None])


CLASSES = Classes()


def objective_of(spec: InputSpec) -> Objective:
    """Returns the objective of a task."""
    return CLASSES if spec.targets is None else Numbers(spec.targets)
