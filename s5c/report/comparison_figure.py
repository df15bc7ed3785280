"""The figure of networks side by side: how many states each layer has, and where the poles lie."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from s5c.report.looks import MUTED, OTHERS, OURS, PALETTE, STYLE, Look

LOOKS = (Look(MUTED), *(look for look in PALETTE.values() if look.color in (OURS, *OTHERS)))
"""Of the first network, which the others are compared with, and of these."""
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo")
"""Of bars, for print in grey."""


class Drawing(Figure):
    """A figure that a notebook shows whether or not pyplot has been imported."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=100)
        return picture.getvalue()


def _label(row: dict[str, Any]) -> str:
    if (accuracy := row.get("accuracy")) is not None:
        return f"{row['name']}: {100 * accuracy:.2f} %"
    return row["name"] if row.get("rmse") is None else f"{row['name']}: RMSE {row['rmse']:.4g}"


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
            label = _label(row)
            look = LOOKS[i % len(LOOKS)]
            places = np.arange(count) + (i - (len(rows) - 1) / 2) * width
            axes[0].bar(
                places,
                row["orders"],
                width,
                color=look.color,
                label=label,
                hatch=HATCHES[i % len(HATCHES)],
                edgecolor="white",
            )
            for ax, layer in zip(axes[1:], shown, strict=True):
                ax.scatter(
                    angles[i][layer], decays[i][layer],
                    s=16 if i else 26, marker=look.marker, facecolors="none" if i == 0 else None,
                    edgecolors=MUTED if i == 0 else None, color=None if i == 0 else look.color,
                    linewidths=0.9 if i == 0 else 0, alpha=0.9,
                )  # fmt: skip
        axes[0].set(xlabel="layer", ylabel="stored states", title="States of the layers")
        axes[0].set_xticks(range(count))
        for ax, layer in zip(axes[1:], shown, strict=True):
            ax.set(yscale="log", xlabel="frequency, rad/step", title=f"Poles of layer {layer}")
        axes[1].set_ylabel("decay, 1/step\n(higher: forgets sooner)")
        figure.legend(loc="outside lower center", ncols=min(len(rows), 2), frameon=False)
    return figure
