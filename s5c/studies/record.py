"""`results/queue.json`: what the queue runs, what has ended and how. For people and programs that watch it.

    {"imdb_s5": {"state": "running", "command": "s5c.train +experiment=imdb_s5", "began": "2026-01-31T12:00:00+00:00",
                 "ended": null, "seconds": null, "exit": null, "host": "lab", "process": 4711, "why": ""}, ...}

The queue itself never reads it: what is left to do follows from what lies in the results folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock
from rich.console import Console

from s5c.atomic import write_text
from s5c.locations import results_dir

RUNNING, FINISHED, FAILED, STOPPED, SKIPPED = "running", "finished", "failed", "stopped", "skipped"
PATIENCE = 10.0
"""Seconds to wait for another queue that writes the file."""

Ended = Callable[[int], None]
"""Takes the exit status of a command; negative: killed by that signal."""

errors = Console(stderr=True, highlight=False)


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one recipe or study stands.

    Attributes:
        state: running | finished | failed | stopped | skipped; of the last command.
        command: the last command, without the interpreter.
        began: when it was started, ISO 8601; None if it was skipped.
        ended: when it ended; None while it runs.
        seconds: it took.
        exit: its status; negative if a signal killed it, None while it runs.
        host: the machine.
        process: of the queue that started it.
        why: it was skipped, or "".
    """

    state: str
    command: str = ""
    began: str | None = None
    ended: str | None = None
    seconds: float | None = None
    exit: int | None = None
    host: str = ""
    process: int = 0
    why: str = ""

    @property
    def lost(self) -> bool:
        """Whether it claims to run although its queue has gone without a word: killed, or the machine went down."""
        return self.state == RUNNING and self.host == platform.node() and not _alive(self.process)

    def line(self) -> str:
        """Returns it in words."""
        if self.lost:
            return f"its queue has gone since {self.began}; `run` goes on"
        if self.state == RUNNING:
            return f"running on {self.host} since {self.began}"
        if self.state == SKIPPED:
            return f"skipped: {self.why}"
        how = f" with {status_in_words(self.exit)}" if self.state == FAILED and self.exit is not None else ""
        took = "" if self.seconds is None else f" after {duration(self.seconds)}"
        return f"{self.state}{how}{took} at {self.ended}"


def place() -> Path:
    """Returns the file."""
    return results_dir() / "queue.json"


def entries() -> dict[str, Entry]:
    """Returns all entries by name, in the order in which they were started; nothing if there is no such file."""
    try:
        found = json.loads(place().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    known = {field.name for field in dataclasses.fields(Entry)}
    return {
        name: Entry(**{key: value for key, value in entry.items() if key in known})
        for name, entry in found.items()
        if isinstance(entry, dict) and "state" in entry
    }


def put(name: str, entry: Entry) -> None:
    """Writes one entry, the newest last. A queue does not end because its record cannot be written."""
    try:
        place().parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place().with_suffix(".lock"), timeout=PATIENCE):
            others = {key: dataclasses.asdict(other) for key, other in entries().items() if key != name}
            write_text(place(), json.dumps({**others, name: dataclasses.asdict(entry)}, indent=2) + "\n")
    except (OSError, filelock.Timeout) as error:
        errors.print(f"[yellow]{place()} cannot be written:[/] {error}", soft_wrap=True)


def skipped(name: str, why: str) -> None:
    """Records that an entry was passed over."""
    put(name, Entry(SKIPPED, ended=_now().isoformat(), host=platform.node(), process=os.getpid(), why=why))


@contextmanager
def running(name: str, command: str) -> Iterator[Ended]:
    """Records that a command of an entry runs, and how it ended.

    Args:
        name: of the entry.
        command: that runs.

    Yields:
        Takes the exit status. Leaving without having called it counts as stopped.
    """
    began, statuses = _now(), list[int]()
    entry = Entry(RUNNING, command, began.isoformat(), host=platform.node(), process=os.getpid())
    put(name, entry)
    stopped = True
    try:
        yield statuses.append
        stopped = False
    finally:
        ended = _now()
        status = statuses[-1] if statuses else None
        state = STOPPED if stopped else FAILED if status else FINISHED
        seconds = round((ended - began).total_seconds(), 1)
        put(name, dataclasses.replace(entry, state=state, ended=ended.isoformat(), seconds=seconds, exit=status))


def status_in_words(status: int) -> str:
    """Returns an exit status as a person calls it."""
    return signal.Signals(-status).name if status < 0 else f"status {status}"


def duration(seconds: float) -> str:
    """Returns a duration in its largest fitting unit."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True
