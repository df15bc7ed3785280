"""How far the layers are from the full ones, and what became of unstable modes; nothing changes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.model import surgery
from s5c.pipeline.context import Context, fitted
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.reduction.contract import OfQuadraticOutputs, Projection, Selection
from s5c.reduction.error import layer_errors
from s5c.reduction.unstable import account


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Measures the layers as they are stored, before any training."""

    CLOCK: ClassVar[str | None] = None

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with its errors."""
        method, selected = context.job.method, network.selected
        assert selected is not None, "chosen before"
        if isinstance(method, Selection):
            network = network.noting(account(context.layers, selected.keep, getattr(method, "unstable", "protect")))
        return with_errors(network, context)


def with_errors(network: ReducedNetwork, context: Context) -> ReducedNetwork:
    """Returns the network with the errors of its layers as they are."""
    method, quadratic = context.job.method, None
    stored = surgery.systems(network.weights["params"], network.model.config)
    errors = layer_errors(context.layers, stored, hinf=[bound is not None for bound in network.bounds])
    if isinstance(method, Projection) and isinstance(fit := fitted(context), OfQuadraticOutputs):
        quadratic = fit.errors_of(stored)
    return dataclasses.replace(network, errors=errors, quadratic=quadratic)
