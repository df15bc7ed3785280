"""Weights of few bits: what is left of a network, rounded as a device stores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from s5c.axes import Idle, ReductionJob
from s5c.errors import UserError, unknown
from s5c.model.config import ModelConfig
from s5c.model.rounding import BITS
from s5c.pipeline.clock import CALIBRATION, REDUCTION
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.rounded import on_data, to_nearest
from s5c.pipeline.stage import measure, train
from s5c.reduction.contract import Fresh, Projection, Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Rounds every matrix that the network multiplies by, each of its rows with a scale of its own.

        W = scale q,    |q| <= 2^{bits-1} - 1    integers

    Poles, steps, feedthrough, biases and norms stay float32: a pole of 0.999 and one of 1 differ by less than the step
    of eight bits. The matrices are those of a step as it is exported (`s5c.model.products`), so that an export of so
    many bits is this very network.

    Attributes:
        bits: 8 | 6 | 4 of a weight, 32 for float32; None for float32, or with reduction.bytes for what answers best.
        bits_fit: nearest | calibrated: every weight to the nearest number, or front to back on calibration sequences,
            where what comes later makes up for what was rounded before (`s5c.pipeline.rounded`).
    """

    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection, Fresh)

    bits: int | None = None
    bits_fit: str = "nearest"

    def __post_init__(self) -> None:
        if self.bits is not None and self.bits not in BITS:
            allowed = ", ".join(map(str, BITS))
            raise UserError(f"reduction.bits={self.bits}: weights have {allowed} bits. Give one of these, or null.")
        if self.bits_fit not in (ways := ("nearest", "calibrated")):
            raise unknown("value for reduction.bits_fit", self.bits_fit, ways)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with rounded weights."""
        if self.bits in (None, 32):
            return network
        assert self.bits is not None
        rescale = context.trained.step_rescale
        if self.bits_fit == "nearest":
            with context.clock.counting(REDUCTION):
                model, weights = to_nearest(network.model, network.weights, self.bits, step_rescale=rescale)
        else:
            with context.clock.counting(CALIBRATION):
                model, weights = on_data(
                    network.model, network.weights, self.bits, context.batches, step_rescale=rescale
                )  # fmt: skip
        # Once more from what single precision has made of it: so it reads back from a file, bit for bit.
        model, weights = to_nearest(model, weights, self.bits, step_rescale=rescale)
        bounds = [None] * len(network.bounds)
        network = dataclasses.replace(
            network, model=model, weights=weights, bounds=bounds, bits=self.bits, systems=None
        )
        trained = context.job.of(train.Stage).epochs or not network.errors
        return network if trained else measure.with_errors(network, context)

    def check_network(self, job: ReductionJob, config: ModelConfig) -> None:
        """Raises `UserError` for blocks that are converted, not rounded."""
        if self._rounds(job) and config.activation == "geglu":
            raise UserError(f"reduction.bits={self.bits}: the blocks of s5-pytorch (activation=geglu) stay float32.")

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether rounding looks at sequences."""
        return self._rounds(job) and self.bits_fit == "calibrated"

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns the bits where they are float32 as ever."""
        return self.keys if self.absent or not self._rounds(job) else ()

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields the way of rounding where nothing is rounded."""
        if self.bits == 32 and job.kind != "bytes":
            yield ("bits",), "weights are float32 anyway"
        if not self._rounds(job):
            yield ("bits_fit",), f"reduction.bits={'null' if self.bits is None else self.bits} rounds nothing"

    def _rounds(self, job: ReductionJob) -> bool:
        return self.bits not in (None, 32) or (self.bits is None and job.kind == "bytes")

    def label(self, key: str, value: Any) -> str | None:
        """Returns how many bits there are, and whether they were fitted."""
        if key == "bits":
            return f"+{value} bits"
        return "fitted" if key == "bits_fit" and value == "calibrated" else None
