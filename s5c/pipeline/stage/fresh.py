"""Sequence layers of the smaller order as a training would start with, in the full network's other weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from s5c.axes import ReductionJob
from s5c.model.surgery import with_layers_of
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.weights import drawn
from s5c.reduction.contract import Fresh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Draws the sequence layers again, at the orders that were chosen."""

    METHODS: ClassVar[tuple[type, ...]] = (Fresh,)

    def leaves(self, job: ReductionJob) -> str:
        """Returns why nothing but a training may follow."""
        return f"{job.keys.method} draws new layers, which nothing but a training makes anything of"

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with new layers."""
        trained, selected = context.trained, network.selected
        assert selected is not None, "chosen before"
        model = trained.model.clone(state_dims=tuple(int(np.max(count)) for count in selected.counts))
        new = drawn(trained, model, seed=context.job.keys.seed)["params"]
        params = with_layers_of(new, trained.weights["params"], context.config)
        return dataclasses.replace(network, model=model, weights={**trained.weights, "params": params})
