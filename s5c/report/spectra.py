"""What a reduction does to the layers' systems: poles kept, moved and removed, scores, Hankel singular values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from s5c.report.arms import label, target
from s5c.report.average import points_lost
from s5c.report.collect import Spectra, Study
from s5c.report.csvfile import Record
from s5c.report.looks import INK, MUTED, OURS, Drawing, entitle, panels
from s5c.report.row import FULL, Row
from s5c.report.scores import metric_of, score
from s5c.report.titles import title

Arrays = Mapping[str, NDArray[Any]]

SLOW = 0.01
"""Frequency, rad/step, below which that axis is linear: many modes have next to none."""
POLES, KEEP, MOVED, SCORES, HANKEL = "Lambda_bar", "keep", "lambda", "scores", "hsv"
"""Names of the arrays in spectra.npz, each followed by `_layer0` and so on; `keep` and `lambda` by the target first."""


def plot_eigenvalues(arrays: Arrays, at: str, layer: int, ax: Axes) -> None:
    """Draws how quickly a layer's modes decay against their frequency, kept ones filled, removed ones hollow.

    Args:
        arrays: The spectra of one job.
        at: Which of its targets.
        layer: Which layer. The limits are the same for all, so that panels compare.
        ax: Axes to draw in.
    """
    values, keep = _flat(arrays, POLES, layer), _flat(arrays, f"{KEEP}_{at}", layer)
    _modes(ax, values, keep, ("kept", "removed"), _window(arrays, (POLES,)))
    ax.set_title(f"layer {layer}: {keep.sum()} of {keep.size} kept", loc="left")


def plot_moved(arrays: Arrays, at: str, layer: int, ax: Axes) -> None:
    """Draws decay against frequency of a layer's modes before the reduction (hollow) and after it (filled).

    Args:
        arrays: The spectra of one job.
        at: Which of its targets.
        layer: Which layer.
        ax: Axes to draw in.
    """
    before, after = _flat(arrays, POLES, layer), _flat(arrays, f"{MOVED}_{at}", layer)
    values, new = np.concatenate([before, after]), np.arange(len(before) + len(after)) >= len(before)
    _modes(ax, values, new, ("after", "before"), _window(arrays, (POLES, f"{MOVED}_{at}_")))
    ax.set_title(f"layer {layer}: {len(before)} → {len(after)} modes", loc="left")


def decay_and_frequency(poles: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns how quickly modes decay and turn: z = exp(-decay + i frequency).

    Args:
        poles: complex, of the discrete system; of a pair of conjugates either.

    Returns:
        decays: 1/step; negative of a mode that grows, infinite of one at 0.
        frequencies: rad/step, in [0, pi].
    """
    with np.errstate(divide="ignore"):
        return -np.log(np.abs(poles)), np.abs(np.angle(poles))


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
    ax.set_title(f"layer {layer}: {keep.sum()} of {keep.size} kept", loc="left")
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
    ax.set_title(f"layer {layer}", loc="left")


# ------------------------------------------------------------------------------------------------------------- figures


def pole_figure(study: Study, spectra: Spectra, kind: str) -> Drawing | None:
    """Returns the figure of poles (`kind` KEEP or MOVED) or of scores (SCORES) for the model that `shown` chooses."""
    row = shown(study, spectra, MOVED if kind == MOVED else KEEP)
    if row is None:
        return None
    arrays, at, depth = spectra[row["folder"]], target(row)[1], len(row["orders_full"])
    plane = ("frequency, rad/step", "decay, 1/step\n(higher: forgets sooner)")
    scale = ("state, highest score first", f"score of {row.get('method')}\n(higher: rather kept)")
    plot, what, axes = {
        KEEP: (plot_eigenvalues, "Modes kept and removed", plane),
        MOVED: (plot_moved, "Modes before and after the reduction", plane),
        SCORES: (plot_scores, "Scores of the states", scale),
    }[kind]

    def draw() -> Figure:
        figure, grid = panels(depth, 2.4, 2.3, sharey=True)
        for layer, ax in enumerate(grid):
            plot(arrays, at, layer, ax)
        entitle(figure, f"{what}\n{title(study)}", *axes, _caption(row))
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
        heading = f"Hankel singular values\n{title(study)}"
        note = f"Of the unpruned network; dotted: order that {label(first)} keeps, by the share of states removed."
        entitle(figure, heading, "order, real states", "singular value σ,\nbound on the error 2 Σ σ", note)
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
    size, width = (18, 0.9) if len(x) <= 300 else (4, 0.5)
    ax.scatter(
        x[~filled], y[~filled], size, "none", marker="s", edgecolors=INK, linewidths=width, label=names[1], zorder=2
    )
    ax.scatter(x[filled], y[filled], size, OURS, marker="o", linewidths=0, label=names[0], zorder=3)


