"""The figure of networks side by side: how many states each layer has, and where the poles lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from s5c.report.looks import MUTED, OURS, STYLE

COLOURS = (MUTED, OURS, "#0072B2", "#007A5A", "#8A3FFC", "#B8860B", "#CC79A7", "#111111")
MARKERS = "o^svDPX*"


class Drawing(Figure):
    """A figure that a notebook shows whether or not pyplot has been imported."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def draw(
    rows: Sequence[dict[str, Any]],
    decays: Sequence[Sequence[np.ndarray]],
    angles: Sequence[Sequence[np.ndarray]],
    *,
    layers: int,
) -> Figure:
    """Returns the figure.

    Args:
        rows: one per network (`s5c.comparison.Comparison`).
        decays: per network and layer, of every mode, 1/step.
        angles: the same of the frequencies, rad/step.
        layers: number of layers whose poles are drawn, evenly chosen from the first to the last.
    """
    count = len(rows[0]["orders"])
    shown = np.unique(np.linspace(0, count - 1, min(layers, count)).round().astype(int))
    with rc_context(STYLE):
        figure = Drawing(figsize=(2.6 * (len(shown) + 1), 3.2))
        axes = figure.subplots(1, len(shown) + 1)
        width = 0.8 / len(rows)
        for i, row in enumerate(rows):
            label = row["name"] if row["accuracy"] is None else f"{row['name']}: {100 * row['accuracy']:.2f} %"
            places = np.arange(count) + (i - (len(rows) - 1) / 2) * width
            axes[0].bar(places, row["orders"], width, color=COLOURS[i % len(COLOURS)], label=label)
            for ax, layer in zip(axes[1:], shown, strict=True):
                ax.scatter(
                    angles[i][layer], decays[i][layer],
                    s=16 if i else 26, marker=MARKERS[i % len(MARKERS)], facecolors="none" if i == 0 else None,
                    edgecolors=COLOURS[0] if i == 0 else None, color=None if i == 0 else COLOURS[i % len(COLOURS)],
                    linewidths=0.9 if i == 0 else 0, alpha=0.9,
                )  # fmt: skip
        axes[0].set(xlabel="Layer", ylabel="Stored states", title="States of the layers")
        axes[0].set_xticks(range(count))
        for ax, layer in zip(axes[1:], shown, strict=True):
            ax.set(yscale="log", xlabel="Frequency, rad/step", title=f"Poles of layer {layer}")
        axes[1].set_ylabel("Decay, 1/step")
        figure.legend(loc="outside lower center", ncols=min(len(rows), 2), frameon=False)
    return figure
