"""Accuracy and latency against the share of states removed, and the states kept in every layer."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from s5c.metric import ACCURACY, Metric
from s5c.report.arms import by_arm, removed
from s5c.report.average import aggregate, means
from s5c.report.choice import MOST, Panel, chosen
from s5c.report.collect import Study
from s5c.report.csvfile import Record
from s5c.report.looks import INK, MUTED, NOTE, Drawing, entitle, looks_of
from s5c.report.row import Averaged, Row, value
from s5c.report.scores import metric_of_all
from s5c.report.titles import title

REMOVED = "share of states removed"
SMALL_LOSS = 0.5
"""Points of accuracy up to which the axis of changes is linear."""
LOSSES = (0.5, 1, 2, 5, 10, 20, 40, 80)
LEGEND = 46
"""Characters of a line of the legend."""
SEEDS, PAIRED, ROUNDS = (
    "standard deviation over seeds",
    "paired standard error over test examples",
    "quartiles of rounds",
)
"""What error bars can be."""


@dataclass(frozen=True)
class Measure:
    """What is drawn against the share of states removed.

    Attributes:
        column: of a row.
        full: column of the network that is reduced, in the same unit.
        factor: from its unit to the figure's.
        label: of the axis: quantity, unit and direction.
        change: whether the change against the network that is reduced is drawn.
        metric: what networks are compared by; None of a time.
    """

    column: str
    full: str
    factor: float
    label: str
    change: bool = False
    metric: Metric | None = None


def measure_of(metric: Metric, *, change: bool) -> Measure:
    """Returns the score of networks as a measure, or its change."""
    column = f"test_{metric.name}"
    if change:
        label = f"change in test {metric.words}, {metric.points}\n(higher is better)"
    else:
        label = f"{metric.heading}\n({metric.direction})"
    return Measure(column, f"{column}_full", metric.factor, label, change, metric)


LATENCY = Measure("latency_ms", "latency_full_ms", 1, "latency, ms per batch\n(lower is better)")

Curves = dict[str, list[Record]]
"""What is drawn of every arm: `records` makes it, figures draw it, and the CSV holds it."""


def accuracy_figure(study: Study) -> Drawing | None:
    """Returns the figure of test accuracy, or of the metric of the task, or None where none was measured.

    More arms than a panel holds are drawn as changes, on an axis that is logarithmic beyond half a point.
    """
    metric = metric_of_all(study.rows)
    arms = _measured(study, measure_of(metric, change=False))
    return _drawing(study, measure_of(metric, change=len(arms) > MOST), arms) if arms else None


def latency_figure(study: Study) -> Drawing | None:
    """Returns the figure of latency, or None where none was measured."""
    arms = _measured(study, LATENCY)
    return _drawing(study, LATENCY, arms) if arms else None


def _measured(study: Study, measure: Measure) -> dict[str, list[Averaged]]:
    return by_arm(row for row in means(study) if value(row, measure.column) is not None)


def _drawing(study: Study, measure: Measure, arms: Mapping[str, list[Averaged]]) -> Drawing:
    shown = chosen(arms)
    drawn = {name: records(arms[name], measure) for panel in shown for name in panel.names}
    data: list[Record] = [
        {"panel": panel.title, "left_out": panel.left_out, "arm": name, **record}
        for panel in shown
        for name in panel.names
        for record in drawn[name]
    ]

    def draw() -> Figure:
        lines = [sum(len(textwrap.wrap(name, LEGEND)) for name in panel.names) for panel in shown]
        figure = Figure(figsize=(5.2 if len(shown) == 1 else 3.6 * len(shown), 3.1 + 0.16 * max(lines)))
        grid = list(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0])
        for i, (ax, panel) in enumerate(zip(grid, shown, strict=True)):
            members = {name: arms[name] for name in panel.names}
            _draw(ax, {name: drawn[name] for name in panel.names}, members, measure)
            ax.set_xlabel(REMOVED)
            if panel.title:
                ax.set_title(f"{chr(ord('a') + i)}  {panel.title}" if len(shown) > 1 else panel.title, **NOTE)
        if measure.change:
            _scale_losses(grid, [end for one in data for end in (one["y"], one["low"], one["high"]) if end is not None])
        grid[0].set_ylabel(measure.label)
        entitle(figure, title(study), note=_note(study, measure, shown, data))
        return figure

    return draw, data


def records(rows: Sequence[Averaged], measure: Measure) -> list[Record]:
    """Returns what is drawn of one arm, in order of the share removed.

    `x` and `y` are as in the figure, `low` and `high` the ends of the error bar and `bar` what it is; there is none
    where a single seed left neither answers to single examples nor the quartiles of its rounds.

    Args:
        rows: averaged rows of the arm.
        measure: what is drawn.
    """
    found = []
    for row in sorted(rows, key=removed):
        measured, full = value(row, measure.column), value(row, measure.full)
        y = measure.factor * (measured - (full or 0.0 if measure.change else 0.0))
        if measure.change and measure.metric is not None and not measure.metric.share:
            y = measure.metric.change(full, measured)
        low, high, bar = _bar(row, y, measure)
        spread = value(row, f"{measure.column}_sd")
        numbers = {measure.column: measured, f"{measure.column}_sd": spread}
        ends = {"x": removed(row), "y": y, "low": low, "high": high, "bar": bar}
        found.append({"ratio": row["ratio"], "n": row["n"], **numbers, **ends})
    return found


def _bar(row: Averaged, y: float, measure: Measure) -> tuple[float | None, float | None, str | None]:
    if row["n"] > 1:
        spread = row.get("points_lost_sd") if measure.change else value(row, f"{measure.column}_sd")
        half = None if spread is None else spread * (1 if measure.change else measure.factor)
        return (None, None, None) if half is None else (y - half, y + half, SEEDS)
    if measure is LATENCY:
        quartiles = row.get("latency_quartiles_ms")
        return (None, None, None) if not quartiles or None in quartiles else (quartiles[0], quartiles[-1], ROUNDS)
    half, full = row.get("points_lost_se"), value(row, measure.full)
    if half is not None and not measure.change and measure.metric is not None and not measure.metric.share:
        half = None if full is None else half * abs(full) / 100  # from percent of the network that is reduced
    return (None, None, None) if half is None else (y - half, y + half, PAIRED)


def _note(study: Study, measure: Measure, shown: Sequence[Panel], data: Sequence[Record]) -> str:
    """Returns the caption: how many seeds, what error bars are, and how many arms the figure leaves out."""
    seeds = max(int(record["n"]) for record in data)
    parts = [f"Mean over {seeds} seeds" if seeds > 1 else "One seed"]
    if bars := list(dict.fromkeys(str(record["bar"]) for record in data if record["bar"])):
        parts.append(f"bars: {' or '.join(bars)}" + (" of the change" if measure.change and SEEDS in bars else ""))
    if left_out := sum(panel.left_out for panel in shown):
        parts.append(f"{left_out} more arms: in the interactive page (html=true)")
    if measure is LATENCY:
        parts += sorted({str(row["device"]) for row in study.rows if row.get("device")})
    return "; ".join(parts) + "."


def _draw(ax: Axes, drawn: Curves, members: Mapping[str, Sequence[Averaged]], measure: Measure) -> None:
    """Draws one line per arm, from the unpruned model at 0, best first in the legend below."""
    looks = looks_of(members)
    rows = [row for found in members.values() for row in found]
    full = _mean_of(rows, measure.full)
    start = None if full is None else 0.0 if measure.change else measure.factor * full
    for depth, (name, found) in enumerate(drawn.items()):
        look, first = looks[name], members[name][0]
        origin = value(first, measure.full)
        begin = [] if origin is None else [(0.0, 0.0 if measure.change else measure.factor * origin)]
        x, y = np.array([*begin, *((one["x"], one["y"]) for one in found)], float).T
        text = name + (" (masked)" if first.get("masked_only") else "") + _speedup(members[name], measure)
        order = 20 - depth + 20 * (look.width > 2)
        ax.plot(
            x, y, color=look.color, ls=look.linestyle, lw=look.width, label=textwrap.fill(text, LEGEND),
            zorder=order, marker=look.marker, ms=5.5, mew=0.4, mec="white", markevery=slice(len(begin), None),
        )  # fmt: skip
        barred = [one for one in found if one["low"] is not None]
        if barred:
            x, y, low, high = np.array([(one["x"], one["y"], one["low"], one["high"]) for one in barred], float).T
            ends = np.maximum([y - low, high - y], 0.0)
            ax.errorbar(
                x, y, ends, fmt="none", ecolor=look.color, elinewidth=0.9, capsize=2.2, alpha=0.75, zorder=order - 1
            )
    if measure is LATENCY:
        ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
    elif measure.metric is ACCURACY and not measure.change:
        _scale_accuracy(ax, rows)
    if start is not None and full is not None:
        shown = f"{full:.3g} ms" if measure.metric is None else f"{measure.metric.number(full)}{measure.metric.unit}"
        _reference_line(ax, start, f"unpruned {shown}")
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.17), frameon=False, fontsize=7.5,
        title=None if measure is LATENCY else "best first", title_fontsize=7.5, alignment="left",
        labelspacing=0.25, handlelength=4, borderaxespad=0,
    )  # fmt: skip


def _speedup(rows: Sequence[Averaged], measure: Measure) -> str:
    if measure is not LATENCY:
        return ""
    last = max(rows, key=removed)
    return "" if last.get("speedup") is None else f"  {last['speedup']:.2f}× at {removed(last):.3g}"


def _scale_losses(grid: Sequence[Axes], drawn: Sequence[float]) -> None:
    """Sets the axis of changes of all panels: linear up to half a point, logarithmic beyond."""

    def to_scale(change: NDArray[Any]) -> NDArray[Any]:
        return np.sign(change) * np.log1p(np.abs(change) / SMALL_LOSS)

    def from_scale(scaled: NDArray[Any]) -> NDArray[Any]:
        return np.sign(scaled) * SMALL_LOSS * np.expm1(np.abs(scaled))

    low, high = 1.15 * min(*drawn, -SMALL_LOSS), 1.3 * max(*drawn, SMALL_LOSS)
    ticks = [tick for tick in (5.0, 2.0, 1.0, SMALL_LOSS, 0.0, *(-tick for tick in LOSSES)) if low <= tick <= high]
    for ax in grid:
        ax.set_yscale("function", functions=(to_scale, from_scale))
        ax.set_ylim(low, high)
        ax.yaxis.set_major_locator(FixedLocator(ticks))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:+g}".replace("-", "−") if tick else "0"))
        ax.yaxis.set_minor_locator(NullLocator())


def _scale_accuracy(ax: Axes, rows: Sequence[Averaged]) -> None:
    chance = _mean_of(rows, "chance")
    if chance is not None:
        _reference_line(ax, 100 * chance, "chance")
    low, high = ax.get_ylim()
    low = min(low, high - 10)  # a tenth of a point must not look like a collapse
    ax.set_ylim(max(low - 0.03 * (high - low), -2.0), min(high + 0.04 * (high - low), 104.0))


def plot_states(rows: Sequence[Row], ax: Axes) -> None:
    """Draws the states one arm keeps in every layer, at every ratio: darker is more, the number is the mean.

    Args:
        rows: Rows of one arm of one study.
        ax: Axes to draw in.
    """
    means = [row for row in aggregate(rows) if row.get("orders")]
    kept = np.array([row["orders"] for row in means], float).T
    share = kept / np.array([row["orders_full"] for row in means], float).T
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")  # beyond 1, to keep full layers off black
    for (layer, column), count in np.ndenumerate(kept):
        ink = "white" if share[layer, column] > 0.7 else INK
        text = f"{count:.0f}" if count < 1000 else f"{count / 1000:.1f}k"
        ax.text(column, layer, text, ha="center", va="center", fontsize=7, color=ink)
    ax.set_xticks(range(len(means)), [f"{removed(row):.3g}" for row in means])
    ax.set_yticks(range(len(kept)), [str(layer) for layer in range(len(kept))])
    ax.tick_params(length=0, labelsize=7.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _reference_line(ax: Axes, height: float, text: str) -> None:
    ax.axhline(height, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    place = ax.get_yaxis_transform()
    ax.annotate(text, (1, height), (-2, 3), place, "offset points", color=MUTED, fontsize=8, ha="right")


def _mean_of(rows: Sequence[Row], key: str) -> float | None:
    values = [found for row in rows if (found := value(row, key)) is not None]
    return float(np.mean(values)) if values else None
