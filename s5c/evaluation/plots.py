"""The figures of a report. Each `plot_*` draws one panel into axes it is given; `save_figures` writes them all."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s5c.evaluation.collect import FULL, Row, Spectra, Study, aggregate, by_method, points_lost, studies, write_csv

INK, MUTED, FAINT = "#222222", "#6B6B6B", "#E4E4E4"
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
    """How a method is drawn in every figure: colour by score, marker by allocation."""

    color: str
    marker: str = "o"
    linestyle: str = "-"
    width: float = 1.3


# After Okabe and Ito's palette, told apart with any of the usual colour vision deficiencies; light hues darkened to be
# legible as text.
LOOKS = {
    "last": Look("#D55E00", width=2.6),
    "uniform_hinf": Look("#0072B2", "s"),
    "global_hinf": Look("#3A9FDB", "D"),
    "uniform_magnitude": Look("#007A5A", "s"),
    "global_magnitude": Look("#3DAA88", "D"),
    "lamp": Look("#CC79A7"),
    "random": Look("#777777", "s", "--"),
    "unstructured_random": Look("#9A9A9A", "x", ":"),
}
OTHERS = ("#000000", "#B8860B", "#7B3FA0", "#8C510A")


def look_of(preset: str) -> Look:
    """Returns the look of a preset; one that is not in `LOOKS` always gets the same of the remaining colours."""
    return LOOKS.get(preset) or Look(OTHERS[zlib.crc32(preset.encode()) % len(OTHERS)], "^")


# -------------------------------------------------------------------------------------------------------------- panels


def plot_accuracy(rows: Sequence[Row], ax: Axes) -> None:
    """Draws test accuracy against the ratio of states removed, mean and standard deviation over seeds.

    Args:
        rows: Rows of one study. A `chance` in them (an accuracy) is drawn as a line.
        ax: Axes to draw in.
    """
    full = _mean_of(rows, "test_accuracy_full")
    ends = _draw_methods(rows, ax, "test_accuracy", "test_accuracy_full", 100)
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


def plot_latency(rows: Sequence[Row], ax: Axes) -> None:
    """Draws latency against the ratio of states removed; line ends carry the speed-up at the largest ratio.

    Args:
        rows: Rows of one study, measured on one device.
        ax: Axes to draw in.
    """
    full = _mean_of(rows, "latency_full_ms")
    ends = _draw_methods(rows, ax, "latency_ms", "latency_full_ms", 1, "speedup")
    if full is not None:
        _reference_line(ax, full, f"unpruned {full:.3g} ms")
    ax.set_ylim(0, 1.12 * ax.get_ylim()[1])
    ax.set(xlabel="Ratio of states removed", ylabel="Latency (ms)")
    ax.set_title(", ".join(sorted({str(row["device"]) for row in rows if row.get("device")})), **NOTE)
    _label_ends(ax, ends)


def plot_states(rows: Sequence[Row], ax: Axes) -> None:
    """Draws the states one method keeps in every layer, at every ratio: darker is more, the number is the mean.

    Args:
        rows: Rows of one method of one study.
        ax: Axes to draw in.
    """
    means = [row for row in aggregate(rows) if row.get("orders")]
    kept = np.array([row["orders"] for row in means], float).T
    share = kept / np.array([row["orders_full"] for row in means], float).T
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")  # beyond 1, to keep full layers off black
    for (layer, column), value in np.ndenumerate(kept):
        ink = "white" if share[layer, column] > 0.7 else INK
        ax.text(column, layer, f"{value:.0f}", ha="center", va="center", fontsize=7, color=ink)
    ax.set_xticks(range(len(means)), [f"{row['ratio']:g}" for row in means])
    ax.set_yticks(range(len(kept)), [str(layer) for layer in range(len(kept))])
    ax.tick_params(length=0, labelsize=7.5)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def plot_eigenvalues(arrays: Mapping[str, NDArray[Any]], ratio: float, layer: int, ax: Axes) -> None:
    """Draws a layer's discrete eigenvalues in the complex plane, with the unit circle.

    Args:
        arrays: The spectra of one job.
        ratio: Which of its ratios; kept eigenvalues are filled, removed ones hollow.
        layer: Which layer. The limits are the same for all, so that panels compare.
        ax: Axes to draw in.
    """
    values, keep = arrays[f"Lambda_bar_layer{layer}"], arrays[f"keep_{ratio:g}_layer{layer}"]
    turn = np.linspace(0, 2 * np.pi, 721)
    ax.plot(np.cos(turn), np.sin(turn), color=MUTED, lw=0.7, zorder=1)
    _kept_and_removed(ax, values.real, values.imag, keep)
    ax.set_aspect("equal")
    xlim, ylim = _window(arrays)
    ax.set(xlim=xlim, ylim=ylim)
    ax.set_title(f"Layer {layer}   {keep.sum()} of {keep.size} kept", loc="left")


def plot_scores(arrays: Mapping[str, NDArray[Any]], ratio: float, layer: int, ax: Axes) -> None:
    """Draws a layer's scores, largest first, on a logarithmic axis, and the cut between kept and removed states.

    Scores that a logarithmic axis cannot show (zero, infinite, undefined) are counted in the panel instead.

    Args:
        arrays: The spectra of one job.
        ratio: Which of its ratios; kept states are filled, removed ones hollow.
        layer: Which layer.
        ax: Axes to draw in.
    """
    scores, keep = arrays[f"scores_layer{layer}"], arrays[f"keep_{ratio:g}_layer{layer}"]
    order = np.argsort(-np.nan_to_num(scores), kind="stable")
    scores, keep, rank = scores[order], keep[order], np.arange(1, scores.size + 1)
    shown = np.isfinite(scores) & (scores > 0)
    _kept_and_removed(ax, rank[shown], scores[shown], keep[shown])
    ax.axvline(keep.sum() + 0.5, color=INK, lw=0.8, ls="--", zorder=1)
    ax.set_yscale("log")
    ax.set_xlim(0, scores.size + 1)
    ax.set_title(f"Layer {layer}   {keep.sum()} of {keep.size} kept", loc="left")
    if not shown.all():
        note = f"{(~shown).sum()} not on a log axis"
        ax.text(0.98, 0.96, note, transform=ax.transAxes, ha="right", va="top", color=MUTED, fontsize=7)


# ------------------------------------------------------------------------------------------------------------- figures


Drawing = tuple[Figure, list[Row]]


def save_figures(rows: Sequence[Row], spectra: Spectra, directory: Path) -> list[Path]:
    """Writes every figure the rows have data for, as PNG and PDF, each with the numbers it shows as CSV.

    Args:
        rows: Rows as `collect` returns them. Several studies get a folder each.
        spectra: Arrays by run folder, as `read_spectra` returns them.
        directory: Where to write; made if absent.

    Returns:
        The files written.
    """
    found = studies(rows)
    written: list[Path] = []
    with mpl.rc_context(STYLE):
        for study in found:
            folder = directory if len(found) == 1 else directory / study.slug
            folder.mkdir(parents=True, exist_ok=True)
            drawings = {
                "accuracy_vs_ratio": _line_figure(study, plot_accuracy, "test_accuracy"),
                "latency_vs_ratio": _line_figure(study, plot_latency, "latency_ms"),
                "states_per_layer": _states_figure(study),
                "eigenvalues": _spectrum_figure(study, spectra, "Lambda_bar"),
                "score_spectra": _spectrum_figure(study, spectra, "scores"),
            }
            for name, drawing in drawings.items():
                written += _save(drawing, folder / name) if drawing else []
    return written


def _save(drawing: Drawing, stem: Path) -> list[Path]:
    figure, data = drawing
    png, pdf, table = (stem.with_suffix(suffix) for suffix in (".png", ".pdf", ".csv"))
    figure.savefig(png, dpi=150)
    figure.savefig(pdf, metadata={"CreationDate": None})  # the same data gives the same file
    write_csv(data, table)
    return [png, pdf, table]


def _line_figure(study: Study, plot: Callable[[Sequence[Row], Axes], None], measure: str) -> Drawing | None:
    methods = by_method(row for row in aggregate(study.rows) if row.get(measure) is not None)
    if not methods:
        return None
    figure = Figure(figsize=(6.4, 3.9))
    plot(study.rows, figure.add_subplot())
    _entitle(figure, study.title)
    keys = ("ratio", "n", measure, f"{measure}_sd")
    return figure, [{"method": name, **{key: row[key] for key in keys}} for name in methods for row in methods[name]]


def _states_figure(study: Study) -> Drawing | None:
    """Masked-only reductions are left out: they keep every state."""
    sized = [row for row in study.rows if row.get("orders") and row.get("orders_full") and not row.get("masked_only")]
    methods = by_method(sized)
    if not methods:
        return None
    depth, ratios = len(sized[-1]["orders"]), len({row["ratio"] for row in sized})
    width = max(0.5 + 0.23 * ratios, 0.3 + 0.085 * max(map(len, methods)))  # cells, or the name above them
    figure, panels = _panels(len(methods), width, 0.6 + 0.2 * depth)
    for ax, (name, rows) in zip(panels, methods.items(), strict=True):
        plot_states(rows, ax)
        ax.set_title(name, loc="left", color=look_of(rows[0]["reduction"]).color, fontweight="bold")
    _entitle(figure, f"States kept per layer\n{study.title}", "Ratio of states removed", "Layer")
    data: list[Row] = []
    for name, rows in by_method(aggregate(sized)).items():
        for row in rows:
            counts = enumerate(zip(row["orders"], row["orders_full"], strict=True))
            data += [{"method": name, "ratio": row["ratio"], "layer": i, "kept": n, "of": of} for i, (n, of) in counts]
    return figure, data


def _spectrum_figure(study: Study, spectra: Spectra, name: str) -> Drawing | None:
    row = _illustration(study, spectra)
    if row is None:
        return None
    arrays, depth = spectra[row["folder"]], len(row["orders_full"])
    plot, what, height, axes = plot_scores, "Scores", 2.1, ("State, highest score first", f"Score ({row['method']})")
    if name == "Lambda_bar":
        (left, right), (bottom, top) = _window(arrays)
        plot, what, axes = plot_eigenvalues, "Discrete eigenvalues", ("Real part", "Imaginary part")
        height = 0.5 + 2.0 * (top - bottom) / (right - left)
    figure, panels = _panels(depth, 2.4, height, sharey=True)
    for layer, ax in enumerate(panels):
        plot(arrays, row["ratio"], layer, ax)
    _entitle(figure, f"{what}\n{_caption(study, row)}", *axes)
    return figure, _spectrum_rows(arrays, row, name)


def _illustration(study: Study, spectra: Spectra) -> Row | None:
    """Returns the model to show states of: LAST's if there, at the largest ratio that costs at most one point."""
    reduced = [row for row in study.rows if row["reduction"] != FULL]
    rows = [row for row in reduced if f"keep_{row['ratio']:g}_layer0" in spectra.get(row.get("folder", ""), {})]
    rows = [row for row in rows if row["folder"] == rows[0]["folder"]]
    cheap = [row for row in rows if (lost := points_lost(row)) is not None and lost <= 1]
    return max(cheap, key=lambda row: row["ratio"]) if cheap else rows[0] if rows else None