def _modes(
    ax: Axes, poles: NDArray[Any], filled: NDArray[Any], names: Sequence[str], window: tuple[float, float, float]
) -> None:
    """Draws modes on logarithmic axes, frequencies linear below `SLOW`; those that do not decay are counted instead."""
    decay, frequency = decay_and_frequency(poles)
    shown = np.isfinite(decay) & (decay > 0)
    _two_kinds(ax, (frequency[shown], decay[shown]), filled[shown], names)
    low, high, furthest = window
    ax.set_yscale("log")
    ax.set_xscale("symlog", linthresh=SLOW, linscale=0.6)
    ax.set(xlim=(-0.15 * SLOW, max(1.3 * furthest, 10 * SLOW)), ylim=(low, high))
    ticks = [0, *(tick for tick in (SLOW, 10 * SLOW, 100 * SLOW) if tick <= furthest)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    if not shown.all():
        note = f"{(~shown).sum()} that do not decay, not shown"
        ax.text(0.98, 0.03, note, transform=ax.transAxes, ha="right", va="bottom", color=MUTED, fontsize=7)


def _window(arrays: Arrays, kinds: tuple[str, ...]) -> tuple[float, float, float]:
    """Returns limits that hold what is drawn of every layer: lowest and highest decay, highest frequency."""
    every = [np.ravel(values) for name, values in arrays.items() if name.startswith(kinds)]
    decay, frequency = decay_and_frequency(np.concatenate(every))
    shown = decay[np.isfinite(decay) & (decay > 0)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.1, 1.0)
    return low / 1.6, high * 1.6, max(float(frequency.max()), 1e-3)


def _caption(row: Row) -> str:
    text = f"{label(row)}, share of states removed {row['ratio']:.3g}, seed {row.get('seed')}"
    lost, reached, metric = points_lost(row), score(row), metric_of(row)
    if lost is None or reached is None:
        return f"{text}."
    return f"{text}: test {metric.words} {metric.number(reached)}{metric.unit} ({lost:.1f} {metric.points} lost)."


def _numbers(arrays: Arrays, row: Row, kind: str) -> list[Record]:
    result: list[Record] = []
    at = target(row)[1]
    for layer in range(len(row["orders_full"])):
        if kind == MOVED:
            for when, name in (("before", POLES), ("after", f"{MOVED}_{at}")):
                for decay, frequency in zip(*decay_and_frequency(_flat(arrays, name, layer)), strict=True):
                    mode = {"decay": float(decay), "frequency": float(frequency)}
                    result.append({"layer": layer, "when": when, **mode})
            continue
        values, keep = _flat(arrays, SCORES if kind == SCORES else POLES, layer), _flat(arrays, f"{KEEP}_{at}", layer)
        names = ("score",) if kind == SCORES else ("decay", "frequency")
        parts = dict(zip(names, (values,) if kind == SCORES else decay_and_frequency(values), strict=True))
        for state in range(values.size):
            numbers = {key: float(part[state]) for key, part in parts.items()}
            result.append({"layer": layer, "state": state, **numbers, "kept": bool(keep[state])})
    return result
