"""Find, download or generate the data of a task, ahead of training: `python -m s5c.data prepare task=imdb`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("data")

import sys
import time
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s5c import config as settings
from s5c.cli import errors, run
from s5c.data.base import Dataset, Split
from s5c.data.decode import Windows


def main(config: DictConfig) -> None:
    """Prepares the data and prints what it is."""
    values = settings.plain(config)
    settings.check_keys(values, ("task",))
    job = settings.task_job(values["task"])
    began = time.monotonic()
    dataset = job.task.load()
    console = Console(highlight=False, emoji=False)
    console.print(_table(dataset))
    kind = f"{dataset.features} {'token ids' if dataset.tokens else 'channel(s)'}, {dataset.classes} "
    kind += "classes" if dataset.targets is None else "target(s)"
    console.print(f"{kind}, fingerprint {dataset.fingerprint()}, ready in {time.monotonic() - began:.1f} s.")


def _table(dataset: Dataset) -> Table:
    table = Table(title=escape(f"{dataset.name} [source={dataset.source}]"), title_justify="left")
    for column in ("split", "examples", "steps", "mean length", "longest", "mean padded"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in dataset.splits.items():
        table.add_row(name, f"{len(split):,}", f"{dataset.length:,}", *_lengths(split))
    return table


def _lengths(split: Split) -> tuple[str, str, str]:
    if split.lengths is None:
        return "all", "all", "all"
    return f"{split.lengths.mean():,.1f}", f"{split.lengths.max():,}", f"{_padded(split).mean():,.1f}"


def _padded(split: Split) -> np.ndarray:
    """Returns the steps that each sequence is padded to; of a pair, the longer one decides."""
    stored = split.padded_lengths()
    return split.decode.steps(stored) if isinstance(split.decode, Windows) else stored


def command(arguments: list[str]) -> Any:
    """Runs `prepare`, the only subcommand."""
    if arguments[:1] != ["prepare"]:
        errors.print(escape("Usage: python -m s5c.data prepare task=NAME [task.data_dir=FOLDER ...]"))
        sys.exit(1)
    sys.argv[1:] = arguments[1:]
    run(main, "data")


if __name__ == "__main__":
    command(sys.argv[1:])
