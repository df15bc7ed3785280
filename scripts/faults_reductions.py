"""Disturbs small real reductions in many ways; the same command must then end exactly as if nothing had happened.

    python scripts/faults_reductions.py [--rounds 4] [--seed 0]

Every round starts `python -m s5c.reduce` on a tiny trained model and disturbs it. After every disturbance each row must
name a network that is there, whole, and answers as the row says. Then the same command is given again, and rows,
weights and arrays are compared, bit for bit, with those of an undisturbed run; no target may have been computed twice.
A table is printed; the exit status is 1 if any round failed. Takes minutes, needs a POSIX system.
"""

from __future__ import annotations

import argparse
import os
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

from fault_bench import RATIOS, Bench, check_rows, computed, fingerprint
from fault_table import Counted, record
from faults import NotSurvivedError, require
from rich.console import Console
from rich.markup import escape
from rich.table import Table

TINY = ("model.n_layers=2", "model.d_model=8", "model.state_size=8", "model.blocks=2", "train=smoke", "wandb=disabled")
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
OLDER_CODE = """
import runpy
from s5c.pipeline import question
question.code = lambda: "older"
runpy.run_module("s5c.reduce", run_name="__main__", alter_sys=True)
"""
DISK_FILLS_AT = """
import resource, runpy, sys
from s5c.pipeline import parts
full, save = sys.argv.pop(1), parts.save_single
def limited(path, **items):
    if path.name == full:  # a file size limit fails writes as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
    return save(path, **items)
parts.save_single = limited
runpy.run_module("s5c.reduce", run_name="__main__", alter_sys=True)
"""
GENERATION = "from s5c.data.generator.listops import generate; generate(10**6, seed=0, processes=2, progress=print)"


# ---- faults: each disturbs reductions and says how; the command given again and the comparison come afterwards


def killed(bench: Bench) -> str:
    """Kill -9, three times, at random moments of a first run."""
    ends = []
    for _ in range(3):
        process = bench.start()
        bench.amid(process)
        process.kill()
        process.communicate()
        check_rows(bench.run)
        ends.append(bench.made())
    return f"kill -9 with {', '.join(map(str, ends))} of {len(RATIOS)} networks made"


def killed_again(bench: Bench) -> str:
    """The same amid a run that makes everything again, because it was made by other code."""
    shutil.copytree(bench.outdated, bench.run)
    began, ends = time.time(), []
    for _ in range(3):
        process = bench.start()
        bench.amid(process)
        process.kill()
        process.communicate()
        check_rows(bench.run)
        require(bench.made() == len(RATIOS), "a network is gone before its successor was there")
        ends.append(bench.progress(began))
    return f"kill -9 with {', '.join(map(str, ends))} of {len(RATIOS) + 2} parts made again"


def told_to_stop(bench: Bench) -> str:
    """A signal, which one and when are random, in a first run or in one that makes everything again."""
    again = bench.rng.random() < 0.5
    if again:
        shutil.copytree(bench.outdated, bench.run)
    number, began = bench.rng.choice(ASKING), time.time()
    process = bench.start()
    bench.amid(process)
    process.send_signal(number)
    _, said = process.communicate()
    text = " ".join(said.split())
    if process.returncode == -number and bench.progress(began) == 0:
        check_rows(bench.run)
        return f"{number.name} before anything had begun"  # Python itself had not
    require(process.returncode in (0, 130) and "Traceback" not in said, f"status {process.returncode}: {said[-300:]}")
    if process.returncode:
        require("same command goes on" in text, f"it does not say how to go on: {text[-200:]}")
        told = "kept in" in text or bench.progress(began) == 0
        require(told, f"it does not say what is kept: {text[-200:]}")
    check_rows(bench.run)
    where = "in a second run" if again else f"with {bench.made()} networks made"
    return f"{number.name} {where}, status {process.returncode}"


def several_at_once(bench: Bench) -> str:
    """Two or four processes with the same command; one of four may be killed."""
    count, one_dies = bench.rng.choice([(2, False), (4, False), (4, True)])
    processes = [bench.start() for _ in range(count)]
    dying = bench.rng.choice(processes) if one_dies else None
    if dying is not None:
        bench.amid(dying)
        dying.kill()
    said = [process.communicate() for process in processes]
    ends = [process.returncode for process in processes if process is not dying]
    require(set(ends) == {0}, f"ends {ends}: {[err[-200:] for _, err in said]}")
    tables = {out for process, (out, _) in zip(processes, said, strict=True) if process is not dying}
    require(len(tables) == 1, "they print different tables")
    return f"{count} at once{', one killed' if one_dies else ''}"


def disk_full(bench: Bench) -> str:
    """No network can be written from one of them on."""
    ratio = bench.rng.choice(RATIOS)
    process = bench.start(program=("-c", DISK_FILLS_AT, f"last-{ratio:g}"))
    _, said = process.communicate()
    require(process.returncode == 1 and "Traceback" not in said, f"status {process.returncode}: {said[-300:]}")
    check_rows(bench.run)
    return f"full at ratio {ratio:g}, {bench.made()} networks kept"


def damaged(bench: Bench) -> str:
    """One file of a finished run is cut, changed by one bit or gone."""
    shutil.copytree(bench.whole, bench.run)
    places = [path for path in bench.run.rglob("*") if path.is_file() and path.stat().st_size]
    file = bench.rng.choice(sorted(path for path in places if holds_results(path, bench.run)))
    how = bench.rng.choice(["cut", "changed", "gone"])
    content = bytearray(file.read_bytes())
    position = bench.rng.randrange(len(content))
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(content[:position])
    else:
        content[position] ^= 1 << bench.rng.randrange(8)
        file.write_bytes(content)
    return f"{file.relative_to(bench.run).as_posix()[:44]} {how}"


