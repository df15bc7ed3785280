"""How figures look: one style, and for every arm the same colour, marker and line wherever it is drawn."""

from __future__ import annotations

import dataclasses
import math
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s5c.report.arms import label
from s5c.report.csvfile import Record
from s5c.report.row import Row

Drawing = tuple[Callable[[], Figure], list[Record]]
"""Draws a figure when called, and the numbers in it."""

INK, MUTED, FAINT = "#222222", "#6B6B6B", "#E4E4E4"
OURS = "#D55E00"
NOTE: dict[str, Any] = {"loc": "left", "color": MUTED, "fontsize": 8}

STYLE = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    **{f"{axis}tick.color": MUTED for axis in "xy"},
    **{f"{axis}tick.labelcolor": INK for axis in "xy"},
    "pdf.fonttype": 42,  # keeps text as text: journals reject the default's Type 3 fonts
}


@dataclass(frozen=True)
class Look:
    """How an arm is drawn in every figure: colour by score, marker by allocation, line by what was done besides."""

    color: str
    marker: str = "o"
    linestyle: Any = "-"
    width: float = 1.3


PALETTE = {
    "calibrated": Look(OURS, "o", "-", 2.6),
    "last": Look("#111111", "s", "-", 1.6),
    "aire": Look("#420D90", "D", (0, (6, 1, 1, 1))),
    "bt": Look("#8F5A36", "P", (0, (4, 1.2))),
    "h2": Look("#1203DF", "^", (0, (2, 1))),
    "lqo": Look("#005B81", "v", (0, (8, 1.5))),
    "magnitude": Look("#6E88FF", "X", (0, (6, 1, 1, 1, 1, 1))),
    "random": Look("#A5A5A5", "p", (0, (1, 1))),
}
"""The looks of a panel's arms, by the kind of method that has it first.

The colours were searched for: any two are at least 30 apart in CIELAB, as they are and as deuteranopes see them, and 5
in lightness, for print in grey (`tests/test_figures.py`). Markers differ as well, and lines.
"""
KINDS = {
    **dict.fromkeys(("uniform_hinf", "global_hinf"), "last"),
    **dict.fromkeys(("uniform_magnitude", "global_magnitude", "lamp"), "magnitude"),
    "unstructured_random": "random",
}
"""Kinds of presets whose names do not begin with them."""
COLOURS = tuple(look.color for look in PALETTE.values())
OTHERS = tuple(look.color for kind, look in PALETTE.items() if kind not in ("calibrated", "last", "random"))
LINES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("+refit(calibrated)", "+bn"), (0, (4, 1, 1, 1))),
    (("+refit(h2)", "+bn"), (0, (6, 1, 1, 1, 1, 1))),
    (("+refit(calibrated)",), (0, (4, 1.2))),
    (("+refit(h2)",), (0, (2, 1.2))),
    (("+bn",), (0, (1, 1))),
    ((), (0, (7, 2))),
)
"""Lines of arms that change their preset: the first whose words are all in the name."""


def kind_of(preset: str) -> str:
    """Returns whose look a preset has first: one that is no kind of its own has that of the name it extends."""
    if preset in KINDS or preset in PALETTE:
        return KINDS.get(preset, preset)
    kin = [kind for kind in PALETTE if preset.startswith(f"{kind}_")]
    free = [kind for kind in PALETTE if PALETTE[kind].color in OTHERS]
    return kin[0] if kin else free[zlib.crc32(preset.encode()) % len(free)]


def look_of(row: Row) -> Look:
    """Returns the look of a row's arm among any number of others: the colour is that of its kind of method."""
    preset, name = row["reduction"], label(row)
    look = PALETTE[kind_of(preset)]
    if name == preset:
        return look if preset in PALETTE else dataclasses.replace(look, linestyle=(0, (3, 1)), width=1.3)
    line = next(line for words, line in LINES if all(word in name for word in words))
    return dataclasses.replace(look, linestyle=line, width=1.3)


def looks_of(arms: Mapping[str, Sequence[Row]]) -> dict[str, Look]:
    """Returns the looks of the arms of one panel, no two alike.

    An arm looks as its kind does in every figure; of several of a kind the preset of that name or else the first, and
    the others take what is free.

    Args:
        arms: rows by name, those first that should look as their kind does; no more than `PALETTE` has looks.
    """
    presets = {name: rows[0]["reduction"] for name, rows in arms.items()}
    kinds = {name: kind_of(preset) for name, preset in presets.items()}
    by_right = sorted(
        arms, key=lambda name: (name not in PALETTE, presets[name] not in PALETTE)
    )  # bt, then bt_empirical
    owners: dict[str, str] = {}
    for name in by_right:
        owners.setdefault(kinds[name], name)
    free = sorted(set(PALETTE) - set(owners), key=lambda kind: (PALETTE[kind].color not in OTHERS, kind))
    found = {}
    for name, kind in kinds.items():
        found[name] = PALETTE[kind if owners[kind] == name else free.pop(0)]
    return found


def entitle(figure: Figure, title: str, xlabel: str = "", ylabel: str = "", note: str = "") -> None:
    """Writes title and shared axis labels, and the first panel's legend beside them, where no data are.

    Args:
        figure: with its panels drawn.
        title: in words; wrapped to the width of the figure.
        xlabel: quantity, unit and direction.
        ylabel: the same.
        note: what has to be said of what is drawn, below the title.
    """
    width = int(figure.get_figwidth() * 14.8)
    lines = [line for text in (*title.split("\n"), note) for line in textwrap.wrap(text, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9)
    if xlabel:
        figure.supxlabel(xlabel, fontsize=9)
        figure.supylabel(ylabel, fontsize=9)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="lower right", ncols=3, frameon=False, fontsize=8, handletextpad=0.2)


def panels(count: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Returns a figure of at most four panels a line, sizes in inches, and its panels."""
    columns = min(count, 4)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(max(4.2, width * columns + 0.4), height * lines + 0.75))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel()
    for unused in grid[count:]:
        unused.remove()
    return figure, list(grid[:count])
