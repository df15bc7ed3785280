"""`none`: the reduced layer as the method left it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.reduction.layer import Layer
from s5c.ssm.system import DiagonalSSM


@dataclasses.dataclass(frozen=True)
class Refit:
    """Changes nothing."""

    needs_moments: ClassVar[bool] = False

    def __call__(self, layer: Layer, reduced: DiagonalSSM) -> DiagonalSSM:
        """Returns `reduced`."""
        return reduced
