"""Which steps of a training stay on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from s5c.training.stored import ranked


@runtime_checkable
class _Numbered(Protocol):
    @property
    def step(self) -> int: ...


@dataclass
class LatestAndBest:
    """Keeps the newest steps, the best one, the earlier of equals, and the best up to each of the newest.

    The newest step may be the best one, and be damaged: the one before it, from which it can be made again, needs the
    best up to there.

    Orbax's `BestN` keeps the later of equal scores, gives NaN an arbitrary rank and needs a metrics item of its own.
    """

    keep_latest: int
    scores: dict[int, float | None]

    def should_preserve(self, checkpoints: Sequence[_Numbered], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = set(steps[-self.keep_latest :])
        for last in sorted(kept):
            kept.update(ranked({step: self.scores.get(step) for step in steps if step <= last})[:1])
        return [step in kept for step in steps]
