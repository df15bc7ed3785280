"""Single parameters silenced, as a baseline: nothing gets smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from s5c.axes import UNNAMED, Idle, ReductionJob, states_only
from s5c.errors import UserError
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.reduction import stage
from s5c.reduction.contract import Masking
from s5c.reduction.error import layer_errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Sets the share of parameters that the target names to zero, and measures what that changes."""

    METHODS: ClassVar[tuple[type, ...]] = (Masking,)

    def leaves(self, job: ReductionJob) -> str:
        """Returns why nothing that follows means anything."""
        return f"{job.keys.method} silences parameters of a network that stays as it is"

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields all that is about states that are removed."""
        yield states_only(job), self.leaves(job)

    def check(self, job: ReductionJob) -> None:
        """Raises `UserError` for a target that is not a ratio."""
        if self.takes(job.method) and job.kind not in UNNAMED:
            raise UserError(
                f"reduction={job.keys.name} silences parameters and takes a ratio only, not reduction.{job.kind}."
            )

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with parameters at zero."""
        method, target = context.job.method, network.target
        assert isinstance(method, Masking) and isinstance(target.value, float), "checked before"
        full = [layer.system for layer in context.layers]
        masked = stage.mask(method, full, target.value, seed=context.job.keys.seed)
        errors = layer_errors(context.layers, masked)
        return dataclasses.replace(network.written(context.trained, masked), ratio_achieved=target.value, errors=errors)
