"""`Target`: what is asked of a reduction: a share of the states or of the parameters, bytes, an order, a tolerance."""

from __future__ import annotations

import dataclasses

from s5c.reduction.parameters import Parameters, check_share, select_parameters
from s5c.reduction.size import Bytes, check_bytes, select_bytes
from s5c.reduction.stage import (
    Ranking,
    Selected,
    check_ratio,
    check_tolerance,
    select,
    select_orders,
    select_tolerance,
)

CHECKS = {"ratio": check_ratio, "tolerance": check_tolerance, "params": check_share, "bytes": check_bytes}
"""What refuses a value that is out of range, by kind; orders are compared with the network's when it is there."""


@dataclasses.dataclass(frozen=True)
class Target:
    """One reduction asked for.

    Attributes:
        kind: `ratio` (share of all stored slots to remove), `params` (share of all trainable parameters of the network
            to remove, as they are stored: see `s5c.reduction.parameters`), `bytes` (what the weights may take up at
            most: see `s5c.reduction.size`), `order` (slots to keep, one number for all
            layers or one per layer; of every channel where layers have channels) or `tolerance` (share of a layer's
            summed scores that may be lost).
        value: the number; for orders a tuple.
    """

    kind: str
    value: float | tuple[int, ...]

    def __post_init__(self) -> None:
        if self.kind in CHECKS:
            assert not isinstance(self.value, tuple)
            CHECKS[self.kind](self.value)

    @property
    def label(self) -> str:
        """How the target is called in tables and file names."""
        if isinstance(self.value, tuple):
            return f"{self.kind}-{'-'.join(map(str, self.value))}"
        return f"{self.value:g}" if self.kind == "ratio" else f"{self.kind}-{self.value:g}"

    def select(self, ranking: Ranking, parameters: Parameters | None = None, stored: Bytes | None = None) -> Selected:
        """Returns the slots that stay.

        Args:
            ranking: ranking of the network.
            parameters: what it stores at every cut, for `params`.
            stored: the bytes of that, for `bytes`.

        Raises:
            UserError: the value is out of its range.
        """
        if self.kind == "params":
            assert parameters is not None and not isinstance(self.value, tuple)
            return select_parameters(ranking, self.value, parameters)
        if self.kind == "bytes":
            assert stored is not None and not isinstance(self.value, tuple)
            return select_bytes(ranking, self.value, stored)
        if isinstance(self.value, tuple):
            layers = len(ranking.scores)
            return select_orders(ranking, self.value * layers if len(self.value) == 1 else self.value)
        return (select if self.kind == "ratio" else select_tolerance)(ranking, self.value)
