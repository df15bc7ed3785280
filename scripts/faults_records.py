"""Damages what finished jobs leave behind; whoever reads it must find what was written, or say what is damaged.

    python scripts/faults_records.py [--rounds 4] [--seed 0]

One bit of a file is changed, or it is cut, emptied or removed: of a training's steps and of what is said about them,
of rows, tables and arrays that reports read, of zoo models. Then it is read as the commands read it. Another model,
another number or a traceback is a failure; so is a refusal that does not name what is damaged, or whose way out,
`resume=rebuild`, does not lead to the same model. A table is printed; the exit status is 1 if any try failed. Takes
minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import jax
import numpy as np
from fault_table import Counted, record
from faults import NotSurvivedError, require
from rich.console import Console
from rich.table import Table

from s5c import config
from s5c.cli import register_resolvers
from s5c.errors import UserError
from s5c.locations import conf_dir
from s5c.pipeline import zoo
from s5c.pipeline.restored import restore as restored
from s5c.pipeline.trained import TrainedModel, obtain
from s5c.report.collect import collect, read_spectra, restore, store
from s5c.report.row import Row
from s5c.tracking.metrics import read_metrics
from s5c.train import resolve
from s5c.training.checkpoint import load

MODEL = ("model.n_layers=2", "model.d_model=8", "model.state_size=8", "model.blocks=2", "train.epochs=4")
TRAIN = (*MODEL, "train.batch_size=250", "reduction=none", "evaluation.latency=false", "wandb=disabled")
REDUCE = ("reduction=last", "reduction.ratio=[0.25,0.5]", "evaluation.latency=false", "wandb=disabled")
TUNE = (*REDUCE[:1], "reduction.ratio=0.5", "reduction.finetune.epochs=3", *REDUCE[2:], "name=tuned")
A_YEAR = """
import datetime, runpy, sys
class Slow(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(days=365)
datetime.datetime = Slow
runpy.run_module("s5c." + sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a command with a clock that is a year late."""

Tried = tuple[str, str]
"""How it ended, such as "same" or "refused", and what was damaged."""


class Home:
    """A training, a reduction of it, a report and a zoo model, all undamaged, and copies of them to damage.

    Args:
        root: an empty folder.
        rng: decides places and kinds of damage.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng, self.did = root, rng, ""
        run(root, "train", *TRAIN)
        self.training = next(root.glob("results/trained/*"))
        run(root, "reduce", f"checkpoint={self.training}", *REDUCE)
        run(root, "reduce", f"checkpoint={self.training}", *TUNE)
        self.run = next(root.glob("results/reduce/*"))
        self.tuned = next(root.glob("results/tuned/*/finetuned/*"))
        self.rows = collect([self.run])
        self.report = root / "report"
        store(self.rows, read_spectra(self.rows), self.report)
        trained = restored({"checkpoint": str(self.training)}, which="best")
        zoo.export(trained, "tiny")
        self.expected = {which: weights(self.obtained(self.training, which)) for which in ("best", "latest")}

    def obtained(self, training: Path, which: str = "best", resume: str = "auto") -> TrainedModel:
        """Returns the model as `s5c.train` does, with the training in `training`."""
        register_resolvers()
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            overrides = [*TRAIN, f"results_dir={training.parents[1]}", f"resume={resume}"]
            job = resolve(config.plain(hydra.compose("train", overrides)))[0]
        return obtain(job, Console(file=io.StringIO()), which=which)

    def copy(self, folder: Path) -> Path:
        """Returns a copy of a folder at the same depth and under the same name."""
        place = Path(tempfile.mkdtemp(dir=self.root)) / folder.parent.name / folder.name
        return Path(shutil.copytree(folder, place))

    def damage(self, file: Path, ways: tuple[str, ...] = ("changed", "changed", "cut", "emptied", "gone")) -> str:
        """Damages a file and returns how."""
        content, how = bytearray(file.read_bytes()), self.rng.choice(ways)
        position = self.rng.randrange(len(content))
        if how == "gone":
            file.unlink()
        elif how == "changed":
            content[position] ^= 1 << self.rng.randrange(8)
            file.write_bytes(content)
        else:
            file.write_bytes(content[: position if how == "cut" else 0])
        self.did = f"{file.name[:24]} {how}" + (f" at {position}" if how in ("changed", "cut") else "")
        return self.did

    def some(self, folder: Path) -> Path:
        """Returns one of the files in a folder that hold anything."""
        return self.rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))


