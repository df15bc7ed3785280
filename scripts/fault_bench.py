"""A round of `faults_reductions.py`: a folder with trained models, how to reduce them, and what must then be equal."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from faults import NotSurvivedError, require

from s5c.checksums import unsealed_table
from s5c.errors import UserError
from s5c.training.checkpoint import load

RATIOS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
COMMAND = ("reduction=last", f"reduction.ratio=[{','.join(map(str, RATIOS))}]", "evaluation.latency=false")


class Bench:
    """One round: a folder with trained models in it, and how to reduce them.

    Args:
        folder: of the round; results go below.
        models: the trainings, outside of it.
        whole: the run folder of an undisturbed reduction.
        outdated: the same, made by other code.
        rng: decides moments and places.
        lasts: seconds from the first file to the end of an undisturbed reduction.
    """

    def __init__(
        self, folder: Path, models: list[Path], whole: Path, outdated: Path, rng: random.Random, lasts: float
    ) -> None:
        self.folder, self.models, self.whole, self.outdated = folder, models, whole, outdated
        self.rng, self.lasts = rng, lasts
        folder.mkdir()

    @property
    def run(self) -> Path:
        """The run folder of the first model."""
        return self.folder / "results/reduce" / self.whole.name

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "s5c.reduce")) -> subprocess.Popen[str]:
        """Starts the reduction in a process of its own."""
        given = arguments if any(a.startswith("checkpoint=") for a in arguments) else (*arguments, self.checkpoint())
        command = [sys.executable, *program, *given, *COMMAND, "wandb=disabled"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, stdout=pipe, stderr=pipe, text=True)

    def checkpoint(self, number: int = 0) -> str:
        """Returns the override that names a model."""
        return f"checkpoint={self.models[number]}"

    def finish(self, *arguments: str) -> str:
        """Gives the command again and returns what it says."""
        process = self.start(*arguments)
        _, said = process.communicate()
        require(process.returncode == 0, f"the command given again failed: {said[-300:]}")
        return said

    def amid(self, process: subprocess.Popen[str]) -> None:
        """Returns at a random moment of the work of a process: around a random part, or later; or when it has ended."""
        began, wanted = time.time(), self.rng.randrange(len(RATIOS) + 3)
        while self.progress(began) < wanted and process.poll() is None:
            time.sleep(0.002)
        drawing = wanted == len(RATIOS) + 2
        time.sleep(self.rng.uniform(0, self.lasts if drawing else 0.2))

    def progress(self, since: float) -> int:
        """Returns how many parts have been written since a moment."""
        count = 0
        for path in (*self.run.glob("reduced/*/row.json"), *self.run.glob("parts/*/row.json")):
            try:
                count += path.stat().st_mtime > since
            except FileNotFoundError:
                continue
        return count

    def made(self) -> int:
        """Returns how many networks are there."""
        return len(list(self.run.glob("reduced/*")))


def check_rows(run: Path) -> None:
    """Raises unless every row names a network that is there, whole, and answers as the row says."""
    path = run / "rows.jsonl"
    if not path.exists():
        return
    for row in map(json.loads, path.read_text().splitlines()):
        if row["reduction"] == "full":
            continue
        try:
            stored = load(run / "reduced" / Path(row["checkpoint"]).name).metadata
        except UserError as error:
            raise NotSurvivedError(f"a row names a network that is not there: {error}") from error
        require(stored["metrics"]["test_loss"] == row["test_loss"], "a row is not of the network it names")
        require(sum(stored["state_dims"]) == row["states"], "a row is not of the network it names")
        require(stored["trained_id"] == row["trained_id"], "a row names the network of another model")


def fingerprint(run: Path) -> dict[str, Any]:
    """Returns what must be equal: rows without times and places, checksums of all weights, arrays, names of files."""
    left_out = ("timestamp", "command", "checkpoint", "checkpoint_bytes", "parent", "git")
    rows = unsealed_table([json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()])
    arrays: dict[str, bytes] = {}
    for name in ("spectra.npz", "correct.npz"):
        with np.load(run / name) as stored:
            arrays |= {f"{name}/{key}": array.tobytes() for key, array in stored.items()}
    return {
        "rows": [{k: v for k, v in row.items() if k not in left_out and not k.startswith("seconds")} for row in rows],
        "weights": {path.name: load(path).metadata["checksum"]["weights"] for path in sorted(run.glob("reduced/*"))},
        "arrays": arrays,
        "files": sorted(path.name for path in run.iterdir()),
    }


def computed(run: Path) -> Counter[float]:
    """Returns how many times every ratio was computed to its end."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return Counter(row["ratio"] for row in rows if row["event"] == "reduced")
