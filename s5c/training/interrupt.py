"""Ctrl-C and the signals of schedulers: finish the step, save, say how to go on.

SIGINT and SIGTERM ask to stop; SIGHUP comes when the terminal is closed; SIGUSR1 is what schedulers send some time
before the limit (`sbatch --signal=USR1@60`). Where somebody else listens to the latter two they are left alone:
`nohup` ignores SIGHUP, and Submitit puts a job back into the queue on SIGUSR1.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

ASKING = ("SIGINT", "SIGTERM")
ONLY_IF_FREE = ("SIGHUP", "SIGUSR1")
"""Taken only where they still do what the system does by default: end the process."""


GOES_ON = "The same command goes on from there."
STATUS = 130
"""Of a process that was told to stop."""


class Interrupted(KeyboardInterrupt):
    """Stopped on request; everything up to here is saved."""


class StopRequest:
    """While active, a signal that asks to stop only sets `requested`; a second SIGINT or SIGTERM acts as usual.

    Those that no person types may come in numbers (a closed terminal and its shell both send SIGHUP) and before a
    SIGTERM: they never cut the saving short.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._previous = take_signals(self._request)
        _polite.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _polite.remove(self)
        give_signals_back(self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        _heard.append(number)
        leave_closed_terminal(number)
        if signal.Signals(number).name in ASKING:
            give_signals_back(self._previous, ASKING)


PATIENCE = 20.0
"""Seconds after which a signal is answered although the main thread has not come back to Python: schedulers wait for 30
to 60. A compiled search can take minutes, and until then Python calls no handler."""


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """While active, the first signal that asks to stop raises as Ctrl-C does; then a SIGTERM acts as usual.

    Where the main thread does not come back to Python within `PATIENCE`, and no `StopRequest` is active, the process
    says its `last_words` and ends. Nothing is lost by that: what is kept is kept whole.
    """
    previous: dict[int, Any] = {}
    came: list[int] = []
    heard_before = len(_heard)

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        leave_closed_terminal(number)
        give_signals_back(previous, ASKING)
        if len(came) == 1:
            raise Interrupted(f"Stopped by {signal.Signals(number).name}.")

    previous |= take_signals(interrupt, ("SIGTERM", *ONLY_IF_FREE))  # SIGINT raises without our doing
    _ours.add(interrupt)
    with _impatient(set(previous), lambda: bool(came) or len(_heard) > heard_before) if previous else nullcontext():
        try:
            yield
        finally:
            _ours.discard(interrupt)
            give_signals_back(previous)


@contextmanager
def last_words(say: Callable[[], str]) -> Iterator[None]:
    """While active, a process that ends for lack of patience says what `say` returns."""
    _words.append(say)
    try:
        yield
    finally:
        _words.remove(say)


@contextmanager
def _impatient(numbers: set[int], answered: Callable[[], bool]) -> Iterator[None]:
    """Ends the process some time after a signal that nobody answers, from a thread of its own."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while signals := os.read(reading, 1):
            deadline = time.monotonic() + PATIENCE
            while signals[0] in numbers and not answered() and not _polite and time.monotonic() < deadline:
                time.sleep(0.05)
            # A StopRequest answers after its step, however long that takes.
            if signals[0] in numbers and not answered() and not _polite:
                leave_closed_terminal(signals[0])
                said = " ".join(say() for say in _words)
                name = signal.Signals(signals[0]).name
                try:
                    os.write(2, f"Stopped by {name} amid a computation. {said}\n{GOES_ON}\n".encode())
                finally:
                    os._exit(STATUS)

    watcher = threading.Thread(target=watch, daemon=True, name="impatience")
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        watcher.join()
        os.close(reading)


_polite: list[StopRequest] = []
"""Those that are active."""

_heard: list[int] = []
"""Signals that one of them has noted."""

_words: list[Callable[[], str]] = []
_ours: set[Handler] = set()
"""Handlers of `signals_interrupt`, which give way to others."""


def take_signals(handler: Handler, names: tuple[str, ...] = (*ASKING, *ONLY_IF_FREE)) -> dict[int, Any]:
    """Has a handler called on signals that ask to stop.

    Args:
        handler: as `signal.signal` takes it.
        names: names of the signals.

    Returns:
        What they did before, for `give_signals_back`.
    """
    # Python delivers signals to the main thread only; elsewhere (a launcher's worker) there is nothing to install.
    if threading.current_thread() is not threading.main_thread():
        return {}
    previous = {}
    for name in names:
        number = getattr(signal, name, None)  # Windows lacks some of them
        if number is None:
            continue
        present = signal.getsignal(number)
        if name in ASKING or present is signal.SIG_DFL or present in _ours:
            previous[number] = signal.signal(number, handler)
    return previous


def give_signals_back(previous: dict[int, Any], names: tuple[str, ...] = (*ASKING, *ONLY_IF_FREE)) -> None:
    """Undoes `take_signals` for the signals of these names, once."""
    for number in [number for number in previous if signal.Signals(number).name in names]:
        signal.signal(number, previous.pop(number))


def leave_closed_terminal(number: int) -> None:
    """Lets messages go nowhere after SIGHUP if the terminal is gone: to write there would raise amid the saving."""
    if number != getattr(signal, "SIGHUP", None):
        return
    for descriptor in (1, 2):
        try:
            os.tcgetpgrp(descriptor)
        except OSError as error:
            if error.errno == errno.EIO:  # what any use of a closed terminal says; a pipe or file says ENOTTY
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
