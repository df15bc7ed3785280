"""What a reduction does to the layers' systems: poles kept, moved and removed, scores, Hankel singular values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s5c.report.arms import label, target
from s5c.report.average import points_lost
from s5c.report.collect import Spectra, Study
from s5c.report.csvfile import Record
from s5c.report.looks import INK, MUTED, OURS, entitle, panels
from s5c.report.row import FULL, Row

Arrays = Mapping[str, NDArray[Any]]
Drawing = tuple[Callable[[], Figure], list[Record]]
"""Draws a figure when called, and the numbers in it."""

POLES, KEEP, MOVED, SCORES, HANKEL = "Lambda_bar", "keep", "lambda", "scores", "hsv"
"""Names of the arrays in spectra.npz, each followed by `_layer0` and so on; `keep` and `lambda` by the target first."""


def plot_eigenvalues(arrays: Arrays, at: str, layer: int, ax: Axes) -> None:
    """Draws a layer's discrete eigenvalues in the complex plane, with the unit circle.

    Args:
        arrays: The spectra of one job.
        at: Which of its targets; kept eigenvalues are filled, removed ones hollow.
        layer: Which layer. The limits are the same for all, so that panels compare.
        ax: Axes to draw in.
    """
    values, keep = _flat(arrays, POLES, layer), _flat(arrays, f"{KEEP}_{at}", layer)
    _complex_plane(arrays, ax)
    _two_kinds(ax, (values.real, values.imag), keep, ("kept", "removed"))
    ax.set_title(f"Layer {layer}   {keep.sum()} of {keep.size} kept", loc="left")


def plot_moved(arrays: Arrays, at: str, layer: int, ax: Axes) -> None:
    """Draws a layer's discrete poles before the reduction (hollow) and after it (filled).

    Args:
        arrays: The spectra of one job.
        at: Which of its targets.
        layer: Which layer.
        ax: Axes to draw in.
    """
    before, after = _flat(arrays, POLES, layer), _flat(arrays, f"{MOVED}_{at}", layer)
    values, new = np.concatenate([before, after]), np.arange(len(before) + len(after)) >= len(before)
    _complex_plane(arrays, ax)
    _two_kinds(ax, (values.real, values.imag), new, ("after", "before"))
    ax.set_title(f"Layer {layer}   {len(before)} → {len(after)} poles", loc="left")


def plot_scores(arrays: Arrays, at: str, layer: int, ax: Axes) -> None:
    """Draws a layer's scores, largest first, on a logarithmic axis, and the cut between kept and removed states.

    Scores that a logarithmic axis cannot show (zero, infinite, undefined) are counted in the panel instead.

    Args:
        arrays: The spectra of one job.
        at: Which of its targets; kept states are filled, removed ones hollow.
        layer: Which layer.
        ax: Axes to draw in.
    """
    scores, keep = _flat(arrays, SCORES, layer), _flat(arrays, f"{KEEP}_{at}", layer)
    order = np.argsort(-np.nan_to_num(scores), kind="stable")
    scores, keep, rank = scores[order], keep[order], np.arange(1, scores.size + 1)
    shown = np.isfinite(scores) & (scores > 0)
    _two_kinds(ax, (rank[shown], scores[shown]), keep[shown], ("kept", "removed"))
    ax.axvline(keep.sum() + 0.5, color=INK, lw=0.8, ls="--", zorder=1)
    ax.set_yscale("log")
    ax.set_xlim(0, scores.size + 1)
    ax.set_title(f"Layer {layer}   {keep.sum()} of {keep.size} kept", loc="left")
    if not shown.all():
        note = f"{(~shown).sum()} not on a log axis"
        ax.text(0.98, 0.96, note, transform=ax.transAxes, ha="right", va="top", color=MUTED, fontsize=7)


def plot_hankel(arrays: Arrays, cuts: Mapping[str, float], layer: int, ax: Axes) -> None:
    """Draws a layer's Hankel singular values, the bound 2 sum_{j > k} sigma_j at every order k, and where it was cut.

    Of a layer with one system per channel the medians over channels are drawn, and the spread of four fifths of them.

    Args:
        arrays: The spectra of one job.
        cuts: Real states kept per system, by what to write at the cut.
        layer: Which layer.
        ax: Axes to draw in.
    """
    sigma = np.atleast_2d(arrays[f"{HANKEL}_layer{layer}"])
    bounds = 2 * np.cumsum(sigma[:, ::-1], axis=1)[:, ::-1]  # with k - 1 states kept, all from the k-th on are lost
    order = np.arange(1, sigma.shape[1] + 1)
    for values, color, name, style in ((sigma, OURS, "σ", "-"), (bounds, MUTED, "bound on the error", "--")):
        at = order if values is sigma else order - 1
        middle = np.median(values, axis=0)
        positive = middle > 0
        ax.plot(at[positive], middle[positive], color=color, ls=style, lw=1.3, label=name, zorder=3)
        if len(values) > 1:
            low, high = np.quantile(values, [0.1, 0.9], axis=0)
            inside = positive & (low > 0)
            ax.fill_between(at[inside], low[inside], high[inside], color=color, alpha=0.13, lw=0)
    for text, kept in cuts.items():
        ax.axvline(kept, color=INK, lw=0.7, ls=":", zorder=1)
        ax.annotate(text, (kept, 1), (1, -1), ax.get_xaxis_transform(), "offset points", fontsize=6.5, va="top")
    ax.set_yscale("log")
    ax.set_xlim(0, len(order) + 1)
    ax.set_title(f"Layer {layer}", loc="left")


# ------------------------------------------------------------------------------------------------------------- figures


def pole_figure(study: Study, spectra: Spectra, kind: str) -> Drawing | None:
    """Returns the figure of poles (`kind` KEEP or MOVED) or of scores (SCORES) for the model that `shown` chooses."""
    row = shown(study, spectra, MOVED if kind == MOVED else KEEP)
    if row is None:
        return None
    arrays, at, depth = spectra[row["folder"]], target(row)[1], len(row["orders_full"])
    plane = ("Real part", "Imaginary part")
    plot, what, axes = {
        KEEP: (plot_eigenvalues, "Discrete eigenvalues", plane),
        MOVED: (plot_moved, "Poles before and after", plane),
        SCORES: (plot_scores, "Scores", ("State, highest score first", f"Score ({row.get('method')})")),
    }[kind]

    def draw() -> Figure:
        height = 2.1
        if kind != SCORES:
            (left, right), (bottom, top) = _window(arrays)
            height = min(0.5 + 2.0 * (top - bottom) / (right - left), 5.0)
        figure, grid = panels(depth, 2.4, height, sharey=True)
        for layer, ax in enumerate(grid):
            plot(arrays, at, layer, ax)
        entitle(figure, f"{what}\n{_caption(study, row)}", *axes)
        return figure

    return draw, _numbers(arrays, row, kind)


def hankel_figure(study: Study, spectra: Spectra) -> Drawing | None:
    """Returns the figure of Hankel singular values, or None where no job of the study stored them."""
    rows = _with_hankel(study, spectra)
    if not rows:
        return None
    first, arrays = rows[0], spectra[rows[0]["folder"]]
    few = rows if len(rows) <= 4 else [min(rows, key=lambda row: abs(row["ratio"] - r)) for r in (0.3, 0.6, 0.9)]
    sigmas = [np.atleast_2d(arrays[f"{HANKEL}_layer{layer}"]) for layer in range(len(first["orders"]))]

    def draw() -> Figure:
        figure, grid = panels(len(sigmas), 2.4, 2.1, sharey=True)
        for layer, (ax, sigma) in enumerate(zip(grid, sigmas, strict=True)):
            cuts = {f"{row['ratio']:.2g}": 2 * row["orders"][layer] / len(sigma) for row in few}
            plot_hankel(arrays, cuts, layer, ax)
        title = f"Hankel singular values\n{study.title}: {label(first)}, dotted: cut at that ratio"
        entitle(figure, title, "Order (real states)", "σ, and error bound")
        return figure

    return draw, [row for layer, sigma in enumerate(sigmas) for row in _hankel_rows(layer, sigma)]


def _with_hankel(study: Study, spectra: Spectra) -> list[Row]:
    """Returns the reduced models of the first job that stored Hankel singular values."""
    rows = [row for row in study.rows if row["reduction"] != FULL]
    rows = [row for row in rows if _has_hankel(spectra.get(row.get("folder", ""), {}))]
    return [row for row in rows if row["folder"] == rows[0]["folder"]]


def _has_hankel(arrays: Arrays) -> bool:
    """Returns whether there are values of every layer; older jobs stored none of layers with an unstable mode."""
    found = [array.size for name, array in arrays.items() if name.startswith(f"{HANKEL}_layer")]
    return bool(found) and all(found)


def _hankel_rows(layer: int, sigma: NDArray[Any]) -> list[Record]:
    """Returns what is drawn of a layer: its values, or the median over its channels."""
    middle = np.median(sigma, axis=0)
    bound = np.median(2 * np.cumsum(sigma[:, ::-1], axis=1)[:, ::-1], axis=0)
    tails = [*bound[1:], 0.0][: len(middle)]
    return [
        {"layer": layer, "order": k + 1, "sigma": float(value), "bound": float(tail)}
        for k, (value, tail) in enumerate(zip(middle, tails, strict=True))
    ]


def shown(study: Study, spectra: Spectra, kind: str) -> Row | None:
    """Returns the model to draw: of the first arm that has the arrays, the largest ratio costing at most a point."""
    rows = [row for row in study.rows if row["reduction"] != FULL]
    rows = [row for row in rows if f"{kind}_{target(row)[1]}_layer0" in spectra.get(row.get("folder", ""), {})]
    if kind == MOVED:  # where poles are only selected, the other figure says it better
        rows = [row for row in rows if row["reduction"].startswith(("bt", "h2", "lqo"))]
    rows = [row for row in rows if row["folder"] == rows[0]["folder"]]
    cheap = [row for row in rows if (lost := points_lost(row)) is not None and lost <= 1]
    return max(cheap, key=lambda row: row["ratio"]) if cheap else rows[0] if rows else None


def needed(study: Study, spectra: Spectra) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns the part of the arrays that the figures of a study are drawn from."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for kind, others in ((KEEP, (POLES, SCORES)), (MOVED, (POLES,))):
        if (row := shown(study, spectra, kind)) is not None:
            wanted = (f"{kind}_{target(row)[1]}_layer", *(f"{other}_layer" for other in others))
            _take(found, spectra, row["folder"], wanted)
    if rows := _with_hankel(study, spectra):
        _take(found, spectra, rows[0]["folder"], (f"{HANKEL}_layer",))
    return found


def _take(found: dict[str, dict[str, NDArray[Any]]], spectra: Spectra, folder: str, prefixes: tuple[str, ...]) -> None:
    arrays = {name: array for name, array in spectra[folder].items() if name.startswith(prefixes)}
    found.setdefault(folder, {}).update(arrays)


def _flat(arrays: Arrays, name: str, layer: int) -> NDArray[Any]:
    return np.ravel(arrays[f"{name}_layer{layer}"])


def _two_kinds(ax: Axes, points: tuple[NDArray[Any], NDArray[Any]], filled: NDArray[Any], names: Sequence[str]) -> None:
    x, y = points
    size = 16 if len(x) <= 300 else 3
    ax.scatter(x[~filled], y[~filled], size, "white", edgecolors=MUTED, linewidths=0.8, label=names[1], zorder=2)
    ax.scatter(x[filled], y[filled], size, OURS, linewidths=0, label=names[0], zorder=3)


def _complex_plane(arrays: Arrays, ax: Axes) -> None:
    turn = np.linspace(0, 2 * np.pi, 721)
    ax.plot(np.cos(turn), np.sin(turn), color=MUTED, lw=0.7, zorder=1)
    ax.set_aspect("equal")
    xlim, ylim = _window(arrays)
    ax.set(xlim=xlim, ylim=ylim)


def _window(arrays: Arrays) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns the limits that hold every layer's eigenvalues and the point 1, where slow states gather."""
    every = [np.ravel(values) for name, values in arrays.items() if name.startswith((POLES, MOVED))]
    points = np.concatenate([[1.0 + 0j], *every])
    pad = 0.06 * max(np.ptp(points.real), np.ptp(points.imag), 0.05)
    limits = [(float(part.min() - pad), float(part.max() + pad)) for part in (points.real, points.imag)]
    return limits[0], limits[1]


