"""Disturbs a small real training in many ways; the same command must then end exactly as if nothing had happened.

    python scripts/faults.py [--rounds 4] [--seed 0]

Every round starts `python -m s5c.train` in an empty folder, disturbs it, gives the same command again and compares
weights, optimiser state and the record of every epoch, bit for bit, with an undisturbed training.
A table is printed; the exit status is 1 if any round failed. Takes minutes, needs a POSIX system.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_table import Counted, record
from rich.console import Console
from rich.table import Table

from s5c.tracking.metrics import read_metrics
from s5c.training.checkpoint import load

EPOCHS, STEPS = 10, 5
COMMAND = (
    *("model.n_layers=2", "model.d_model=8", "model.state_size=8", "model.blocks=2"),
    *(f"train.epochs={EPOCHS}", f"train.batch_size={1257 // STEPS}", "reduction=none"),
    *("evaluation.latency=false", "wandb=disabled"),
)
EVERY_STEP = "train.checkpoint_minutes=0"
DISK_FILLS_AT = """
import resource, runpy, sys
from s5c.training.checkpoint import CheckpointStore
full, save = int(sys.argv.pop(1)), CheckpointStore.save
def limited(self, step, **items):
    if step >= full:  # a file size limit fails writes as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    save(self, step, **items)
CheckpointStore.save = limited
runpy.run_module("s5c.train", run_name="__main__", alter_sys=True)
"""


class NotSurvivedError(Exception):
    """The training did not end as it should have."""


def start(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "s5c.train")) -> subprocess.Popen[str]:
    """Starts the training in a process of its own."""
    command = [sys.executable, *program, *COMMAND, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(folder: Path) -> None:
    """Gives the command again and waits for its end."""
    process = start(folder)
    _, said = process.communicate()
    require(process.returncode == 0, f"the command given again failed: {said[-500:]}")


def trained(folder: Path) -> Path:
    """Returns the folder of the training."""
    return next(folder.glob("results/trained/*"))


def fingerprint(folder: Path) -> dict[str, Any]:
    """Returns what must be equal: checksums of the arrays, the choice of the best epoch, the record without times."""
    best, latest = (load(trained(folder), which=which) for which in ("best", "latest"))
    rows = [row for row in read_metrics(trained(folder) / "metrics.jsonl") if row["event"] == "epoch"]
    record = [{k: v for k, v in row.items() if k not in ("time", "seconds", "attempt")} for row in rows]
    arrays = [{item: c.metadata["checksum"][item] for item in ("weights", "training")} for c in (best, latest)]
    return {"steps": (best.step, latest.step), "arrays": arrays, "record": record}


def require(condition: bool, problem: str) -> None:
    """Raises `NotSurvivedError` unless the condition holds."""
    if not condition:
        raise NotSurvivedError(problem)


def newest(folder: Path) -> int:
    """Returns the newest step on disk, 0 if there is none."""
    names = [path.name for path in folder.glob("results/trained/*/checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def await_save(folder: Path, process: subprocess.Popen[str], *, after: int = 0) -> None:
    """Returns when there is a step newer than `after`, or the process has ended."""
    while newest(folder) <= after and process.poll() is None:
        time.sleep(0.002)


# ---- faults: each disturbs a training in an empty folder and says how; `finish` and the comparison come afterwards


def killed(folder: Path, whole: Path, rng: random.Random) -> str:
    """Kill -9 three times, each a random time after the process has saved something."""
    ends: list[int] = []
    for _ in range(3):
        process = start(folder, EVERY_STEP)
        await_save(folder, process, after=newest(folder))
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        require(process.returncode in (0, -signal.SIGKILL), f"status {process.returncode}")
        ends.append(newest(folder))
    return f"kill -9 at steps {', '.join(map(str, ends))}"


def interrupted(folder: Path, whole: Path, rng: random.Random) -> str:
    """SIGINT or SIGTERM."""
    number = rng.choice([signal.SIGINT, signal.SIGTERM])
    process = start(folder, *rng.choice([(), (EVERY_STEP,)]))
    await_save(folder, process)
    process.send_signal(number)
    _, said = process.communicate()
    require(process.returncode == 130 and "Traceback" not in said, f"status {process.returncode}: {said[-300:]}")
    return f"{number.name} at step {newest(folder)}"


def disk_full(folder: Path, whole: Path, rng: random.Random) -> str:
    """No checkpoint can be written from some step on."""
    step = rng.randrange(1, EPOCHS * STEPS)
    process = start(folder, EVERY_STEP, program=("-c", DISK_FILLS_AT, str(step)))
    _, said = process.communicate()
    named = "Saving a checkpoint failed" in said and "same command again" in said
    require(process.returncode == 1 and named and "Traceback" not in said, f"{process.returncode}: {said}")
    return f"from step {step} on"


def damaged(folder: Path, whole: Path, rng: random.Random) -> str:
    """One file of the newest checkpoint is cut, changed by one bit or gone."""
    shutil.copytree(whole / "results/trained", folder / "results/trained")
    (trained(folder) / "trained.json").unlink()
    latest = load(trained(folder), which="latest").path
    files = sorted(file for file in latest.rglob("*") if file.is_file() and file.stat().st_size)
    file, how = rng.choice(files), rng.choice(["cut", "changed", "gone"])
    content = bytearray(file.read_bytes())
    position = rng.randrange(len(content))
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:position])
    else:
        content[position] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    return f"{file.relative_to(latest).as_posix()[:30]} {how}"


FAULTS: list[Callable[[Path, Path, random.Random], str]] = [killed, interrupted, disk_full, damaged]


def main() -> int:
    """Runs all rounds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="rounds per fault (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places of the faults (default: 0)")
    parser.add_argument("--output", type=Path, help="folder of faults.csv and faults.md to write the table to")
    options = parser.parse_args()
    console, rng, survived = Console(highlight=False), random.Random(options.seed), Counter[str]()
    table = Table("fault", "how", "seconds", "same result")
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        whole.mkdir()
        finish(whole)
        expected = fingerprint(whole)
        for number in range(options.rounds * len(FAULTS)):
            fault, folder, began = FAULTS[number % len(FAULTS)], Path(root) / str(number), time.monotonic()
            folder.mkdir()
            how = ""
            try:
                how = fault(folder, whole, rng)
                finish(folder)
                found = fingerprint(folder)
                different = [key for key in expected if found[key] != expected[key]]
                require(not different, f"other {', '.join(different)}")
                survived[fault.__name__] += 1
                verdict = "[green]yes[/]"
            except NotSurvivedError as error:
                verdict = f"[red]no: {error}[/]"
            table.add_row(fault.__name__.replace("_", " "), how, f"{time.monotonic() - began:.0f}", verdict)
            console.print(f"{number + 1:3}  {fault.__name__:12} {how:42} {verdict}", soft_wrap=True)
    console.print(table)
    rounds = options.rounds * len(FAULTS)
    console.print(f"{survived.total()} of {rounds} rounds ended as the undisturbed training did.")
    if options.output:
        names = [fault.__name__ for fault in FAULTS]
        rows = [Counted(name.replace("_", " "), options.rounds, survived[name]) for name in names]
        record(options.output, "trainings", rows)
    return 0 if survived.total() == rounds else 1


if __name__ == "__main__":
    sys.exit(main())
