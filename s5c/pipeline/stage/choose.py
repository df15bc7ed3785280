"""Which states stay, or how many of every layer: the ranking of all of them, and its cut at the target."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from s5c import axes
from s5c.axes import Idle, ReductionJob
from s5c.errors import unknown
from s5c.model.classifier import Classifier
from s5c.pipeline.clock import CALIBRATION, shared
from s5c.pipeline.context import Context, fitted
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.line import stages, start
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.sensitivity import divergence_gains, gradient_weights, measured_weights
from s5c.reduction import stage
from s5c.reduction.contract import Fresh, Projection, Selection
from s5c.reduction.target import Target
from s5c.types import Bool

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Cuts the ranking at the target.

    Attributes:
        layer_sensitivity: none | gradient | measured: multiplies the scores of every layer by what its output counts;
            curve: puts what each of its orders costs the answers in their place (`s5c.pipeline.sensitivity`).
    """

    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection, Fresh)
    SEVERAL: ClassVar[tuple[str, ...]] = ("layer_sensitivity",)

    layer_sensitivity: str = "none"

    def __post_init__(self) -> None:
        allowed = ("none", "gradient", "measured", "curve")
        if self.layer_sensitivity not in allowed:
            raise unknown("value for reduction.layer_sensitivity", self.layer_sensitivity, allowed)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with what stays."""
        stored = context.stored() if network.target.kind == "bytes" else None
        selected = network.target.select(ranking(context), context.parameters, stored)
        return network.noting([*context.notes, *selected.notes]).keeping(selected)

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether layers are weighed by the answers."""
        return self.layer_sensitivity != "none"

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns what shares a budget out, where every layer is told what it keeps."""
        return () if job.kind in axes.SHARES else ("allocation", "layer_sensitivity")

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields what the allocation does not see."""
        allocation, shared, curve = job.allocation, job.kind in axes.SHARES, self.layer_sensitivity == "curve"
        to_scores, to_scale = axes.blind_to_scores(allocation), axes.blind_to_scale(allocation)
        if not shared:
            reason = f"{job.kind} says what every layer keeps, so that nothing is shared out"
            yield ("allocation", "layer_sensitivity"), reason
        elif to_scores or (to_scale and not curve):
            reason = f"allocation={job.keys.allocation} does not see on what scale the scores of a layer are"
            yield ("layer_sensitivity",), reason
        if not (job.kind == "tolerance" or (shared and not to_scores and not curve)):
            yield getattr(job.method, "SHARING", ()), "the scores of a layer do not decide how much it keeps"
        if hasattr(job.method, "idle"):
            # What is measured per unit of a score, or in place of one, undoes any scale that it had.
            undone = self.layer_sensitivity in ("measured", "curve")
            yield job.method.idle(shared and not to_scale and not undone), "another setting makes it superfluous"


@shared()
def ranking(context: Context) -> stage.Ranking:
    """Returns the ranking that all targets are cuts of."""
    job = context.job
    method, seed = ranked_by(job), job.keys.seed
    found = fitted(context) if isinstance(method, Projection) else None
    ranked = stage.rank(method, job.allocation, context.layers, seed=seed, fitted=found)
    if job.of(Stage).layer_sensitivity == "none":
        return ranked
    with context.clock.counting(CALIBRATION, shared=True):
        return _weighed(context, ranked)


def ranked_by(job: ReductionJob) -> Selection | Projection:
    """Returns the method that ranks: the job's own, or the one that it shares the budget out by."""
    method = getattr(job.method, "ranking", job.method)
    assert isinstance(method, Selection | Projection)
    return method


def _weighed(context: Context, ranked: stage.Ranking) -> stage.Ranking:
    trained, allocation, kind = context.trained, context.job.allocation, context.job.of(Stage).layer_sensitivity
    network, rescale = (trained.model, trained.weights), trained.step_rescale

    def reduced(keep: list[Bool[np.ndarray, "..."]]) -> tuple[Classifier, dict[str, Any]]:
        return _of_kept(context, keep)

    if kind == "curve":
        gains = divergence_gains(*network, context.batches, ranked.scores, reduced, step_rescale=rescale)
        return stage.rescored(ranked, allocation, gains)
    if kind == "gradient":
        weights = gradient_weights(*network, context.batches, step_rescale=rescale)
    else:
        weights = measured_weights(*network, context.batches, ranked.scores, reduced, step_rescale=rescale)
    log.info("%s: sensitivity of the layers %s", context.job.keys.name, ", ".join(f"{w:.3g}" for w in weights))
    return stage.weighed(ranked, allocation, weights.tolist())


def _of_kept(context: Context, keep: list[np.ndarray]) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network of these states, each layer by itself."""
    network = start(context, Target("ratio", 0.0)).keeping(stage.Selected(keep))
    for each in stages(context.job, ranked_by(context.job)):
        if (alone := each.alone()) is not None:
            network = alone.apply(network, context)
    return network.model, network.weights
