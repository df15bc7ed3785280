"""`fresh`: no reduction but the arm to compare one with: layers of the smaller order, drawn as a training starts."""

from __future__ import annotations

import dataclasses

from s5c.reduction.contract import Selection
from s5c.reduction.method.random import Method as Random


@dataclasses.dataclass(frozen=True)
class Method:
    """Replaces the sequence layers by newly initialised ones, HiPPO for S5, Skew-HiPPO for DSS, S4D's for S4D.

    Untrained they are worth nothing: use it with `reduction.finetune.epochs`. With the allocation `uniform` or `equal`
    the orders are those of a reduction at the same ratio.

    Source: the Skew-HiPPO arm of Ezoe and Sato (arXiv 2402.15993).
    """

    @property
    def ranking(self) -> Selection:
        """What the allocation shares the budget by: nothing, in effect."""
        return Random()
