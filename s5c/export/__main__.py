"""A trained network as files that run without s5c: `python -m s5c.export checkpoint=PATH format=c out=DIR`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("export")

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from s5c import api, programs
from s5c import config as settings
from s5c.cli import run
from s5c.errors import unknown
from s5c.export import writing
from s5c.given import native
from s5c.locations import given_path

KEYS = ("checkpoint", "weights", "format", "out", "bits", "lengths", "symbol")


def main(config: DictConfig) -> Path:
    """Runs one job; returns the folder."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, KEYS)
    form, folder = str(values["format"]), given_path(values["out"], "out=")
    if form not in writing.names():
        raise unknown("format", form, writing.names())
    writing.check_place(folder.absolute())
    model = api.load(str(values["checkpoint"]), weights=str(values["weights"]))
    options = {key: native(values[key]) for key in ("bits", "lengths", "symbol")}
    check = model.export(folder, form, **options)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{model.name} -> {folder}\nCompare with stored answers:  cd {folder} && {check}", markup=False)
    return folder


if __name__ == "__main__":
    run(main, "export")
