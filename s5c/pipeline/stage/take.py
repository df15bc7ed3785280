"""The states that stay, as they are: their parameters are gathered bit for bit."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.reduction.contract import Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Removes all states but those that were chosen."""

    METHODS: ClassVar[tuple[type, ...]] = (Selection,)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network of the states that stay."""
        return network.written(context.trained, None)

    def alone(self) -> Stage:
        """Returns itself: every layer is reduced by itself."""
        return self
