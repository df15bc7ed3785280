"""The line of stages that a network passes through, and the one place where they are run and timed."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from s5c.axes import Axis, ReductionJob
from s5c.pipeline.clock import REDUCTION
from s5c.pipeline.context import Context
from s5c.pipeline.network import ReducedNetwork
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
