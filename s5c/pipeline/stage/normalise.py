"""The statistics of batch normalisation as they are behind the reduced layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.axes import ReductionJob
from s5c.errors import UserError, unknown
from s5c.model.config import ModelConfig
from s5c.model.normalisation import recalibrated
from s5c.pipeline.clock import CALIBRATION
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Measures the statistics again.

    Attributes:
        norm: keep | recalibrate the statistics of batch normalisation on the calibration sequences.
    """

    CLOCK: ClassVar[str | None] = CALIBRATION
    OUTSIDE: ClassVar[bool] = True

    norm: str = "keep"

    def __post_init__(self) -> None:
        if self.norm not in (allowed := ("keep", "recalibrate")):
            raise unknown("value for reduction.norm", self.norm, allowed)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with statistics of its own."""
        if self.norm == "keep":
            return network
        rescale = context.trained.step_rescale
        weights = recalibrated(network.model, network.weights, context.batches(), step_rescale=rescale)
        return dataclasses.replace(network, weights=weights)

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether statistics are measured."""
        return self.norm != "keep"

    def check_network(self, job: ReductionJob, config: ModelConfig) -> None:
        """Raises `UserError` where there are no statistics."""
        if self.norm == "recalibrate" and config.norm != "batch":
            raise UserError(
                f"reduction.norm=recalibrate changes nothing: model.norm={config.norm} has no statistics. Leave it at "
                "keep."
            )
