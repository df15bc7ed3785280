"""Makes everything under results/published and results/zoo, as much as this machine can.

    python scripts/reproduce.py list                  # every recipe and study: its cost on this device, how far it is
    python scripts/reproduce.py run                   # all that take at most --hours each, IMDb first
    python scripts/reproduce.py run imdb_s5 imdb_comparison --hours 40
    python scripts/reproduce.py export imdb_s5        # a finished training into the zoo; `run` does it by itself
    python scripts/reproduce.py recount               # unstable modes on cards that are older than this count

The queue is the recipes, conf/experiment/*_{s5,s4d,dss}.yaml, and then the studies of their models, which are in
scripts/studies.py: comparisons of all methods, and balanced truncation as a start for smaller models.
`python -m s5c.train` trains each recipe under results/trained, and whatever is found there is continued, also if it was
copied from another machine. So the queue may be interrupted, killed and started again at any point.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

import jax
from recipes import Recipe, known, queue
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from step_cost import Cost, measure
from studies import Study, studies

from s5c import __version__
from s5c.errors import UserError, unknown
from s5c.evaluation.cost import device_name
from s5c.locations import results_dir
from s5c.pipeline import zoo
from s5c.pipeline.provenance import git_revision, write_json
from s5c.pipeline.restored import restore
from s5c.pipeline.trained import checksum, described
from s5c.training.interrupt import give_signals_back, leave_closed_terminal, signals_interrupt, take_signals

MEASURING_MINUTES = 10
"""A recipe whose step cannot be compiled and run in this time is not for this device."""

STOPPED = 130

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks glibc for pages of 2 MB, which Linux gives where transparent huge pages are `madvise` or `always`. XLA takes the
memory of every step from the system and gives it back: in pages of 4 kB that is a tenth of a training step."""

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


# ---- the cost of a step


def costs(recipes: Sequence[Recipe], device: str) -> dict[str, Cost]:
    """Returns the costs of steps by recipe, each measured in a process of its own and remembered in results."""
    path = results_dir() / "costs.json"
    remembered = json.loads(path.read_text("utf-8")) if path.exists() else {}
    code = [jax.__version__, __version__, git_revision()]
    found = {}
    for recipe in recipes:
        key = f"{recipe.name}-{checksum({'facts': [device, code, recipe.data, described(recipe.job)]})}"
        if key in remembered:
            found[recipe.name] = Cost(remembered[key])
            continue
        with errors.status(f"Measuring a step of {recipe.name} ..."):
            cost = found[recipe.name] = _measured_apart(recipe.name)
        if cost.seconds is not None and not code[-1].endswith("-dirty"):
            remembered[key] = cost.seconds
            write_json(path, remembered)
    return found


