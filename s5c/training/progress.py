"""The progress of training: a bar on a terminal, one line per epoch in a pipe or a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@runtime_checkable
class Reporter(Protocol):
    """What the loop tells whoever is watching."""

    def step(self, done: int, *, epoch: int, examples: int) -> None:
        """`done` steps of the whole training are finished; `examples` were processed since the last call."""

    def epoch(self, message: str) -> None:
        """An epoch is finished."""


class _Bar:
    def __init__(self, progress: Progress, total: int, epochs: int) -> None:
        self._progress, self._total, self._epochs = progress, total, epochs
        self._task = progress.add_task("compiling the training step", total=total, speed="", note="")
        self._since, self._examples = time.monotonic(), 0

    def step(self, done: int, *, epoch: int, examples: int) -> None:
        self._examples += examples
        elapsed = time.monotonic() - self._since
        if elapsed < 0.5 and done < self._total:
            return
        speed = f"{self._examples / elapsed:,.0f} samples/s" if elapsed > 0 else ""
        self._since, self._examples = time.monotonic(), 0
        text = f"epoch {epoch + 1}/{self._epochs} · step {done}/{self._total}"
        self._progress.update(self._task, completed=done, description=text, speed=speed)

    def epoch(self, message: str) -> None:
        self._progress.update(self._task, note=message)


class _Lines:
    def __init__(self, console: Console, steps: int, epochs: int, done: int) -> None:
        self._console, self._epochs, self._finished = console, epochs, done * epochs // steps if steps else 0

    def step(self, done: int, *, epoch: int, examples: int) -> None:
        pass

    def epoch(self, message: str) -> None:
        self._finished += 1
        self._console.print(f"epoch {self._finished}/{self._epochs} · {message}", markup=False, soft_wrap=True)


@contextmanager
def training_progress(console: Console, *, steps: int, epochs: int, done: int = 0) -> Iterator[Reporter]:
    """Shows epoch, step, samples/s, the last epoch's result and the remaining time.

    Args:
        console: where to draw; one that is no terminal gets a line per epoch.
        steps: number of steps of the whole training.
        epochs: number of epochs of the whole training.
        done: steps finished before, in a resumed training.
    """
    if not console.is_terminal:
        yield _Lines(console, steps, epochs, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[speed]}", style="cyan"),
        TextColumn("eta"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="green"),
    )
    with Progress(*columns, console=console) as progress:
        bar = _Bar(progress, steps, epochs)
        if done:
            progress.update(bar._task, completed=done)
        yield bar