def _caption(study: Study, row: Row) -> str:
    text = f"{study.title}: {label(row)} at ratio {row['ratio']:.3g}, seed {row.get('seed')}"
    lost, accuracy = points_lost(row), row.get("test_accuracy")
    if lost is None or accuracy is None:
        return text
    return f"{text}, accuracy {100 * accuracy:.1f} % ({lost:.1f} points lost)"


def _numbers(arrays: Arrays, row: Row, kind: str) -> list[Record]:
    result: list[Record] = []
    at = target(row)[1]
    for layer in range(len(row["orders_full"])):
        if kind == MOVED:
            for when, name in (("before", POLES), ("after", f"{MOVED}_{at}")):
                poles = _flat(arrays, name, layer)
                result += [{"layer": layer, "when": when, "real": float(z.real), "imag": float(z.imag)} for z in poles]
            continue
        values, keep = _flat(arrays, SCORES if kind == SCORES else POLES, layer), _flat(arrays, f"{KEEP}_{at}", layer)
        parts = {"score": values} if kind == SCORES else {"real": values.real, "imag": values.imag}
        for state in range(values.size):
            numbers = {key: float(part[state]) for key, part in parts.items()}
            result.append({"layer": layer, "state": state, **numbers, "kept": bool(keep[state])})
    return result