def _caption(study: Study, row: Row) -> str:
    text = f"{study.title}: {row['reduction']} at ratio {row['ratio']:g}, seed {row.get('seed')}"
    lost = points_lost(row)
    return text if lost is None else f"{text}, accuracy {100 * row['test_accuracy']:.1f} % ({lost:.1f} points lost)"


def _entitle(figure: Figure, title: str, xlabel: str = "", ylabel: str = "") -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
    if xlabel:
        figure.supxlabel(xlabel, fontsize=9)
        figure.supylabel(ylabel, fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:  # beside the shared axis label, where no data are
        figure.legend(handles, labels, loc="lower right", ncols=2, frameon=False, fontsize=8, handletextpad=0.2)


def _window(arrays: Mapping[str, NDArray[Any]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns the limits that hold every layer's eigenvalues and the point 1, where slow states gather."""
    every = [values for name, values in arrays.items() if name.startswith("Lambda_bar_layer")]
    points = np.concatenate([[1.0 + 0j], *every])
    pad = 0.06 * max(np.ptp(points.real), np.ptp(points.imag), 0.05)
    limits = [(float(part.min() - pad), float(part.max() + pad)) for part in (points.real, points.imag)]
    return limits[0], limits[1]


def _spectrum_rows(arrays: Mapping[str, NDArray[Any]], row: Row, name: str) -> list[Row]:
    result: list[Row] = []
    for layer in range(len(row["orders_full"])):
        values, keep = arrays[f"{name}_layer{layer}"], arrays[f"keep_{row['ratio']:g}_layer{layer}"]
        parts = {"real": values.real, "imag": values.imag} if np.iscomplexobj(values) else {"score": values}
        for state in range(values.size):
            numbers = {key: float(part[state]) for key, part in parts.items()}
            result.append({"layer": layer, "state": state, **numbers, "kept": bool(keep[state])})
    return result


def _panels(count: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(max(4.2, width * columns + 0.4), height * lines + 0.75))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=sharey).ravel()
    for unused in grid[count:]:
        unused.remove()
    return figure, list(grid[:count])


def _kept_and_removed(ax: Axes, x: NDArray[Any], y: NDArray[Any], keep: NDArray[Any]) -> None:
    ax.scatter(x[~keep], y[~keep], 16, "white", edgecolors=MUTED, linewidths=0.8, label="removed", zorder=2)
    ax.scatter(x[keep], y[keep], 16, LOOKS["last"].color, linewidths=0, label="kept", zorder=3)


End = tuple[float, float, str, Look]


def _draw_methods(rows: Sequence[Row], ax: Axes, measure: str, start: str, factor: float, extra: str = "") -> list[End]:
    """Draws one line per method, from the unpruned model at ratio 0, and returns where the lines end."""
    methods = by_method(row for row in aggregate(rows) if row.get(measure) is not None)
    ends = []
    for depth, (name, means) in enumerate(methods.items()):
        look = look_of(means[0]["reduction"])
        origin = [(0.0, means[0][start], 0.0)] if means[0].get(start) is not None else []
        points = [(row["ratio"], row[measure], row.get(f"{measure}_sd") or 0.0) for row in means]
        x, y, spread = np.array([*origin, *points], float).T
        ax.plot(
            x, factor * y, color=look.color, ls=look.linestyle, lw=look.width, zorder=20 - depth,
            marker=look.marker, ms=4, mew=0.8, markevery=slice(len(origin), None),
        )  # fmt: skip
        if spread.any():
            band = factor * (y - spread), factor * (y + spread)
            ax.fill_between(x, *band, color=look.color, alpha=0.13, lw=0, zorder=2)
        text = name + (" (masked)" if means[0].get("masked_only") else "")
        if means[-1].get(extra) is not None:
            text += f"  {means[-1][extra]:.2f}×"
        ends.append((x[-1], factor * y[-1], text, look))
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
    blocks: list[list[float]] = []  # isotonic regression of the heights minus their share of gaps
    for index, height in enumerate(heights):
        blocks.append([height - index * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    ceiling = max(low, high - (len(heights) - 1) * gap)
    return [min(max(height, low), ceiling) + index * gap for index, height in enumerate(flat)]


def _mean_of(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else None
