"""Accuracy and latency against the share of states removed, and the states kept in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from s5c.report.arms import best_first, by_arm, label, removed
from s5c.report.average import aggregate
from s5c.report.cells import HIGHLIGHTED
from s5c.report.looks import INK, MUTED, NOTE, Look, looks_of
from s5c.report.row import FULL, Row, value

FEW = 8
"""Curves up to which names stand at their ends; more get a legend and an axis that spreads small losses."""
FEWEST = 4
"""Curves that a panel of its own is worth."""
SMALL_LOSS = 0.5
"""Points of accuracy up to which that axis is linear."""
LOSSES = (0.5, 1, 2, 5, 10, 20, 40, 80)

End = tuple[float, float, str, Look]


def accuracy_figure(rows: Sequence[Row]) -> Figure:
    """Returns test accuracy against the ratio of states removed for the rows of one study.

    Many arms get an axis of points lost that is logarithmic beyond half a point, and where most are variants of some
    methods a panel for these methods as they are and one for the variants.
    """
    means = aggregate(rows)
    arms = by_arm(row for row in means if row.get("test_accuracy") is not None)
    if len(arms) <= FEW:
        figure = Figure(figsize=(6.4, 3.9))
        plot_accuracy(rows, figure.add_subplot())
        return figure
    names = best_first(arms)
    plain = [name for name in names if name == arms[name][0]["reduction"]]
    variants = [name for name in names if name not in plain]
    groups = {"": names}
    if min(len(plain), len(variants)) >= FEWEST:
        orientation = [name for name in names if name in variants or name in HIGHLIGHTED]
        groups = {"as they are": plain, "variants, and for comparison the highlighted methods": orientation}
    heights = [max(3.3, 0.165 * len(group) + 0.9) for group in groups.values()]
    figure = Figure(figsize=(max(8.6, 5.0 + 0.066 * max(map(len, names))), sum(heights)))
    grid = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    seeds = max(row["n"] for row in means)
    for ax, (title, group) in zip(grid, groups.items(), strict=True):
        _plot_losses([row for row in rows if row["reduction"] == FULL or label(row) in group], group, ax)
        notes = [*([title] if title else []), *([f"mean, {seeds} seeds"] if seeds > 1 else [])]
        ax.set_title(", ".join(notes).capitalize(), **NOTE)
    grid[-1].set(xlabel="Ratio of states removed")
    return figure


def _plot_losses(rows: Sequence[Row], names: Sequence[str], ax: Axes) -> None:
    """Draws the change in accuracy of some arms, legend best first; beyond half a point on a logarithmic scale."""
    full = _mean_of(rows, "test_accuracy_full") or 0.0

    def to_scale(change: NDArray[Any]) -> NDArray[Any]:
        return np.sign(change) * np.log1p(np.abs(change) / SMALL_LOSS)

    def from_scale(value: NDArray[Any]) -> NDArray[Any]:
        return np.sign(value) * SMALL_LOSS * np.expm1(np.abs(value))

    _draw_arms(rows, ax, "test_accuracy", "test_accuracy_full", 100, shift=-100 * full)
    ax.set_yscale("function", functions=(to_scale, from_scale))
    low, high = ax.dataLim.y0, max(ax.dataLim.y1, SMALL_LOSS)
    ax.set_ylim(1.15 * low, 1.3 * high)
    ticks = [tick for tick in (1.0, SMALL_LOSS, 0.0, *(-tick for tick in LOSSES)) if 1.15 * low <= tick <= 1.3 * high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:+g}".replace("-", "−") if tick else "0"))
    ax.yaxis.set_minor_locator(NullLocator())
    _reference_line(ax, 0, f"unpruned {100 * full:.1f} %")
    ax.set(ylabel="Change in test accuracy (points)")
    handles, labels = ax.get_legend_handles_labels()
    drawn = dict(zip(labels, handles, strict=True))
    ordered = sorted(drawn, key=lambda text: names.index(text.removesuffix(" (masked)")))
    ax.legend(
        [drawn[text] for text in ordered], ordered, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
        fontsize=8, title="best first", title_fontsize=8, alignment="left", labelspacing=0.3, handlelength=3,
    )  # fmt: skip


def plot_accuracy(rows: Sequence[Row], ax: Axes) -> None:
    """Draws test accuracy against the ratio of states removed, mean and standard deviation over seeds.

    Args:
        rows: Rows of one study. A `chance` in them (an accuracy) is drawn as a line.
        ax: Axes to draw in.
    """
    full = _mean_of(rows, "test_accuracy_full")
    ends = _draw_arms(rows, ax, "test_accuracy", "test_accuracy_full", 100)
    if full is not None:
        _reference_line(ax, 100 * full, f"unpruned {100 * full:.1f}")
    chance = _mean_of(rows, "chance")
    if chance is not None:
        _reference_line(ax, 100 * chance, "chance")
    low, high = ax.get_ylim()
    low = min(low, high - 10)  # a tenth of a point must not look like a collapse
    ax.set_ylim(max(low - 0.03 * (high - low), -2.0), min(high + 0.04 * (high - low), 104.0))
    seeds = max(row["n"] for row in aggregate(rows))
    if seeds > 1:
        ax.set_title(f"Mean ± standard deviation, {seeds} seeds", **NOTE)
    ax.set(xlabel="Ratio of states removed", ylabel="Test accuracy (%)")
    _label_ends(ax, ends)


def latency_figure(rows: Sequence[Row]) -> Figure:
    """Returns latency against the ratio of states removed for the rows of one study."""
    figure = Figure(figsize=(6.4, max(3.9, 0.17 * len(by_arm(rows)) + 0.8)))
    plot_latency(rows, figure.add_subplot())
    return figure


def plot_latency(rows: Sequence[Row], ax: Axes) -> None:
    """Draws latency against the ratio of states removed; line ends carry the speed-up at the largest ratio.

    Args:
        rows: Rows of one study, measured on one device.
        ax: Axes to draw in.
    """
    full = _mean_of(rows, "latency_full_ms")
    ends = _draw_arms(rows, ax, "latency_ms", "latency_full_ms", 1, "speedup")
    if full is not None:
        _reference_line(ax, full, f"unpruned {full:.3g} ms")
    ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
    ax.set(xlabel="Ratio of states removed", ylabel="Latency (ms)")
    ax.set_title(", ".join(sorted({str(row["device"]) for row in rows if row.get("device")})), **NOTE)
    _label_ends(ax, ends)


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


def _draw_arms(
    rows: Sequence[Row], ax: Axes, measure: str, start: str, factor: float, extra: str = "", shift: float = 0.0
) -> list[End]:
    """Draws one line per arm, from the unpruned model at ratio 0, and returns where the lines end."""
    arms = by_arm(row for row in aggregate(rows) if value(row, measure) is not None)
    ends, looks = [], looks_of(arms)
    for depth, (name, unsorted) in enumerate(arms.items()):
        means = sorted(unsorted, key=removed)
        look = looks[name]
        origin = [(0.0, value(means[0], start), 0.0)] if value(means[0], start) is not None else []
        points = [(removed(row), value(row, measure), value(row, f"{measure}_sd") or 0.0) for row in means]
        x, y, spread = np.array([*origin, *points], float).T
        text = name + (" (masked)" if means[0].get("masked_only") else "")
        ax.plot(
            x, factor * y + shift, color=look.color, ls=look.linestyle, lw=look.width, label=text,
            zorder=20 - min(depth, 16) + 20 * (look.width > 2),
            marker=look.marker, ms=4, mew=0.8, markevery=slice(len(origin), None),
        )  # fmt: skip
        if spread.any() and len(arms) <= FEW:  # dozens of bands hide the curves
            band = factor * (y - spread) + shift, factor * (y + spread) + shift
            ax.fill_between(x, *band, color=look.color, alpha=0.10, lw=0, zorder=2)
        if (told := value(means[-1], extra)) is not None:
            text += f"  {told:.2f}×"
        ends.append((x[-1], factor * y[-1] + shift, text, look))
    return ends


def _reference_line(ax: Axes, height: float, text: str) -> None:
    ax.axhline(height, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=1)
    place = ax.get_yaxis_transform()
    ax.annotate(text, (0, height), (3, 3), place, "offset points", color=MUTED, fontsize=8)


def _label_ends(ax: Axes, ends: Sequence[End], size: float = 8) -> None:
    """Writes each line's name beside its end, moved apart as little as makes them readable."""
    low, high = ax.get_ylim()
    height = 0.9 * ax.bbox.height / ax.figure.dpi  # in inches; the layout, still to come, takes its share
    gap = 1.3 * size / 72 / height * (high - low)
    ordered = sorted(ends, key=lambda end: (end[1], -ends.index(end)))
    places = _apart([end[1] for end in ordered], gap, low, high)
    for (x, y, text, look), place in zip(ordered, places, strict=True):
        arrow = {"arrowstyle": "-", "color": look.color, "lw": 0.6, "shrinkA": 1, "shrinkB": 4, "relpos": (0, 0.5)}
        weight = "bold" if look.width > 2 else "normal"
        ax.annotate(
            text, (x, y), (1.04, place), textcoords=ax.get_yaxis_transform(), arrowprops=arrow, va="center",
            color=look.color, fontsize=size, fontweight=weight, annotation_clip=False,
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns the places within limits nearest to sorted `heights` (least squares) that are at least `gap` apart."""
    from scipy.optimize import isotonic_regression  # slow to import, and few reports need it

    shares = gap * np.arange(len(heights))
    if not heights:
        return []
    flat = isotonic_regression(np.subtract(heights, shares)).x
    return [float(place) for place in np.clip(flat, low, max(low, high - shares[-1])) + shares]


def _mean_of(rows: Sequence[Row], key: str) -> float | None:
    values = [found for row in rows if (found := value(row, key)) is not None]
    return float(np.mean(values)) if values else None
