"""The outputs of the reduced layers solved again; their poles and inputs stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from s5c.axes import Idle, ReductionJob
from s5c.errors import unknown
from s5c.pipeline.calibration import Refitted, refit_selected, refit_systems
from s5c.pipeline.clock import CALIBRATION, REDUCTION
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.reduction.contract import Selection
from s5c.reduction.slots import kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Solves the outputs of every layer again.

    Attributes:
        refit: file name in s5c/reduction/refit.
        refit_options: keys of the refit's own dataclass.
        sequential: with a calibrated refit, reselect | refit | off: whether layers behind reduced ones see them.
    """

    SWITCHES: ClassVar[tuple[str, ...] | None] = ("refit", "sequential")
    DECIDING: ClassVar[tuple[str, ...]] = ("refit", "sequential")
    SEVERAL: ClassVar[tuple[str, ...]] = ("sequential",)

    refit: str = "none"
    refit_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    sequential: str = "off"

    def __post_init__(self) -> None:
        if self.sequential not in (allowed := ("reselect", "refit", "off")):
            raise unknown("value for reduction.sequential", self.sequential, allowed)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with other outputs, and with other states where they are chosen again on the way."""
        if self.refit == "none":
            return network
        assert network.selected is not None, "chosen before"
        with context.clock.counting(CALIBRATION if context.job.refit.needs_moments else REDUCTION):
            found = self._solved(network, context)
        if found.keep is not None:
            network = network.keeping(dataclasses.replace(network.selected, keep=found.keep))
        return dataclasses.replace(network.written(context.trained, found.systems), bounds=[None] * len(found.systems))

    def _solved(self, network: ReducedNetwork, context: Context) -> Refitted:
        trained, job, systems = context.trained, context.job, network.systems
        assert network.selected is not None, "chosen before"
        keep, refit, mode = network.selected.keep, job.refit, self.sequential
        if not refit.needs_moments:
            layers = context.layers
            made = systems or [kept(layer.system, mask) for layer, mask in zip(layers, keep, strict=True)]
            return Refitted([refit(layer, system) for layer, system in zip(layers, made, strict=True)])
        if systems is not None:
            return refit_systems(
                trained.model, trained.weights, systems, context.batches, refit=refit,
                sequential="off" if mode == "off" else "refit", step_rescale=trained.step_rescale,
            )  # fmt: skip
        method = job.method if isinstance(job.method, Selection) and context.moments else None
        again = mode == "reselect" and method is not None
        return refit_selected(
            trained.model, trained.weights, keep, context.batches, refit=refit,
            sequential=mode if again or mode == "off" else "refit", method=method,
            measured=context.moments, step_rescale=trained.step_rescale,
        )  # fmt: skip

    def alone(self) -> Stage:
        """Returns the refit of every layer by itself."""
        return dataclasses.replace(self, sequential="off")

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether the refit is a calibrated one."""
        return job.refit.needs_moments

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields a refit that the method has done itself, and a way through the layers that makes no difference."""
        method, name = job.method, job.keys.method
        if hasattr(method, "solved") and method.solved(job.refit):
            yield ("refit",), f"the outputs that {name} solves for are those of this refit"
        if not job.refit.needs_moments:
            yield ("sequential",), f"refit={self.refit} solves every layer by itself"
        elif self.sequential == "reselect" and not (
            isinstance(method, Selection) and getattr(method, "needs_moments", False)
        ):
            yield ("sequential",), f"{name} does not choose states on data; refit is what it would do"
