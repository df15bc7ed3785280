"""A network of other code becomes a checkpoint: `python -m s5c.convert source=FILE recipe=... out=FOLDER`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("convert")

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s5c import config as settings
from s5c import programs
from s5c.cli import run
from s5c.errors import UserError
from s5c.locations import given_path
from s5c.pipeline import conversion, portable
from s5c.pipeline.conversion import Conversion
from s5c.upstream.options import OPTIONS


def main(config: DictConfig) -> None:
    """Converts one network."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, ("source", "out", "recipe", "check", "tolerance", "layout", "options"))
    source, out = given_path(values["source"], "source="), given_path(values["out"], "out=").absolute()
    check = None if values["check"] is None else given_path(values["check"], "check=")
    if not isinstance(values["options"], dict):
        raise UserError(f"options={values['options']!r} is no group of keys: write options.KEY=VALUE.")
    portable.check_free(out)
    found = conversion.convert(
        source, given=values["recipe"], overrides=values["options"], check=check,
        tolerance=conversion.tolerated(values["tolerance"]), layout=values["layout"],
    )  # fmt: skip
    conversion.write(found, out)
    show(found)
    console = Console(highlight=False, emoji=False)
    console.print(f"Checkpoint: {out}", soft_wrap=True, markup=False)


def show(found: Conversion) -> None:
    """Prints what the network is, who said so, and whether anybody has looked."""
    console = Console(highlight=False, emoji=False)
    console = console if console.is_terminal else Console(highlight=False, emoji=False, width=110)
    converted = found.converted
    table = Table(title=escape(f"{found.source}: {found.container}, {found.layout}"), title_justify="left")
    for column in ("option", "value", "who says so", "meaning"):
        table.add_column(column)
    said = {**dict.fromkeys(converted.assumed, "[yellow]nobody: assumed[/]"), **dict.fromkeys(found.given, "given")}
    said |= dict.fromkeys(converted.read, "the file")
    every = {**converted.assumed, **found.given, **converted.read}
    for name in sorted(every, key=list(OPTIONS).index):
        table.add_row(name, escape(conversion.written(every[name])), said[name], escape(OPTIONS[name].meaning))
    console.print(table)
    states = " + ".join(map(str, converted.state_dims))
    kind = f"{converted.spec.features} {'token ids' if converted.spec.tokens else 'channel(s)'}"
    console.print(f"{kind} in, {converted.spec.classes} classes out, stored states {states}.", markup=False)
    style = "yellow" if found.deviation is None else "green"
    console.print(f"[{style}]{escape(found.said)}[/]", soft_wrap=True)


if __name__ == "__main__":
    run(main, "convert")
