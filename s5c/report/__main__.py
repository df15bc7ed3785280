"""Collect runs into tables, figures and a page: `python -m s5c.report runs=results/digits_demo`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("report")

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from s5c import config as settings
from s5c.atomic import write_text
from s5c.cli import run
from s5c.errors import UserError
from s5c.locations import given_path, results_dir
from s5c.pipeline import zoo
from s5c.pipeline.deploy import deployed
from s5c.pipeline.job import results_console
from s5c.report import published, spectra, templates
from s5c.report.collect import ROWS_FILE, gather, store, studies
from s5c.report.page import page
from s5c.report.plots import save_figures
from s5c.report.row import Row
from s5c.report.tables import console, markdown

KEYS = ("runs", "output", "html", "deploy", "published", "check")


def main(config: DictConfig) -> None:
    """Makes the report that was asked for and says where it is."""
    values = settings.plain(config)
    settings.check_keys(values, KEYS)
    if values["check"]:
        _check()
    elif values["published"]:
        _publish(values)
    else:
        _report(values)


def _report(values: Mapping[str, Any]) -> None:
    """Writes table.csv, spectra.npz, report.md and the figures of runs, or of stored studies; prints the table."""
    if values["runs"] is None:
        raise UserError("runs is not set: add runs=FOLDER of a run or of a sweep, or published=true.")
    asked = values["runs"] if isinstance(values["runs"], list) else [values["runs"]]
    paths = [given_path(path, "runs=") for path in asked]
    rows, arrays, stored = gather(paths)
    beside = results_dir() / "report" / paths[0].resolve().name  # what is stored is made elsewhere, and checked
    output = Path(values["output"] or (beside if stored else paths[0] / "report"))
    if any(output.resolve().is_relative_to(path.resolve()) for path in stored):
        raise UserError(
            f"output={output} is in the folder of a stored study, which is written from its runs. Give another one, "
            f"such as output={beside}, or none."
        )
    if (output / ROWS_FILE).exists():
        raise UserError(
            f"output={output} is the folder of a run, whose files a report would replace. Give another one, such as "
            f"output={output / 'report'}."
        )
    if values["deploy"]:
        rows = deployed(rows)
    needed = {folder: part for study in studies(rows) for folder, part in spectra.needed(study, arrays).items()}
    store(rows, needed, output)
    write_text(output / "report.md", markdown(rows))
    figures = save_figures(rows, arrays, output, ("png",) if _is_published(output) else ("png", "pdf"))
    out = results_console()
    out.print(console(rows))
    made = f"\n{len(rows)} rows -> {output / 'table.csv'}, {output / 'report.md'} and {len(figures)} figures."
    out.print(made, markup=False)
    if values["html"]:
        _write_page(rows, output / "report.html")


def _publish(values: Mapping[str, Any]) -> None:
    """Writes everything that is made from the stored runs of the checkout."""
    root = _checkout()
    written = published.publish(root, zoo.summaries())
    for path in published.strays(root, written):
        path.unlink()
    made = f"{len(written)} files from {root / templates.FOLDER}; the page is {root / published.PAGE}."
    results_console().print(made, markup=False)
    if values["html"]:
        _write_page(templates.stored_rows(root), Path(values["output"] or "results") / "report.html")


def _check() -> None:
    """Raises unless everything stored is what `published=true` would write."""
    if found := published.differences(_checkout(), zoo.summaries()):
        raise UserError("\n".join([*found, f"Run `{published.COMMAND}` and commit what it changes."]))
    results_console().print("Every table and figure is what the stored runs give.")


def _write_page(rows: list[Row], path: Path) -> None:
    write_text(path, page(rows))
    results_console().print(f"Open {path} in a browser; it needs no network.", markup=False)


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _is_published(output: Path) -> bool:
    return output.resolve().is_relative_to(_checkout() / templates.FOLDER)


if __name__ == "__main__":
    run(main, "report")
