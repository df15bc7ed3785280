"""Draws the picture of generated Pathfinder images: 16 of each class at size 32 (Pathfinder) and 128 (Path-X).

python scripts/picture_pathfinder.py [--seed 0] [--output results/published/pathfinder/examples.png]
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from s5c.data.generator.pathfinder import generate

PER_CLASS = 16
COLUMNS = 8
PIXELS = 128
TITLE = 26
DOTS_PER_INCH = 100
GREYS = 16


def mosaic(images: np.ndarray) -> np.ndarray:
    """Lays images out in rows of `COLUMNS`, enlarged to `PIXELS` by repeating pixels, with grey lines between."""
    scale = PIXELS // images.shape[1]
    framed = np.pad(images.repeat(scale, axis=1).repeat(scale, axis=2), ((0, 0), (1, 1), (1, 1)), constant_values=128)
    rows = framed.reshape(-1, COLUMNS, *framed.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/published/pathfinder/examples.png"))
    arguments = parser.parse_args()
    panels = []
    for size in (32, 128):
        images, labels = generate(4 * PER_CLASS, seed=arguments.seed, size=size)
        for label, meaning in ((1, "one contour joins the discs"), (0, "no contour joins the discs")):
            title = f"{size} × {size}, label {label}: {meaning}"
            panels.append((title, mosaic(images[labels == label][:PER_CLASS])))
    height, width = panels[0][1].shape
    total = len(panels) * (height + TITLE)
    figure = Figure(figsize=(width / DOTS_PER_INCH, total / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    for i, (title, panel) in enumerate(panels):
        top = total - i * (height + TITLE)
        figure.text(0.5, (top - TITLE / 2) / total, title, ha="center", va="center")
        figure.figimage(panel, 0, top - TITLE - height, cmap="gray", vmin=0, vmax=255)  # pixel by pixel
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawing).convert("L").quantize(GREYS).save(arguments.output, optimize=True)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
