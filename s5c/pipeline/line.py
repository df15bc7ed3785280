"""The line of stages that a network passes through, and the one place where they are run and timed."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar

from s5c.axes import Axis, ReductionJob
from s5c.pipeline.calibration import Batches
from s5c.pipeline.clock import CALIBRATION, REDUCTION, Clock
from s5c.pipeline.context import Context, sequences
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.trained import TrainedModel
from s5c.reduction.contract import Method, Projection, Selection
from s5c.reduction.target import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Axis, abc.ABC):
    """One step of a reduction, at what a job sets it to: one file of `s5c/pipeline/stage`.

    Attributes:
        CLOCK: what its time is counted on; None: on none.
        BEFORE: the stage that it stands before, unless `LINE` of the package has its place.
        OUTSIDE: it changes weights outside of the sequence layers.
        METHODS: as it stands, those that make networks of the trained layers.
    """

    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection)
    CLOCK: ClassVar[str | None] = REDUCTION
    BEFORE: ClassVar[str] = "measure"
    OUTSIDE: ClassVar[bool] = False

    def prepared(self, trained: TrainedModel, batches: Batches) -> tuple[TrainedModel, list[str]]:
        """Returns the network that all targets are made of, with what is to be said of it; as it stands the given one.

        Args:
            trained: the network that is reduced, after the stages before.
            batches: starts the calibration sequences.
        """
        return trained, []

    @abc.abstractmethod
    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network after this stage."""

    def alone(self) -> Stage | None:
        """Returns what of it is done where one layer is reduced to see what that costs; None for nothing."""
        return None


def stages(job: ReductionJob, method: Method | None = None) -> list[Stage]:
    """Returns the stages of a job, in their order; those for another method if one is given."""
    wanted = method or job.method
    return [axis for axis in job.axes if isinstance(axis, Stage) and axis.takes(wanted)]


def opened(trained: TrainedModel, job: ReductionJob, folder: Path) -> Context:
    """Returns what all targets of a network and a preset share, after what the stages do once for all of them.

    Args:
        trained: the network that is reduced.
        job: the preset.
        folder: trainings after the reduction live below.

    Raises:
        UserError: as for `Context`.
    """
    clock, found, notes = Clock(), trained, list[str]()
    with clock.counting(CALIBRATION, shared=True):
        for stage in stages(job):
            found, said = stage.prepared(found, lambda: sequences(trained, job)())
            notes += said
    return Context(found, job, folder, given=trained, clock=clock, notes=notes)


def start(context: Context, target: Target) -> ReducedNetwork:
    """Returns the network before the first stage."""
    trained, orders = context.trained, [layer.slots for layer in context.layers]
    none: list[float | None] = [None] * len(orders)
    return ReducedNetwork(target, trained.model, trained.weights, None, 0.0, orders, bounds=none)


def run(context: Context, target: Target) -> ReducedNetwork:
    """Returns the network at one target.

    Args:
        context: what all targets of the network and the preset share.
        target: a target that `s5c.pipeline.targets.check` lets pass.

    Raises:
        UserError: the data does not fit.
    """
    network = start(context, target)
    for stage in stages(context.job):
        with context.clock.counting(stage.CLOCK):
            network = stage.apply(network, context)
    return dataclasses.replace(network, seconds=context.clock.read())