def holds_results(path: Path, run: Path) -> bool:
    """Returns whether a file of a run belongs to a part, or is made from all of them."""
    first = path.relative_to(run).parts[0]
    return first in ("reduced", "parts", "rows.jsonl", "correct.npz", "spectra.npz", "finished.json")


def other_models(bench: Bench) -> str:
    """Another model with the same overrides at the same time, and one of the reduced networks reduced again."""
    processes = [bench.start(bench.checkpoint(number)) for number in (0, 1)]
    for process in processes:
        _, said = process.communicate()
        require(process.returncode == 0, said[-300:])
    given = bench.run / f"reduced/last-{bench.rng.choice(RATIOS):g}"
    before = {path: path.read_bytes() for path in given.rglob("*") if path.is_file()}
    bench.finish(f"checkpoint={given}")
    require({path: path.read_bytes() for path in given.rglob("*") if path.is_file()} == before, "its input was changed")
    runs = list(bench.folder.glob("results/reduce/*"))
    require(len(runs) == 3, f"{len(runs)} run folders instead of 3")
    for run in runs:
        check_rows(run)
    return f"2 models and {given.name} reduced again: 3 folders"


def generation_killed(bench: Bench) -> str:
    """Kill -9 while ListOps is generated by several processes: none of them stays."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", GENERATION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1], start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(bench.rng.uniform(0, 1))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = alive(process.pid)
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    require(not left, "processes live on")
    return "kill -9 while two workers draw"


def alive(group: int) -> bool:
    """Returns whether a process group has any process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


FAULTS: dict[Callable[[Bench], str], int] = {
    killed: 1,
    killed_again: 2,
    told_to_stop: 2,
    several_at_once: 1,
    disk_full: 1,
    damaged: 2,
    other_models: 1,
    generation_killed: 1,
}
"""How many times a target may have been computed in all: twice where it was made by other code, or damaged."""


def prepared(root: Path) -> tuple[list[Path], Path, Path, float]:
    """Returns two trainings, an undisturbed reduction of the first, the same by other code, and how long it takes."""
    for seed in (0, 1):
        command = [sys.executable, "-m", "s5c.train", "reduction=none", f"seed={seed}", *TINY]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    models = sorted((root / "results/trained").iterdir())
    runs: list[Path] = []
    lasts = 0.0
    for name, program in (("whole", ("-m", "s5c.reduce")), ("outdated", ("-c", OLDER_CODE))):
        bench = Bench(root / name, models, Path("none"), Path("none"), random.Random(0), 0)
        process = bench.start(program=program)
        while not list(bench.folder.glob("results/reduce/*/parts/full")) and process.poll() is None:
            time.sleep(0.002)
        began = time.monotonic()
        _, said = process.communicate()
        require(process.returncode == 0, said[-500:])
        lasts = time.monotonic() - began
        runs += bench.folder.glob("results/reduce/*")
    require(runs[0].name == runs[1].name, "one question, two folders")
    return models, runs[0], runs[1], lasts


def main() -> int:
    """Runs all rounds; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="rounds per fault (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places of the faults (default: 0)")
    parser.add_argument("--only", choices=[fault.__name__ for fault in FAULTS], help="one fault alone")
    parser.add_argument("--output", type=Path, help="folder of faults.csv and faults.md to write the table to")
    options = parser.parse_args()
    for asking in ASKING:  # processes inherit what is ignored, as in the background of a shell
        signal.signal(asking, signal.default_int_handler if asking == signal.SIGINT else signal.SIG_DFL)
    console, rng = Console(highlight=False), random.Random(options.seed)
    faults = [fault for fault in FAULTS if options.only in (None, fault.__name__)]
    survived: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        models, whole, outdated, lasts = prepared(root)
        expected = fingerprint(whole)
        for number in range(options.rounds * len(faults)):
            fault, began, how = faults[number % len(faults)], time.monotonic(), ""
            name = fault.__name__.replace("_", " ")
            bench = Bench(root / str(number), models, whole, outdated, rng, lasts)
            try:
                how = fault(bench)
                if fault is not generation_killed:
                    bench.finish()
                    found, times = fingerprint(bench.run), computed(bench.run)
                    different = [key for key in expected if found[key] != expected[key]]
                    require(not different, f"other {', '.join(different)}")
                    require(max(times.values()) <= FAULTS[fault], f"computed more than once: {times}")
                    said = bench.finish()
                    require("nothing is computed again" in said, "given a third time it computes again")
                survived[name] += 1
                verdict = "[green]yes[/]"
            except (NotSurvivedError, OSError, ValueError, KeyError) as error:
                verdict = f"[red]no: {escape(f'{type(error).__name__}: {error}')}[/]"
            seconds = time.monotonic() - began
            console.print(f"{number + 1:3}  {name:18} {how:60} {seconds:4.0f} s  {verdict}", soft_wrap=True)
            shutil.rmtree(bench.folder, ignore_errors=True)
    table = Table("fault", "tried", "survived", title="Reductions", title_justify="left")
    for fault in faults:
        name = fault.__name__.replace("_", " ")
        table.add_row(name, str(options.rounds), str(survived[name]))
    console.print(table)
    rounds = options.rounds * len(faults)
    console.print(f"{survived.total()} of {rounds} rounds ended as the undisturbed reduction did.")
    if options.output:
        names = [fault.__name__.replace("_", " ") for fault in faults]
        record(options.output, "reductions", [Counted(name, options.rounds, survived[name]) for name in names])
    return 0 if survived.total() == rounds else 1


if __name__ == "__main__":
    sys.exit(main())
