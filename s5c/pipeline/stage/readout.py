"""The last linear map fitted to what the full network answers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from s5c.axes import ReductionJob
from s5c.errors import unknown
from s5c.model.readout import logits, refitted
from s5c.pipeline.calibration import Calibration
from s5c.pipeline.clock import CALIBRATION, shared
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Solves the readout again.

    Attributes:
        readout: keep | refit the last linear map to the full network's answers on the calibration sequences.
    """

    CLOCK: ClassVar[str | None] = CALIBRATION
    OUTSIDE: ClassVar[bool] = True

    readout: str = "keep"

    def __post_init__(self) -> None:
        if self.readout not in (allowed := ("keep", "refit")):
            raise unknown("value for reduction.readout", self.readout, allowed)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with a readout of its own."""
        if self.readout == "keep":
            return network
        wanted, rescale = full_logits(context), context.trained.step_rescale
        weights = refitted(wanted, network.model, network.weights, context.batches(), step_rescale=rescale)
        sequences, features = context.job.of(Calibration).sequences, context.config.d_model
        few = [
            f"readout: {sequences} sequences for {features + 1} unknowns a class; raise "
            "reduction.calibration.sequences, or set reduction.readout=keep."
        ]
        return dataclasses.replace(network, weights=weights).noting(few if sequences <= features else [])

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether answers are looked at."""
        return self.readout != "keep"


@shared(CALIBRATION)
def full_logits(context: Context) -> list[np.ndarray]:
    """Returns what the full network answers on the calibration sequences."""
    trained = context.given
    return logits(trained.model, trained.weights, context.batches(), step_rescale=trained.step_rescale)
