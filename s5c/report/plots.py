"""The figures of a report: `save_figures` draws and writes all that the rows have data for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text

from s5c.atomic import written
from s5c.report import curves, spectra
from s5c.report.arms import by_arm
from s5c.report.average import aggregate, means
from s5c.report.collect import Spectra, Study, studies
from s5c.report.csvfile import Record, write_csv
from s5c.report.looks import STYLE, entitle, look_of, panels
from s5c.report.originals import originals_figure
from s5c.report.row import Row, value
from s5c.report.spectra import Drawing

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
        "accuracy_vs_ratio": _line_figure(study, curves.accuracy_figure, "test_accuracy"),
        "latency_vs_ratio": _line_figure(study, curves.latency_figure, "latency_ms"),
        "states_per_layer": _states_figure(study),
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


def _line_figure(study: Study, draw: Callable[[Sequence[Row]], Figure], measure: str) -> Drawing | None:
    arms = by_arm(row for row in means(study) if value(row, measure) is not None)
    if not arms:
        return None

    def titled() -> Figure:
        figure = draw(study.rows)
        entitle(figure, study.title)
        return figure

    keys = ("ratio", "n", measure, f"{measure}_sd")
    return titled, [{"arm": name, **{key: value(row, key) for key in keys}} for name in arms for row in arms[name]]


def _states_figure(study: Study) -> Drawing | None:
    """Masked-only reductions are left out: they keep every state."""
    sized = [row for row in study.rows if row.get("orders") and row.get("orders_full") and not row.get("masked_only")]
    arms = _of_equal_counts(by_arm(sized))
    if not arms:
        return None

    def draw() -> Figure:
        depth, ratios = len(sized[-1]["orders"]), len({row["ratio"] for row in sized})
        width = max(0.5 + 0.23 * min(ratios, 12), 0.3 + 0.085 * max(map(len, arms)))  # cells, or the name above them
        figure, grid = panels(len(arms), width, 0.6 + 0.2 * depth)
        for ax, (name, rows) in zip(grid, arms.items(), strict=True):
            curves.plot_states(rows, ax)
            ax.set_title(name, loc="left", color=look_of(rows[0]).color, fontweight="bold")
        entitle(figure, f"States kept per layer\n{study.title}", "Ratio of states removed", "Layer")
        return figure

    data: list[Record] = []
    for name, rows in by_arm(aggregate(sized)).items():
        for row in rows:
            counts = enumerate(zip(row["orders"], row["orders_full"], strict=True))
            data += [{"arm": name, "ratio": row["ratio"], "layer": i, "kept": n, "of": of} for i, (n, of) in counts]
    return draw, data


def _of_equal_counts(arms: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Returns one arm for all that keep as many states everywhere, under the methods' names and a count of variants."""
    kinds: dict[str, list[str]] = {}
    for name, rows in arms.items():
        counts = [[row.get("seed"), row["ratio"], row["orders"]] for row in rows]
        kinds.setdefault(json.dumps(counts), []).append(name)
    return {_together(names, arms): arms[names[0]] for names in kinds.values()}


def _together(names: Sequence[str], arms: Mapping[str, list[Row]]) -> str:
    plain = [name for name in names if name == arms[name][0]["reduction"]] or list(names[:1])
    others = len(names) - len(plain)
    return ", ".join(plain) + (f" and {others} variant{'s' * (others > 1)}" if others else "")
