"""Plots of the benchmarks: speed-ups per size, growth with length and states, gain by removing states."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from s5c.atomic import written
from s5c.bench.rows import headline, label
from s5c.bench.timing import REFERENCE
from s5c.report.csvfile import Record
from s5c.report.looks import INK, MUTED, NOTE, PALETTE, STYLE, Look

LOOKS = {
    REFERENCE: Look(PALETTE["random"].color, "s", "--", 1.6),
    "associative": PALETTE["h2"],
    "sequential": PALETTE["lqo"],
    "blocked": PALETTE["calibrated"],
    "lifted": PALETTE["magnitude"],
    "fft": PALETTE["calibrated"],
    "s5c": PALETTE["calibrated"],
    "s5c, remat": PALETTE["h2"],
}
"""Vermilion is what `backend=auto` takes for long sequences on a CPU."""

RATIOS = (0.125, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Ticks of an axis of ratios."""


def look_of(variant: str) -> Look:
    """Returns the look of a variant; one that is not in `LOOKS` always gets the same of those that none there has."""
    free = [PALETTE[kind] for kind in ("bt", "aire")]
    return LOOKS.get(variant) or free[zlib.crc32(variant.encode()) % len(free)]


def save_figures(found: Sequence[Record], output: Path) -> list[Path]:
    """Writes the figures that the rows of one benchmark have data for, as PNG; returns the files."""
    name, files = found[0]["benchmark"], []
    with mpl.rc_context(STYLE):
        figures = {
            name: _ratios(found),
            f"{name}_growth": _growth(found),
            f"{name}_pruning": _pruning(found),
        }
        for stem, figure in figures.items():
            if figure is not None:
                path = output / f"{stem}.png"
                with written(path) as unfinished:
                    figure.savefig(unfinished, dpi=150)
                files.append(path)
    return files


# --------------------------------------------------------------------------------------------------------------- ratios


def _ratios(found: Sequence[Record]) -> Figure:
    """One line per size: how many times quicker, and smaller, every variant is than the published form."""
    rows = [row for row in found if row["sweep"] == "sizes"]
    programs = list(dict.fromkeys(row["program"] for row in rows))
    speed = headline(found).replace("_ms", "_ratio")
    panels = [(speed, program, program.capitalize()) for program in reversed(programs)]
    panels.append(("temp_ratio", programs[-1], "Temporary memory"))
    sizes = list(dict.fromkeys(label(row) for row in rows))
    figure = Figure(figsize=(2.6 * len(panels) + 2.2, 1.5 + 0.26 * len(sizes)))
    for ax, (measure, program, title) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        _dots(ax, [row for row in rows if row["program"] == program], measure, sizes)
        ax.set_title(title, loc="left")
    figure.axes[0].set_yticks(range(len(sizes)), sizes)
    figure.axes[0].set_ylim(len(sizes) - 0.5, -0.5)
    words = (
        "times less than the published form (dashed; higher is better).  Sizes: batch, length, features, stored states"
    )
    figure.supxlabel(words, fontsize=9)
    _legend(figure)
    return figure


def _dots(ax: Axes, rows: Sequence[Record], measure: str, sizes: Sequence[str]) -> None:
    def scatter(points: Sequence[Record], *style: Any, **options: Any) -> None:
        ax.scatter([row[measure] for row in points], [sizes.index(label(row)) for row in points], *style, **options)

    for variant in dict.fromkeys(row["variant"] for row in rows if row["variant"] != REFERENCE):
        look = look_of(variant)
        points = [row for row in rows if row["variant"] == variant]
        scatter(points, 30, look.color, look.marker, linewidths=0, label=variant, zorder=3, alpha=0.9)
    chosen = [row for row in rows if row["auto"]]
    scatter(chosen, 95, "none", "o", edgecolors=INK, linewidths=0.9, label="default (auto)", zorder=4)
    ax.axvline(1, color=MUTED, lw=0.9, ls=(0, (4, 3)), zorder=1)
    _log_axis(ax.xaxis, ax)
    ax.xaxis.set_major_locator(FixedLocator(RATIOS))
    ax.tick_params(axis="y", length=0)


