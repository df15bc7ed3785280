"""New, smaller systems in place of the layers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.pipeline.context import Context, fitted
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.reduction.contract import Projection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Puts what a projection makes of every layer, at the order that was chosen, in its place."""

    METHODS: ClassVar[tuple[type, ...]] = (Projection,)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network of the smaller systems."""
        assert network.selected is not None, "chosen before"
        found = fitted(context).reduce(network.selected.counts)
        network = network.written(context.trained, [layer.system for layer in found])
        bounds = [layer.bound for layer in found]
        return dataclasses.replace(network, bounds=bounds).noting([note for layer in found for note in layer.notes])

    def alone(self) -> Stage:
        """Returns itself: every layer is reduced by itself."""
        return self
