"""Prints the queue: what it consists of, what it costs, where each entry stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s5c.studies import record
from s5c.studies.cost import Cost
from s5c.studies.recipes import Recipe
from s5c.studies.studies import Study

UNKNOWN = "–"
DONE = ("in the zoo", "finished")
WIDTH = 160
"""Columns of a pipe or a file, where a line an entry matters more than the width of a terminal."""


def show(recipes: Sequence[Recipe], of_models: Sequence[Study], found: Mapping[str, Cost], device: str) -> None:
    """Prints the queue, a line an entry.

    Args:
        recipes: of the queue.
        of_models: studies of their models.
        found: costs of steps by recipe, as far as they are known.
        device: that they were measured on just now; "" for costs that were stored before.
    """
    console, seen = _console(), record.entries()
    table = Table(title=f"Recipes{f' on {device}' if device else ''}", title_justify="left")
    table.add_column("recipe", no_wrap=True)
    for column in ("epochs × steps", "s/step", "hours left"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state")
    for recipe in recipes:
        cost, state = found.get(recipe.name, Cost()), recipe.state()
        left = 0 if state in DONE else recipe.steps - recipe.steps_done()
        hours = cost.hours(left)
        table.add_row(
            recipe.name,
            f"{recipe.epochs} × {recipe.steps_per_epoch:,}",
            UNKNOWN if cost.seconds is None else f"{cost.seconds:.3g}",
            UNKNOWN if hours is None else f"{hours:.3g}",
            escape(_stands(f"{state}; {cost.problem}" if cost.problem else state, seen.get(recipe.name))),
        )
    if recipes:
        console.print(table)
    listed = Table(title="Studies of their models", title_justify="left")
    listed.add_column("study", no_wrap=True)
    listed.add_column("of", no_wrap=True)
    listed.add_column("epochs", justify="right")
    listed.add_column("state")
    for study in of_models:
        epochs = str(study.epochs) if study.epochs else UNKNOWN
        listed.add_row(study.name, study.recipe, epochs, escape(_stands(study.state(), seen.get(study.name))))
    if of_models:
        console.print(listed)
    if shown := {found[recipe.name].device for recipe in recipes if recipe.name in found}:
        console.print("Hours: training steps alone, on batches of zeros; evaluation and data come on top.")
        if not device:
            named = ", ".join(sorted(shown - {""}))
            on = f" on {escape(named)}" if named else ""
            console.print(f"Costs are those measured last{on}; `list --measure` measures them on this device.")


def status() -> None:
    """Prints what the queue has run, an entry a line, the newest last (`s5c.studies.record`)."""
    console, seen = _console(), record.entries()
    if not seen:
        console.print(f"Nothing has run yet: there is no {record.place()}.", soft_wrap=True)
        return
    table = Table(title=str(record.place()), title_justify="left")
    table.add_column("entry", no_wrap=True)
    table.add_column("state")
    table.add_column("last command")
    for name, entry in seen.items():
        table.add_row(name, escape(entry.line()), escape(entry.command))
    console.print(table)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _stands(state: str, entry: record.Entry | None) -> str:
    """Returns how far an entry is, with what the queue last did of it where that is not how it should be."""
    if entry is None or state in DONE or entry.state == record.FINISHED:
        return state
    return f"{state}; {entry.line()}"