def _log_axis(axis: mpl.axis.Axis, ax: Axes) -> None:
    """Powers of two, written out."""
    set_scale = ax.set_xscale if axis is ax.xaxis else ax.set_yscale
    set_scale("log", base=2)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8.5)


# --------------------------------------------------------------------------------------------------------------- growth


def _growth(found: Sequence[Record]) -> Figure | None:
    """Time and memory of the last program (with gradient) against length and against states."""
    last = [row for row in found if row["program"] == found[-1]["program"]]
    sweeps = [
        (key, words, [row for row in last if row["sweep"] == sweep])
        for sweep, key, words in (("length", "length", "length, steps"), ("states", "state_dim", "stored states"))
    ]
    if not all(rows for *_, rows in sweeps):
        return None
    figure = Figure(figsize=(8.4, 5.6))
    grid = figure.subplots(2, 2, sharex="col", sharey="row")
    measures = (
        (headline(found), 1.0, _time_axis(found)),
        ("temp_bytes", 1e-6, "temporary memory, MB\n(lower is better)"),
    )
    for line, (measure, factor, words) in zip(grid, measures, strict=True):
        for ax, (key, _, rows) in zip(line, sweeps, strict=True):
            _lines(ax, rows, key, measure, factor)
        line[0].set_ylabel(words)
    for ax, bottom, (key, words, rows) in zip(grid[0], grid[1], sweeps, strict=True):
        fixed = {"batch": "batch", "length": "length", "features": "features", "state_dim": "states"}
        shown = ", ".join(f"{text} {rows[0][name]}" for name, text in fixed.items() if name != key)
        ax.set_title(shown, **NOTE)
        bottom.set_xlabel(words)
    _legend(figure)
    return figure


def _time_axis(found: Sequence[Record]) -> str:
    kind = "CPU" if found[0]["platform"] == "cpu" else "wall"
    return f"{kind} time, {found[-1]['program']}, ms\n(lower is better)"


def _lines(ax: Axes, rows: Sequence[Record], key: str, measure: str, factor: float) -> None:
    for variant in dict.fromkeys(row["variant"] for row in rows):
        look = look_of(variant)
        points = sorted((row[key], factor * row[measure]) for row in rows if row["variant"] == variant)
        ax.plot(
            *zip(*points, strict=True), color=look.color, ls=look.linestyle, lw=look.width, marker=look.marker, ms=4,
            label=variant, zorder=2 + look.width,
        )  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        _log_axis(axis, ax)


# -------------------------------------------------------------------------------------------------------------- pruning


def _pruning(found: Sequence[Record]) -> Figure | None:
    """Time against the states removed, a panel for every size measured at more than two fractions."""
    last = [row for row in found if row["program"] == found[-1]["program"]]
    fractions = {
        group: {row["removed"] for row in last if row["group"] == group} for group in {r["group"] for r in last}
    }
    groups = sorted(group for group, removed in fractions.items() if len(removed) > 2)
    if not groups:
        return None
    figure = Figure(figsize=(4.2 * len(groups) + 0.4, 3.7))
    for ax, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        rows = [row for row in last if row["group"] == group]
        for variant in dict.fromkeys(row["variant"] for row in rows):
            look = look_of(variant)
            points = sorted((row["removed"], row[headline(found)]) for row in rows if row["variant"] == variant)
            x, y = zip(*points, strict=True)
            ax.plot(
                x, y, color=look.color, ls=look.linestyle, lw=look.width, marker=look.marker, ms=4, label=variant,
                zorder=2 + look.width,
            )  # fmt: skip
        _log_axis(ax.yaxis, ax)
        ax.set_xticks(sorted(fractions[group]))
        ax.set_title(label(rows[0]), loc="left")
        ax.set_xlabel("share of states removed")
    figure.axes[0].set_ylabel(_time_axis(found))
    _legend(figure)
    return figure
