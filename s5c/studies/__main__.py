"""Makes everything under results/published and results/zoo, as much as this machine can.

    python -m s5c.studies list                     # every recipe and study, and how far it is; at once
    python -m s5c.studies list --measure           # and what a step costs on this device: minutes
    python -m s5c.studies run                      # all that take at most --hours each, IMDb first
    python -m s5c.studies run imdb_s5 imdb_comparison --hours 40
    python -m s5c.studies status                   # what runs, what has ended and how: results/queue.json
    python -m s5c.studies export imdb_s5           # a finished training into the zoo; `run` does it by itself
    python -m s5c.studies recount                  # unstable modes, padding on cards that are older than these

The queue is the recipes, conf/experiment/*_{s5,s4d,dss}.yaml, and then the studies of their models, conf/study/*.yaml:
comparisons of all methods, and balanced truncation as a start for smaller models. It may be interrupted, killed and
started again at any point: what has ended is not run again, and trainings go on from their checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from s5c.errors import UserError
from s5c.studies import cost, recipes, show
from s5c.studies.queue import asked, export, run
from s5c.training.interrupt import STATUS, signals_interrupt

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

COMMANDS = {
    "list": "every recipe and study, and how far it is",
    "run": "train what this machine can, run and publish the studies",
    "status": "what runs, what has ended and how",
    "export": "a finished training into the zoo",
    "recount": "put unstable modes and padding on cards that are older than these",
}
_INSIDE = ("measure", "device")
"""Asked in processes that the queue starts: they take the device."""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    made = argparse.ArgumentParser(
        "python -m s5c.studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for name in (*COMMANDS, *_INSIDE):
        command = commands.add_parser(name, help=COMMANDS[name]) if name in COMMANDS else commands.add_parser(name)
        if name in ("list", "run"):
            command.add_argument("names", nargs="*", metavar="NAME", help="recipes and studies; all if none is named")
        if name == "list":
            command.add_argument("--measure", action="store_true", help="measure what a step costs here, minutes")
            command.add_argument("--no-measure", action="store_true", help=argparse.SUPPRESS)  # what it does anyway
        if name in ("export", "measure"):
            command.add_argument("names", nargs=1, metavar="NAME")
        if name == "recount":
            command.add_argument("names", nargs="*", metavar="NAME", help="zoo models; all if none is named")
        if name == "run":
            command.add_argument("--hours", type=float, default=12, help="most for one model (default: 12)")
            command.add_argument("--no-measure", action="store_true", help="leave the cost of a step unknown")
        command.add_argument("--results", metavar="DIR", help="results folder (default: $S5C_RESULTS or ./results)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.results:
        os.environ["S5C_RESULTS"] = options.results  # for the processes started here, too
    if options.command == "status":
        show.status()
    elif options.command == "device":
        from s5c.evaluation.cost import device_name

        print(device_name())
    elif options.command == "recount":
        from s5c.pipeline import zoo

        for name in options.names or zoo.names():
            console.print(f"{name}: unstable modes per layer {', '.join(map(str, zoo.recount(name)))}", soft_wrap=True)
    elif options.command == "measure":
        from s5c.studies.measure import measure

        (recipe,) = recipes.queue(options.names)
        print(json.dumps(measure(recipe.job, recipe.data)))
    elif options.command == "export":
        (recipe,) = recipes.queue(options.names)
        export(recipe)
    elif options.command == "list":
        queue, of_models = asked(options.names)
        device = cost.device_here() if options.measure else ""
        show.show(queue, of_models, cost.costs(queue, device) if options.measure else cost.stored(), device)
    else:
        queue, of_models = asked(options.names)
        device = "" if options.no_measure else cost.device_here()
        return 0 if run(queue, of_models, hours=options.hours, device=device) else 1
    return 0


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
        sys.exit(STATUS)
