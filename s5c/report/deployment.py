"""What networks answer, by the bytes they take up and by what a step of theirs costs on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from s5c.report.arms import label
from s5c.report.average import means
from s5c.report.cells import NOTHING, flagged, integer, number, plain, ratio_cell, reached, share, size, table
from s5c.report.collect import Study
from s5c.report.csvfile import Record
from s5c.report.looks import INK, MUTED, Drawing, entitle
from s5c.report.row import FULL, Averaged, value
from s5c.report.scores import column, metric_of_all, score
from s5c.report.titles import title

BITS = {32: ("#111111", "s"), 8: ("#0072B2", "o"), 6: ("#D55E00", "D"), 4: ("#009E73", "^")}
"""Colour and marker of the bits of a weight."""
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1, 1, 1)))
"""Of arms of as many bits, one after the other."""
MOST_ARMS = 12
"""That a figure holds: those that reach the best answers."""


def section(study: Study) -> str | None:
    """Returns the table of what a step costs, or None where nothing was measured."""
    rows = [row for row in means(study) if row.get("step_us") is not None]
    if not rows:
        return None
    full = next((row for row in rows if row["reduction"] == FULL), None)
    columns = {
        "Arm": lambda row: flagged(label(row), row),
        "Ratio": ratio_cell,
        "Bits": lambda row: f"{bits(row)}",
        "Weights": lambda row: size(row.get("array_bytes")),
        "Flash": lambda row: size(row.get("step_flash_bytes")),
        "State": lambda row: size(row.get("step_state_bytes")),
        "RAM": lambda row: size(row.get("step_ram_bytes")),
        "MACs a step": lambda row: integer(row.get("step_macs")),
        "C, µs a step": _times,
        "Speed-up": lambda row: _faster(row, full),
        "JAX, µs a step": lambda row: number(row.get("step_jax_us"), "{:.0f}"),
        f"Test {metric_of_all(study.rows).words}": reached,
        "Agreement": lambda row: share(row.get("agreement")),
    }
    body = [[cell(row) for cell in columns.values()] for row in rows]
    devices = sorted({f"{row.get('step_device')}, {row.get('step_compiler')}" for row in rows})
    notes = (
        f"One sample a step, one core: {plain('; '.join(devices))}; processor time, median and quartiles of rounds in "
        "which all networks took turns. Flash: code and constants of the C file, -Os. RAM: state and stack. Weights: "
        "numbers alone, of so many bits in matrices, poles and biases float32."
    )
    return f"{table(list(columns), body)}\n\n{notes}"


def bits(row: Averaged) -> int:
    """Returns the bits of a weight; rows that do not say have float32."""
    return int(row.get("bits") or 32)


def _times(row: Averaged) -> str:
    text, ends = number(row.get("step_us"), "{:.1f}"), row.get("step_quartiles_us")
    return text if not ends or None in ends else f"{text} ({ends[0]:.1f} to {ends[1]:.1f})"


def _faster(row: Averaged, full: Averaged | None) -> str:
    mine, other = row.get("step_us"), None if full is None else full.get("step_us")
    return NOTHING if not mine or not other else f"{other / mine:.2f}×"


def bytes_figure(study: Study) -> Drawing | None:
    """Returns the figure of answers against bytes, or None unless there are weights of few bits."""
    rows = [row for row in means(study) if score(row) is not None and row.get("array_bytes")]
    if all(bits(row) == 32 for row in rows):
        return None
    metric, name = metric_of_all(study.rows), column(rows[0])
    data: list[Record] = [
        {
            "arm": label(row),
            "bits": bits(row),
            "ratio": row.get("ratio_achieved"),
            "bytes": row["array_bytes"],
            "step_us": row.get("step_us"),
            "y": metric.factor * value(row, name),
        }
        for row in sorted(rows, key=lambda row: (-bits(row), row["array_bytes"]))
    ]
    best = sorted({one["arm"] for one in data}, key=lambda arm: -max(one["y"] for one in data if one["arm"] == arm))
    data = [one for one in data if one["arm"] in best[:MOST_ARMS]]
    timed = [one for one in data if one["step_us"] is not None]

    def draw() -> Figure:
        axes = [("bytes", 1e-3, "weights, kB", data), *([("step_us", 1, "step in C, µs", timed)] if timed else [])]
        figure = Figure(figsize=(1.6 + 3.6 * len(axes), 3.3 + 0.18 * (len(best) // 4)))
        grid = list(figure.subplots(1, len(axes), squeeze=False, sharey=True)[0])
        for ax, (key, factor, words, shown) in zip(grid, axes, strict=True):
            _draw(ax, shown, key, factor, words)
        grid[0].set_ylabel(f"{metric.heading}\n({metric.direction})")
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False, fontsize=8)
        entitle(figure, title(study), note="A line is an arm; states are removed from right to left.")
        return figure

    return draw, data


def _draw(ax: Axes, data: Sequence[Record], key: str, factor: float, words: str) -> None:
    drawn: Counter[int] = Counter()
    full = max(data, key=lambda one: one["bytes"])
    for name in sorted({one["arm"] for one in data if one is not full}, key=lambda name: (len(name), name)):
        for count, (color, marker) in BITS.items():
            shown: list[Any] = sorted(
                (factor * one[key], one["y"]) for one in data if (one["arm"], one["bits"]) == (name, count)
            )
            if shown:
                x, y = zip(*shown, strict=True)
                line = LINES[drawn[count] % len(LINES)]
                drawn[count] += 1
                ax.plot(x, y, color=color, marker=marker, markersize=4.5, linewidth=1.2, linestyle=line, label=name)
    ax.plot([factor * full[key]], [full["y"]], color=INK, marker="*", markersize=9, linestyle="", label="full model")
    ax.axhline(full["y"], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"{words} (lower is better)")
