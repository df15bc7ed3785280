"""How figures look: one style, and for every arm the same colour, marker and line wherever it is drawn."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s5c.report.arms import label
from s5c.report.row import Row

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


# After Okabe and Ito's palette, told apart with any of the usual colour vision deficiencies; light hues darkened to be
# legible as text.
LOOKS = {
    "calibrated": Look(OURS, width=2.8),
    "last": Look("#111111", width=2.0),
    "uniform_hinf": Look("#0072B2", "s"),
    "global_hinf": Look("#3A9FDB", "D"),
    "uniform_magnitude": Look("#007A5A", "s"),
    "global_magnitude": Look("#3DAA88", "D"),
    "lamp": Look("#CC79A7"),
    "aire": Look("#7B3FA0"),
    "bt": Look("#8C510A", "P"),
    "h2": Look("#3B3BC4", "^"),
    "lqo": Look("#B8860B", "v"),
    "random": Look("#777777", "s", "--"),
    "unstructured_random": Look("#9A9A9A", "x", ":"),
}
VARIANTS = (OURS, "#0072B2", "#007A5A", "#7B3FA0", "#B8860B", "#3A9FDB", "#A32E4A", "#555555")
OTHERS = ("#A32E4A", "#5B7A1F", "#00838F", "#6D4C41")
LINES: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("+refit(calibrated)", "+bn"), (0, (4, 1, 1, 1))),
    (("+refit(h2)", "+bn"), (0, (6, 1, 1, 1, 1, 1))),
    (("+refit(calibrated)",), (0, (4, 1.2))),
    (("+refit(h2)",), (0, (2, 1.2))),
    (("+bn",), (0, (1, 1))),
    ((), (0, (7, 2))),
)
"""Lines of arms that change their preset: the first whose words are all in the name."""


def look_of(row: Row) -> Look:
    """Returns the look of a row's arm: a preset that is not in `LOOKS` takes after the one whose name it extends."""
    preset, name = row["reduction"], label(row)
    look = LOOKS.get(preset)
    if look is None:
        kin = max((known for known in LOOKS if preset.startswith(f"{known}_")), key=len, default="")
        color = LOOKS[kin].color if kin else OTHERS[zlib.crc32(preset.encode()) % len(OTHERS)]
        look = Look(color, "^", (0, (3, 1)) if kin else "-")
    if name == preset:
        return look
    line = next(line for words, line in LINES if all(word in name for word in words))
    return dataclasses.replace(look, linestyle=line, width=1.3, marker="*" if "epoch" in name else look.marker)


def looks_of(arms: Mapping[str, Sequence[Row]]) -> dict[str, Look]:
    """Returns the looks of the arms of one figure: where all are variants of one preset, colours tell them apart.

    Args:
        arms: rows by name, as `by_arm` groups them.
    """
    if len({rows[0]["reduction"] for rows in arms.values()}) > 1 or len(arms) < 3:
        return {name: look_of(rows[0]) for name, rows in arms.items()}
    lines: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)))
    return {
        name: Look(VARIANTS[i % len(VARIANTS)], "osD^vPX*"[i % 8], lines[i // len(VARIANTS) % len(lines)])
        for i, name in enumerate(arms)
    }


def entitle(figure: Figure, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Writes title and shared axis labels, and the first panel's legend beside them, where no data are."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
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
