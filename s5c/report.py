"""Collect runs into one table and the figures: `python -m s5c.report runs=results/digits_demo`."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from s5c import config as settings
from s5c.cli import run
from s5c.evaluation.collect import collect, read_spectra, write_csv
from s5c.evaluation.plots import save_figures
from s5c.evaluation.tables import console, markdown
from s5c.pipeline.job import results_console


def main(config: DictConfig) -> None:
    """Writes table.csv, report.md and the figures; prints the table."""
    values = settings.plain(config)
    settings.check_keys(values, ("runs", "output"))
    asked = values["runs"] if isinstance(values["runs"], list) else [values["runs"]]
    paths = [Path(str(path)).expanduser() for path in asked]
    rows = collect(paths)
    output = Path(values["output"] or paths[0] / "report")
    output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, output / "table.csv")
    (output / "report.md").write_text(markdown(rows))
    figures = save_figures(rows, read_spectra(rows), output)
    out = results_console()
    out.print(console(rows))
    out.print(f"\n{len(rows)} rows -> {output / 'table.csv'}, {output / 'report.md'} and {len(figures)} figures.")


if __name__ == "__main__":
    run(main, "report")