def _measured_apart(name: str) -> Cost:
    command = [sys.executable, __file__, "measure", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MEASURING_MINUTES)
    except subprocess.TimeoutExpired:
        return Cost(problem=f"a few steps take more than {MEASURING_MINUTES} minutes")
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        return Cost(problem=f"a step does not run here: {said[0]}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _device() -> str:
    """Returns the name of the device, asked for in another process: this one must not take its memory."""
    done = subprocess.run([sys.executable, __file__, "device"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ---- the commands


def show(recipes: Sequence[Recipe], of_models: Sequence[Study], found: dict[str, Cost], device: str) -> None:
    """Prints the queue."""
    table = Table(title=f"Recipes{f' on {device}' if device else ''}", title_justify="left")
    table.add_column("recipe", no_wrap=True)
    for column in ("epochs × steps", "s/step", "hours left"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state")
    for recipe in recipes:
        cost, state = found.get(recipe.name, Cost()), recipe.state()
        left = 0 if state in ("in the zoo", "finished") else recipe.steps - recipe.steps_done()
        hours = cost.hours(left)
        table.add_row(
            recipe.name,
            f"{recipe.job.recipe.epochs} × {recipe.steps_per_epoch:,}",
            "–" if cost.seconds is None else f"{cost.seconds:.3g}",
            "–" if hours is None else f"{hours:.3g}",
            escape(f"{state}; {cost.problem}" if cost.problem else state),
        )
    if recipes:
        console.print(table)
    listed = Table(title="Studies of their models", title_justify="left")
    listed.add_column("study", no_wrap=True)
    listed.add_column("of", no_wrap=True)
    listed.add_column("epochs", justify="right")
    listed.add_column("state")
    for study in of_models:
        listed.add_row(study.name, study.recipe, str(study.epochs) if study.epochs else "–", escape(study.state()))
    if of_models:
        console.print(listed)
    if found:
        console.print("Hours: training steps alone, on batches of zeros; evaluation and data come on top.")


def run(recipes: Sequence[Recipe], of_models: Sequence[Study], *, hours: float, device: str) -> bool:
    """Trains what takes at most `hours` each and has its data, exports it, runs and publishes the studies.

    Args:
        recipes: the queue.
        of_models: what is made of their models.
        hours: most that one of them may take.
        device: named with measured costs; "" to measure none and train whatever has its data.

    Returns:
        Whether nothing failed. What was skipped has not failed.

    Raises:
        KeyboardInterrupt: stopped on request; the training has saved its state.
    """
    well = True
    for recipe in recipes:
        console.rule(recipe.name, align="left")
        if recipe.name in zoo.names():
            console.print(f"In the zoo: {zoo.zoo_dir() / recipe.name}", soft_wrap=True)
            continue
        if recipe.finished() is None:
            if reason := _obstacle(recipe, hours, costs([recipe], device)[recipe.name] if device else Cost()):
                console.print(f"[yellow]Skipped:[/] {escape(reason)}", soft_wrap=True)
                continue
            if not _attended([sys.executable, "-m", "s5c.train", f"+experiment={recipe.name}"]):
                well = False
                continue
        well &= _attended([sys.executable, __file__, "export", recipe.name])
    for study in of_models:
        console.rule(study.name, align="left")
        well &= _studied(study, hours, device)
    return well


def _studied(study: Study, hours: float, device: str) -> bool:
    """Runs what is left of a study and publishes it; returns whether nothing failed."""
    (recipe,) = queue([study.recipe])
    study = next(one for one in studies({study.recipe}) if one.name == study.name)  # its model may be in the zoo by now
    if not study.left():
        console.print(f"Finished: {study.published}", soft_wrap=True)
        return True
    if recipe.finished() is None and recipe.name not in zoo.names():
        console.print(f"[yellow]Skipped:[/] {recipe.name} is {recipe.state()}.", soft_wrap=True)
        return True
    cost = costs([recipe], device)[recipe.name] if device and study.epochs else Cost()
    if (needed := cost.hours(study.epochs * recipe.steps_per_epoch)) is not None and needed > hours:
        console.print(f"[yellow]Skipped:[/] about {needed:.3g} hours, more than --hours {hours:g}.", soft_wrap=True)
        return True
    for command in study.left():
        if not _attended([sys.executable, "-m", *command]):
            return False
        mark = study.mark(command)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(" ".join(command) + "\n")
    return _attended([sys.executable, "-m", *study.report()])


def _obstacle(recipe: Recipe, hours: float, cost: Cost) -> str:
    """Returns why a recipe cannot be trained here; prepares its data if nothing else is in the way."""
    if cost.problem:
        return cost.problem
    left = cost.hours(recipe.steps - recipe.steps_done())
    if left is not None and left > hours:
        return f"about {left:.3g} hours, more than --hours {hours:g}."
    try:
        recipe.job.task.task.load()
    except UserError as error:
        return str(error)
    return ""


def _attended(command: Sequence[str]) -> bool:
    """Runs a command to its end and returns whether it went well; signals that ask to stop are handed to it.

    The command gets a session of its own: from a terminal Ctrl-C would reach it a second time, and the second one
    ends a training without saving.

    Raises:
        KeyboardInterrupt: it was told to stop, by whomever, and has stopped.
    """
    told: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        leave_closed_terminal(number)
        if process is not None:
            process.send_signal(number)

    before = take_signals(hand_on)
    try:
        process = None if told else subprocess.Popen(command, start_new_session=True, env={**LARGE_PAGES, **os.environ})
        status = STOPPED if process is None else process.wait()
    finally:
        give_signals_back(before)
    if told or status == STOPPED:
        raise KeyboardInterrupt
    if status:
        killed = f"killed by {signal.Signals(-status).name}, often for lack of memory" if status < 0 else "it failed"
        errors.print(f"[red]{escape(' '.join(command[1:]))}: {killed}.[/] What it saved is kept.", soft_wrap=True)
    return status == 0


def export(recipe: Recipe) -> None:
    """Puts a finished training into the zoo.

    Raises:
        UserError: it is not finished.
    """
    folder = recipe.finished()
    if folder is None:
        raise UserError(
            f"{recipe.name} is {recipe.state()} under {recipe.job.folder}: `python scripts/reproduce.py run "
            f"{recipe.name}` trains it."
        )
    with errors.status(f"Evaluating {recipe.name} ..."):
        trained = restore({"checkpoint": str(folder)}, which="best")
        place = zoo.export(trained, recipe.name, batch_size=recipe.job.recipe.batch_size)
    console.print(f"In the zoo: {place}", soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | run | export | recount")
    for name in ("list", "run", "export", "recount", "measure", "device"):
        command = commands.add_parser(name)
        if name in ("list", "run"):
            command.add_argument("names", nargs="*", metavar="NAME", help="recipes and studies; all if none is named")
            command.add_argument("--no-measure", action="store_true", help="leave the cost of a step unknown")
        if name in ("export", "measure"):
            command.add_argument("names", nargs=1, metavar="NAME")
        if name == "recount":
            command.add_argument("names", nargs="*", metavar="NAME", help="zoo models; all if none is named")
        if name == "run":
            command.add_argument("--hours", type=float, default=12, help="most for one model (default: 12)")
        command.add_argument("--results", metavar="DIR", help="results folder (default: $S5C_RESULTS or ./results)")
    return parser.parse_args()


def main() -> int:
    """Runs one command; returns the exit status."""
    asked = _arguments()
    if asked.results:
        os.environ["S5C_RESULTS"] = asked.results  # for the processes started here, too
    if asked.command == "device":
        print(device_name())
        return 0
    if asked.command == "recount":
        for name in asked.names or zoo.names():
            console.print(f"{name}: unstable modes per layer {', '.join(map(str, zoo.recount(name)))}", soft_wrap=True)
        return 0
    if asked.command in ("measure", "export"):
        (recipe,) = queue(asked.names)
        if asked.command == "measure":
            print(json.dumps(measure(recipe.job, recipe.data)))
        else:
            export(recipe)
        return 0
    recipes, of_models = _asked(asked.names)
    device = "" if asked.no_measure else _device()
    if asked.command == "list":
        show(recipes, of_models, costs(recipes, device) if device else {}, device)
        return 0
    return 0 if run(recipes, of_models, hours=asked.hours, device=device) else 1


def _asked(names: Sequence[str]) -> tuple[list[Recipe], list[Study]]:
    """Returns the recipes and the studies of these names; all if there are none.

    Raises:
        UserError: there is neither of a name asked for.
    """
    every = {study.name: study for study in studies(set(known()))}
    if not names:
        return queue(), list(every.values())
    for name in names:
        if name not in known() and name not in every:
            raise unknown("recipe or study", name, sorted([*known(), *every]))
    wanted = [name for name in names if name in known()]
    return (queue(wanted) if wanted else []), [every[name] for name in names if name in every]


if __name__ == "__main__":
    try:
        with signals_interrupt():
            status = main()
        sys.exit(status)
    except UserError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("[yellow]Stopped.[/] Everything saved is kept; the same command goes on from there.")
        sys.exit(STOPPED)
