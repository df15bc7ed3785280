"""Reduced models against the originals they were made from: is a better original a better reduced model?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from s5c.report.arms import by_arm, target
from s5c.report.choice import MOST
from s5c.report.collect import Study
from s5c.report.csvfile import Record
from s5c.report.looks import MUTED, NOTE, Drawing, entitle, look_of, looks_of, panels
from s5c.report.row import Row, value
from s5c.report.scores import full_score, metric_of_all, score
from s5c.report.titles import title

FEWEST = 4
"""Originals needed: three seeds of one recipe are no scale of quality."""
RANGE = 0.01
"""Accuracy by which the originals must differ: less is noise."""


def originals_figure(study: Study) -> Drawing | None:
    """Returns test accuracy, or another metric, of reduced models against that of their originals, a panel per target.

    Every original is a training of its own: stopped after other epochs, or of another seed.

    Args:
        study: rows of any number of originals.

    Returns:
        The drawing; None for a study with too few originals, or with originals that are all alike.
    """
    rows = [row for row in study.rows if score(row) is not None and row.get("trained_id")]
    full = {row["trained_id"]: found for row in rows if (found := full_score(row)) is not None}
    metric = metric_of_all(rows)
    least = RANGE if metric.share else RANGE * max(map(abs, full.values()), default=0)
    if len(full) < FEWEST or max(full.values()) - min(full.values()) < least:
        return None
    arms = {name: [row for row in of if row["trained_id"] in full] for name, of in by_arm(rows).items()}
    targets = sorted({target(row)[1] for of in arms.values() for row in of})

    def draw() -> Figure:
        figure, grid = panels(len(targets), 4.6, 3.6)
        looks = looks_of(arms) if len(arms) <= MOST else {name: look_of(of[0]) for name, of in arms.items() if of}
        for ax, wanted in zip(grid, targets, strict=True):
            ends = [metric.factor * min(full.values()), metric.factor * max(full.values())]
            ax.plot(ends, ends, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
            for name, of in arms.items():
                found = [row for row in of if target(row)[1] == wanted]
                if not found:
                    continue
                x, y = _points(found)
                look = looks[name]
                ax.plot(
                    x, y, look.marker, color=look.color, ms=7, mew=0.6, mec="white", label=name + _correlation(x, y)
                )
            ax.set_title(f"{_asked(wanted)}; dashed: as good as the original", **NOTE)
            unit = f",{metric.unit}" if metric.unit else ""
            ax.set(
                xlabel=f"test {metric.words} of the original{unit}",
                ylabel=f"test {metric.words} of the reduced model{unit}",
            )
            ax.legend(frameon=False, fontsize=8, loc="lower right")
        entitle(figure, title(study), note="A mark for every original and its reduced model.")
        return figure

    keys = ("trained_id", "seed", f"test_{metric.name}_full", f"test_{metric.name}")
    data: list[Record] = [
        {"arm": name, "target": target(row)[1], **{key: value(row, key) for key in keys}}
        for name, of in arms.items()
        for row in of
    ]
    return draw, data


def _asked(wanted: str) -> str:
    """Returns a target in words: `order-4` as order 4, and a bare number as the share of states removed."""
    return wanted.replace("-", " ", 1) if wanted[:1].isalpha() else f"share of states removed {wanted}"


def _points(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    factor = metric_of_all(rows).factor
    x, y = factor * np.array([[full_score(row), score(row)] for row in rows], float).T
    return x, y


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return ""
    from scipy.stats import spearmanr  # slow to import, and few reports need it

    return f", rank correlation {spearmanr(x, y).statistic:.2f}"
