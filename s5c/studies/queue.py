"""Runs the queue: trains recipes, puts their models into the zoo, runs and publishes the studies of them.

`python -m s5c.train` trains each recipe under results/trained, and whatever is found there is continued, also if it was
copied from another machine. So the queue may be interrupted, killed and started again at any point.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.markup import escape

from s5c.errors import UserError, unknown
from s5c.pipeline import shelf
from s5c.studies import record
from s5c.studies.cost import PROGRAM, Cost, costs
from s5c.studies.recipes import Recipe, known, queue
from s5c.studies.studies import Study, studies
from s5c.training.interrupt import STATUS as STOPPED
from s5c.training.interrupt import give_signals_back, leave_closed_terminal, take_signals

LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks glibc for pages of 2 MB, which Linux gives where transparent huge pages are `madvise` or `always`. XLA takes the
memory of every step from the system and gives it back: in pages of 4 kB that is a tenth of a training step."""

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


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
        if recipe.name in shelf.names():
            console.print(f"In the zoo: {shelf.zoo_dir() / recipe.name}", soft_wrap=True)
            continue
        if recipe.finished() is None:
            if reason := _obstacle(recipe, hours, costs([recipe], device)[recipe.name] if device else Cost()):
                _skip(recipe.name, reason)
                continue
            if not _recorded(recipe.name, "s5c.train", f"+experiment={recipe.name}"):
                well = False
                continue
        well &= _recorded(recipe.name, PROGRAM[1], "export", recipe.name)
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
    if recipe.finished() is None and recipe.name not in shelf.names():
        _skip(study.name, f"{recipe.name} is {recipe.state()}.")
        return True
    cost = costs([recipe], device)[recipe.name] if device and study.epochs else Cost()
    if (needed := cost.hours(study.epochs * recipe.steps_per_epoch)) is not None and needed > hours:
        _skip(study.name, f"about {needed:.3g} hours, more than --hours {hours:g}.")
        return True
    for command in study.left():
        if not _recorded(study.name, *command):
            return False
        mark = study.mark(command)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(" ".join(command) + "\n")
    return _recorded(study.name, *study.report())


def _skip(name: str, reason: str) -> None:
    console.print(f"[yellow]Skipped:[/] {escape(reason)}", soft_wrap=True)
    record.skipped(name, reason)


def _recorded(name: str, *command: str) -> bool:
    """Runs a module of s5c for an entry of the queue, and writes down that it runs and how it ended."""
    with record.running(name, " ".join(command)) as ended:
        return _attended([sys.executable, "-m", *command], ended)


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


def _attended(command: Sequence[str], ended: record.Ended = lambda status: None) -> bool:
    """Runs a command to its end and returns whether it went well; signals that ask to stop are handed to it.

    The command gets a session of its own: from a terminal Ctrl-C would reach it a second time, and the second one
    ends a training without saving.

    Args:
        command: to run.
        ended: takes its exit status.

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
    ended(status)
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
            f"{recipe.name} is {recipe.state()} under {recipe.place}: `python -m s5c.studies run {recipe.name}` "
            "trains it."
        )
    from s5c.pipeline import zoo
    from s5c.pipeline.restored import restore

    with errors.status(f"Evaluating {recipe.name} ..."):
        trained = restore({"checkpoint": str(folder)}, which="best")
        place = zoo.export(trained, recipe.name, batch_size=recipe.job.recipe.batch_size)
    console.print(f"In the zoo: {place}", soft_wrap=True)


def asked(names: Sequence[str]) -> tuple[list[Recipe], list[Study]]:
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
