"""Signals that ask to stop: whose they are, how often they count, and what a closed terminal does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s5c.training.interrupt import Interrupted, StopRequest, signals_interrupt

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _usual() -> Iterator[None]:
    """The handlers of a process that a terminal started, whatever started the tests."""
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ALL[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ALL)
def test_a_request_is_noted(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in ALL}
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert {one: signal.getsignal(one) for one in ALL} == before


def test_what_no_person_types_never_cuts_the_saving_short() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)  # somebody insists


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_somebody_else_wants_is_left_to_them(number: signal.Signals) -> None:
    """`nohup` ignores SIGHUP; Submitit listens to SIGUSR1."""
    heard: list[int] = []
    for handler in (signal.SIG_IGN, lambda number, frame: heard.append(number)):
        signal.signal(number, handler)
        with signals_interrupt(), StopRequest() as stop:
            signal.raise_signal(number)
            assert not stop.requested and signal.getsignal(number) is handler
    assert heard == [number]


@pytest.mark.parametrize("number", ALL[1:])
def test_elsewhere_it_interrupts_once(number: signal.Signals) -> None:
    with pytest.raises(Interrupted, match=f"Stopped by {number.name}"), signals_interrupt():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGHUP)  # while it unwinds
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert all(signal.getsignal(one) is signal.SIG_DFL for one in ALL[1:])


def test_a_stop_request_comes_before_an_interruption() -> None:
    with signals_interrupt():
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)


def test_another_thread_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with signals_interrupt(), StopRequest():
            assert signal.getsignal(signal.SIGTERM) is before

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


IN_A_TERMINAL = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from s5c.training.interrupt import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    deadline = time.monotonic() + 60
    while not stop.requested and time.monotonic() < deadline:
        time.sleep(0.01)
    print("goes on writing", flush=True)
    print("and so does this", file=sys.stderr, flush=True)
    with open(sys.argv[1], "w") as file:
        file.write("saved")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="opens a terminal")
def test_a_closed_terminal_does_not_break_the_saving(tmp_path: Path) -> None:
    """The system sends SIGHUP, and from then on every write to the terminal fails."""
    keyboard, screen = pty.openpty()
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(saved)],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        start_new_session=True,
    )
    os.close(screen)
    assert b"ready" in os.read(keyboard, 100)
    os.close(keyboard)
    assert process.wait(60) == 0
    assert saved.read_text() == "saved"


IN_A_COMPUTATION = """
import ctypes, sys
from s5c.training import interrupt
interrupt.PATIENCE = 0.3
mutex, system = ctypes.create_string_buffer(64), ctypes.CDLL(None)
with interrupt.signals_interrupt(), interrupt.last_words(lambda: "2 of 3 are kept."):
    print("ready", flush=True)
    for _ in range(2):  # waits for ever, and for no signal, as compiled code does
        system.pthread_mutex_lock(mutex)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="blocks in the C library")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_amid_compiled_code_is_answered(number: signal.Signals) -> None:
    command, pipe = [sys.executable, "-c", IN_A_COMPUTATION], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # it calls the library
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped, goes_on = said.splitlines()
    assert stopped == f"Stopped by {number.name} amid a computation. 2 of 3 are kept."
    assert goes_on == "The same command goes on from there."


def test_patience_is_for_whoever_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a training may take longer than that: it is waited for, or this process would end here."""
    monkeypatch.setattr("s5c.training.interrupt.PATIENCE", 0.1)
    with signals_interrupt(), StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert stop.requested
    with pytest.raises(Interrupted), signals_interrupt():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            time.sleep(0.5)  # saves
