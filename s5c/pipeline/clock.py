"""Where time goes: every stage, and all that targets share, is counted on one of three clocks, here and only here."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

REDUCTION, CALIBRATION, TRAINING = "reduction", "calibration", "training"
"""What needs no data; what runs the network on calibration sequences; the training afterwards."""


_ZERO: dict[str, float] = {REDUCTION: 0.0, CALIBRATION: 0.0, TRAINING: 0.0}


@dataclasses.dataclass
class Clock:
    """Seconds by clock, of one network and of what all share; what runs inside of something else counts alone.

    Attributes:
        own: seconds of the network that is being made.
        shared: seconds of what all networks have in common.
    """

    own: dict[str, float] = dataclasses.field(default_factory=_ZERO.copy)
    shared: dict[str, float] = dataclasses.field(default_factory=_ZERO.copy)
    _running: list[tuple[dict[str, float], str]] = dataclasses.field(default_factory=list)
    _last: float = 0.0

    @contextmanager
    def counting(self, clock: str | None, *, shared: bool = False) -> Iterator[None]:
        """Counts what runs inside.

        Args:
            clock: one of the three; None for what is counted nowhere.
            shared: for every network.
        """
        self._lap()
        self._running.append((self.shared if shared else self.own, clock or ""))
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def read(self) -> dict[str, float]:
        """Returns what one network cost, and starts at zero for the next."""
        found = {clock: own + self.shared[clock] for clock, own in self.own.items()}
        self.own = _ZERO.copy()
        return found

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running and self._running[-1][1]:
            seconds, clock = self._running[-1]
            seconds[clock] += now - self._last
        self._last = now


@runtime_checkable
class Sharing(Protocol):
    """What keeps things that all targets share: a `s5c.pipeline.context.Context`.

    Attributes:
        clock: counts them.
        made: those that are there, by the function that makes them.
    """

    clock: Clock
    made: dict[Any, Any]


C = TypeVar("C", bound=Sharing)
T = TypeVar("T")


def shared(clock: str = REDUCTION) -> Callable[[Callable[[C], T]], Callable[[C], T]]:
    """Returns a decorator for what all targets share: made once for a context, its time counted for every target.

    Args:
        clock: that it is counted on.
    """

    def decorate(make: Callable[[C], T]) -> Callable[[C], T]:
        @functools.wraps(make)
        def once(context: C) -> T:
            if once not in context.made:
                with context.clock.counting(clock, shared=True):
                    context.made[once] = make(context)
            found: T = context.made[once]
            return found

        return once

    return decorate