def run(folder: Path, entry: str, *arguments: str, program: tuple[str, ...] | None = None) -> str:
    """Runs a command to its end and returns what it says."""
    command = [sys.executable, *(program or ("-m", f"s5c.{entry}")), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    require(done.returncode == 0, f"{entry} failed: {done.stderr[-500:]}")
    return done.stderr


def weights(model: TrainedModel) -> list[bytes]:
    """Returns all arrays of a network."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model.weights)]


def read(reader: Callable[[], Any], expected: Any, named: Path | str) -> str:
    """Returns how reading something damaged ended; raises unless what was written is read, or the damage named."""
    try:
        found = reader()
    except UserError as error:
        require(str(named) in str(error), f"it does not name {named}: {error}")
        return "refused"
    except Exception as error:
        raise NotSurvivedError(f"{type(error).__name__}: {error}") from error
    require(found == expected, "something else was read, without a word")
    return "same"


# ---- faults: each damages one thing, reads it, and says how it ended


def a_training(home: Home, training: Path, which: str, said: str) -> Tried:
    """Obtains a model of a damaged training; if it is refused, by the way out as well."""
    ended = read(lambda: weights(home.obtained(training, which)), home.expected[which], training)
    if ended == "refused":
        again = weights(home.obtained(training, which, "rebuild"))
        require(again == home.expected[which], "resume=rebuild makes another model")
        require(weights(home.obtained(training, which)) == again, "the command goes on with another model")
        ended = "refused, made again"
    for name in ("identity.json", "environment.json", "trained.json"):
        json.loads((training / name).read_text())
    shutil.rmtree(training.parents[1])
    return ended, said


def finished_training(home: Home) -> Tried:
    """A file of the step that the model is."""
    training, which = home.copy(home.training), home.rng.choice(["best", "latest"])
    file = home.some(load(training, which=which).path)
    return a_training(home, training, which, f"{which}: {home.damage(file)}")


def step_gone(home: Home) -> Tried:
    """The folder of the step that the model is, or all steps."""
    training, which = home.copy(home.training), home.rng.choice(["best", "latest"])
    place = home.rng.choice([load(training, which=which).path, training / "checkpoints"])
    shutil.rmtree(place)
    return a_training(home, training, which, f"{which}: {place.name} gone")


def said_of_a_training(home: Home) -> Tried:
    """A file beside the steps: trained.json, identity.json, environment.json, metrics.jsonl."""
    training = home.copy(home.training)
    file = home.rng.choice(sorted(path for path in training.iterdir() if path.suffix in (".json", ".jsonl")))
    return a_training(home, training, "best", home.damage(file))


def unfinished_training(home: Home) -> Tried:
    """A file of any step of a training that was stopped at its end."""
    training = home.copy(home.training)
    (training / "trained.json").unlink()
    file = home.some(training / "checkpoints")
    said = f"step {file.relative_to(training / 'checkpoints').parts[0]}: {home.damage(file)}"
    return a_training(home, training, "best", said)


def read_by_path(home: Home) -> Tried:
    """A step, or a reduced model, given by its path."""
    training = home.copy(home.training)
    place = load(training).path if home.rng.random() < 0.5 else home.copy(next(home.run.glob("reduced/*")))
    expected = weights_in(place)
    file = home.some(place)
    how = home.damage(file)
    return read(lambda: weights_in(place), expected, place), how


def weights_in(path: Path) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load(path).weights)]


def zoo_model(home: Home) -> Tried:
    """The weights or the card of a zoo model."""
    folder = zoo.zoo_dir() / "tiny"
    expected = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(zoo.load("tiny").weights)]
    kept = {name: (folder / name).read_bytes() for name in ("weights.safetensors", "card.json")}
    name = home.rng.choice(sorted(kept))
    how = home.damage(folder / name)
    try:
        model = lambda: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(zoo.load("tiny").weights)]  # noqa: E731
        return read(model, expected, "tiny"), how
    finally:
        for name, content in kept.items():
            (folder / name).write_bytes(content)


def rows_of_a_run(home: Home) -> Tried:
    """rows.jsonl, as a report reads it."""
    folder = home.copy(home.run)
    how = home.damage(folder / "rows.jsonl", ("changed", "changed", "cut", "emptied"))
    steady = [{**row, "folder": ""} for row in home.rows]
    ended = read(lambda: [{**row, "folder": ""} for row in collect([folder])], steady, folder)
    shutil.rmtree(folder)
    return ended, how


def stored_table(home: Home) -> Tried:
    """table.csv, as published results are read."""
    folder = home.copy(home.report)
    how = home.damage(folder / "table.csv", ("changed", "changed", "cut", "emptied"))
    ended = read(lambda: restore(folder)[0], restore(home.report)[0], folder)
    shutil.rmtree(folder)
    return ended, how


def metrics_of_a_run(home: Home) -> Tried:
    """metrics.jsonl; a last line that is cut is one that a killed process has not written to its end."""
    folder = home.copy(home.training)
    path = folder / "metrics.jsonl"
    expected = read_metrics(path)
    how = home.damage(path)
    if path.exists() and " changed " not in how:
        expected = expected[: whole_lines(path.read_bytes())]
    ended = read(lambda: read_metrics(path), expected, path)
    shutil.rmtree(folder)
    return ended, how


def whole_lines(content: bytes) -> int:
    """Returns how many lines are whole, one that lacks nothing but its end among them."""
    *lines, tail = content.split(b"\n")
    try:
        json.loads(tail)
    except ValueError:
        return len(lines)
    return len(lines) + 1


def arrays_of_a_run(home: Home) -> Tried:
    """spectra.npz or correct.npz: a report is made without a damaged one, and says so."""
    folder, heard = home.copy(home.run), io.StringIO()
    path = folder / home.rng.choice(["spectra.npz", "correct.npz"])
    before = shown_of(collect([folder]))
    how = home.damage(path, ("changed", "changed", "cut", "emptied"))
    handler = logging.StreamHandler(heard)
    logging.getLogger("s5c").addHandler(handler)
    try:
        after = shown_of(collect([folder]))
    except Exception as error:
        raise NotSurvivedError(f"{type(error).__name__}: {error}") from error
    finally:
        logging.getLogger("s5c").removeHandler(handler)
    told = str(path) in heard.getvalue()
    require(told or after == before, "a figure changes without a word")
    shutil.rmtree(folder)
    return "reported" if told else "same", how


def shown_of(rows: list[Row]) -> Any:
    spectra = {name: array.tobytes() for found in read_spectra(rows).values() for name, array in found.items()}
    return spectra, [{key: row.get(key) for key in ("points_lost_se", "above_last_se", "ratio")} for row in rows]


def finetuning(home: Home) -> Tried:
    """A file of the best step of a training after a reduction; the command given again makes it again."""
    training = home.copy(home.training)
    root = training.parents[1]
    run(root, "reduce", f"checkpoint={training}", *TUNE)
    tuned = next(root.glob("results/tuned/*/finetuned/*"))
    best = load(tuned)
    expected, row = best.metadata["checksum"]["weights"], final_loss(root)
    file = home.some(best.path)
    how = home.damage(file)
    for kept in root.glob("results/tuned/*/*"):
        if kept.name not in ("finetuned", "identity.json"):  # what was made of it is made again
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    run(root, "reduce", f"checkpoint={training}", *TUNE)
    require(load(tuned).metadata["checksum"]["weights"] == expected, "another step was taken")
    require(final_loss(root) == row, "another row")
    shutil.rmtree(root)
    return "same", how


def final_loss(root: Path) -> float:
    path = next(root.glob("results/tuned/*/rows.jsonl"))
    return float(json.loads(path.read_text().splitlines()[-1])["test_loss"])


def clock_set_back(home: Home) -> Tried:
    """A second job with the same answer to give, while the clock is a year late: a report shows the second."""
    training = home.copy(home.training)
    root = training.parents[1]
    common = (f"checkpoint={training}", "reduction=last", "evaluation.latency=false", "wandb=disabled")
    run(root, "reduce", *common, "reduction.ratio=0.5")
    run(root, "reduce", *common, "reduction.ratio=[0.5,0.75]", program=("-c", A_YEAR, "reduce"))
    shown = {row["ratio"]: Path(row["folder"]).name for row in collect([root / "results/reduce"])}
    require(shown[0.5] == shown[0.75], "the old row is shown")
    shutil.rmtree(root)
    return "newest shown", "a year"


FAULTS: dict[Callable[[Home], Tried], int] = {
    finished_training: 4,
    step_gone: 1,
    said_of_a_training: 3,
    unfinished_training: 2,
    read_by_path: 10,
    zoo_model: 50,
    rows_of_a_run: 50,
    stored_table: 50,
    metrics_of_a_run: 50,
    arrays_of_a_run: 25,
    finetuning: 1,
    clock_set_back: 1,
}
"""Tries per round."""


def main() -> int:
    """Runs all rounds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="how often all faults are tried (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the places and kinds of damage (default: 0)")
    parser.add_argument("--only", default="", help="names of faults, separated by commas")
    parser.add_argument("--output", type=Path, help="folder of faults.csv and faults.md to write the table to")
    options = parser.parse_args()
    console, rng, failures = Console(highlight=False), random.Random(options.seed), 0
    logging.getLogger("s5c").propagate = False
    table = Table("fault", "tried", "survived", "of these", "seconds")
    rows = []
    with tempfile.TemporaryDirectory() as root:
        os.environ["S5C_ZOO"] = str(Path(root) / "zoo")
        home = Home(Path(root), rng)
        for fault, count in FAULTS.items():
            if options.only and fault.__name__ not in options.only.split(","):
                continue
            ends, began, tries = Counter[str](), time.monotonic(), count * options.rounds
            for number in range(tries):
                try:
                    ended, how = fault(home)
                    ends[ended] += 1
                except NotSurvivedError as error:
                    failures += 1
                    said = f"{fault.__name__} {number + 1}, {home.did}: {error}"
                    console.print(said, style="red", soft_wrap=True, markup=False)
                    continue
                if tries <= 16:
                    console.print(f"{fault.__name__:20} {how:48} {ended}", soft_wrap=True)
            name, survived = fault.__name__.replace("_", " "), sum(ends.values())
            rows.append(Counted(name, tries, survived))
            shown = ", ".join(f"{number} {ended}" for ended, number in sorted(ends.items()))
            table.add_row(name, str(tries), str(survived), shown, f"{time.monotonic() - began:.0f}")
    console.print(table)
    console.print(f"{failures} tries ended with something else than what was written, without a word.")
    if options.output:
        record(options.output, "records", rows)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
