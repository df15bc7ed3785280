"""The figures of a report: `save_figures` draws and writes all that the rows have data for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from s5c.atomic import written
from s5c.report import curves, deployment, spectra
from s5c.report.arms import by_arm
from s5c.report.average import aggregate
from s5c.report.choice import MOST, chosen
from s5c.report.collect import Spectra, Study, studies
from s5c.report.csvfile import Record, write_csv
from s5c.report.looks import STYLE, Drawing, entitle, panels
from s5c.report.originals import originals_figure
from s5c.report.row import Row
from s5c.report.titles import title

FORMATS = ("png", "pdf")


def save_figures(rows: Sequence[Row], arrays: Spectra, directory: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes every figure the rows have data for, each with the numbers it shows as CSV.

    Args:
        rows: Rows as `collect` returns them. Several studies get a folder each.
        arrays: Arrays by run folder, as `read_spectra` returns them.
        directory: Where to write; made if absent.
        formats: Of pictures; none writes the numbers only.

    Returns:
        The files written.
    """
    found = studies(rows)
    written: list[Path] = []
    with mpl.rc_context(STYLE):
        for study in found:
            folder = directory if len(found) == 1 else directory / study.slug
            folder.mkdir(parents=True, exist_ok=True)
            for name, drawing in drawings(study, arrays).items():
                written += _save(drawing, folder / name, formats)
    return written


def drawings(study: Study, arrays: Spectra) -> dict[str, Drawing]:
    """Returns the figures of a study that there is data for, by name, with their numbers."""
    found = {
        "accuracy_vs_ratio": curves.accuracy_figure(study),
        "latency_vs_ratio": curves.latency_figure(study),
        "states_per_layer": _states_figure(study),
        "accuracy_vs_bytes": deployment.bytes_figure(study),
        "originals": originals_figure(study),
        "hankel_singular_values": spectra.hankel_figure(study, arrays),
        "eigenvalues": spectra.pole_figure(study, arrays, spectra.KEEP),
        "poles_moved": spectra.pole_figure(study, arrays, spectra.MOVED),
        "score_spectra": spectra.pole_figure(study, arrays, spectra.SCORES),
    }
    return {name: drawing for name, drawing in found.items() if drawing is not None}


def _save(drawing: Drawing, stem: Path, formats: Sequence[str]) -> list[Path]:
    draw, data = drawing
    pictures = [stem.with_suffix(f".{form}") for form in formats]
    figure = _as_written(draw()) if pictures else Figure()
    for path in pictures:
        options = {"metadata": {"CreationDate": None}} if path.suffix == ".pdf" else {"dpi": 150}
        with written(path) as unfinished:
            figure.savefig(unfinished, **options)  # the same data gives the same file
    table = stem.with_suffix(".csv")
    write_csv(data, table)
    return [*pictures, table]


def _as_written(figure: Figure) -> Figure:
    """Keeps names with dollar signs from being set as formulas; numbers on axes with powers of ten are formulas."""
    numbers = {text for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for text in axis.findobj(Text)}
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)
    return figure


def _states_figure(study: Study) -> Drawing | None:
    """Masked-only reductions are left out: they keep every state."""
    sized = [row for row in study.rows if row.get("orders") and row.get("orders_full") and not row.get("masked_only")]
    alike = _of_equal_counts(by_arm(sized))
    if not alike:
        return None
    shown = [name for panel in chosen({name: rows for name, (rows, _) in alike.items()}) for name in panel.names]
    arms = {name: rows for name, (rows, _) in alike.items() if name in shown[:MOST]}
    left_out = len(alike) - len(arms)

    def draw() -> Figure:
        depth, ratios = len(sized[-1]["orders"]), len({row["ratio"] for row in sized})
        width = max(0.5 + 0.23 * min(ratios, 12), 0.3 + 0.085 * max(map(len, arms)))  # cells, or the name above them
        figure, grid = panels(len(arms), width, 0.6 + 0.2 * depth)
        for ax, (name, rows) in zip(grid, arms.items(), strict=True):
            curves.plot_states(rows, ax)
            ax.set_title(name, loc="left")
        seeds = max(row["n"] for row in aggregate(sized))
        note = "Numbers: stored states kept" + (f", mean over {seeds} seeds" if seeds > 1 else "")
        note += "; darker: a larger share of the layer's."
        note += f" {left_out} more: in the interactive page (html=true)." if left_out else ""
        entitle(figure, f"States kept in every layer\n{title(study)}", curves.REMOVED, "layer", note)
        return figure

    data: list[Record] = []
    members = {name: panel for panel in arms for name in alike[panel][1]}
    for name, rows in by_arm(aggregate(sized)).items():
        for row in rows if name in members else ():
            place = {"panel": members[name], "left_out": left_out, "arm": name, "ratio": row["ratio"]}
            counts = enumerate(zip(row["orders"], row["orders_full"], strict=True))
            data += [{**place, "layer": i, "kept": n, "of": of} for i, (n, of) in counts]
    return draw, data


def _of_equal_counts(arms: Mapping[str, list[Row]]) -> dict[str, tuple[list[Row], list[str]]]:
    """Returns rows of one arm for all that keep as many states everywhere, and the names of these arms.

    They are called by the methods' names and a count of variants.
    """
    kinds: dict[str, list[str]] = {}
    for name, rows in arms.items():
        counts = [[row.get("seed"), row["ratio"], row["orders"]] for row in rows]
        kinds.setdefault(json.dumps(counts), []).append(name)
    return {_together(names, arms): (arms[names[0]], names) for names in kinds.values()}


def _together(names: Sequence[str], arms: Mapping[str, list[Row]]) -> str:
    plain = [name for name in names if name == arms[name][0]["reduction"]] or list(names[:1])
    others = len(names) - len(plain)
    return ", ".join(plain) + (f" and {others} variant{'s' * (others > 1)}" if others else "")
