"""Runs whole jobs for the tests: in this process, which saves the imports, or in one of their own, which can be killed.

Every job trains the same tiny network, so that compiled programs are shared through JAX's cache.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import hydra
from hydra.core.global_hydra import GlobalHydra

from s5c import cli
from s5c.config import plain
from s5c.locations import conf_dir, results_dir

QUICK = ("evaluation.latency=false", "wandb=disabled")
TINY = (
    *("model.n_layers=2", "model.d_model=8", "model.state_size=8", "model.blocks=2"),
    *("train.epochs=2", "train.batch_size=250"),  # 2 epochs of 5 steps
    *QUICK,
)
BASE = {
    "train": TINY,
    "reduce": QUICK,
    "evaluate": QUICK,
    "predict": (),
    "report": (),
    "convert": (),
    "stream": (),
    "export": (),
}
"""What every command of the tests has in common, by entry point; later arguments override it."""


class Outcome(NamedTuple):
    """How a job ended; `value` is what main() returned, None after an error."""

    code: int
    out: str
    err: str
    value: Any


def run(entry: str, *arguments: str, folder: Path) -> Outcome:
    """Runs `python -m s5c.<entry>` with the tests' base arguments in this process, in the working folder `folder`."""
    command = [f"s5c/{entry}.py", *merged(BASE[entry], arguments)]
    module = importlib.import_module(f"s5c.{entry}")
    main = getattr(module, "main", None) or importlib.import_module(f"s5c.{entry}.__main__").main
    values: list[Any] = []

    @functools.wraps(main)
    def job(config: Any) -> Any:
        values.append(main(config))
        return values[-1]

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", command),
        mock.patch.object(sys, "unraisablehook", sys.unraisablehook),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _logging_restored(),
    ):
        try:
            cli.run(job, entry)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            GlobalHydra.instance().clear()
    return Outcome(code, out.getvalue(), err.getvalue(), values[-1] if values else None)


def spawn(entry: str, *arguments: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Starts `python -m s5c.<entry>` with the tests' base arguments as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", f"s5c.{entry}", *merged(BASE[entry], arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def merged(base: tuple[str, ...], arguments: tuple[str, ...]) -> list[str]:
    """Returns the base arguments that `arguments` does not set, and `arguments`: Hydra refuses one key given twice."""
    given = {argument.split("=")[0] for argument in arguments}
    return [*arguments, *(argument for argument in base if argument.split("=")[0] not in given)]


def compose(config_name: str, *overrides: str) -> dict[str, Any]:
    """Returns the plain configuration of a command line, without running anything."""
    return copy.deepcopy(_composed(config_name, overrides, str(results_dir())))


@functools.cache  # 0.2 s each
def _composed(config_name: str, overrides: tuple[str, ...], results: str) -> dict[str, Any]:
    cli.register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return plain(hydra.compose(config_name, list(overrides)))


def rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a .jsonl file, without what tells attempts and damage."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("attempt", "checksum")} for row in found]


def only(folder: Path, pattern: str) -> Path:
    """Returns the one path below `folder` that matches."""
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


@contextlib.contextmanager
def _logging_restored() -> Any:
    root, s5c = logging.getLogger(), logging.getLogger("s5c")
    before = list(root.handlers), root.level, s5c.level
    try:
        # Hydra's logging setup closes every handler in this list, and absl's would close the stream pytest captures.
        with mock.patch.object(logging, "_handlerList", []):
            yield
    finally:
        logging.captureWarnings(False)
        for handler in root.handlers:
            if handler not in before[0]:
                handler.close()
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        s5c.setLevel(before[2])
