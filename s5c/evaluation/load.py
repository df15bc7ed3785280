"""How busy other processes keep the machine while something is timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@dataclasses.dataclass
class Load:
    """What `watched` found.

    Attributes:
        others: share of the time of all processors that other processes took, in [0, 1]; None where the system does
            not tell, or the time was too short for its clock.
    """

    others: float | None = None


@contextmanager
def watched() -> Iterator[Load]:
    """Measures how much of the processors' time other processes take inside of the `with` statement.

    That is what they really take, at once and for as long: load averages follow a minute later and count this process
    too. Time that a host takes from a virtual machine counts; what an accelerator does for others is not seen.
    """
    load, began = Load(), (_busy(), time.process_time())
    try:
        yield load
    finally:
        busy, whole = (now - before for now, before in zip(_busy(), began[0], strict=True))
        if whole > 0.05 * (psutil.cpu_count() or 1):
            load.others = min(max(busy - (time.process_time() - began[1]), 0.0) / whole, 1.0)


def _busy() -> tuple[float, float]:
    """Returns the seconds in which the processors of the machine worked, and all seconds, since it was started."""
    try:
        times = psutil.cpu_times()._asdict()
    except OSError:  # a system without /proc/stat
        return 0.0, 0.0
    whole = sum(value for name, value in times.items() if not name.startswith("guest"))  # guests count as user
    return whole - times["idle"] - times.get("iowait", 0.0), whole
