"""Pathfinder (Linsley et al. 2018) as the Long Range Arena (Tay et al. 2021) uses it: are two discs on one contour?

The images are drawn by this re-implementation with the Arena's parameters; they are not the Arena's files. Two dashed
target contours start near each other and are grown in turn, then short distractors fill what is left. One disc marks
the tail of a target, the other the head of the same target (label 1) or of the other one (label 0).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np

from s5c.data.generator.parallel import in_order, worker_count
from s5c.data.generator.pathfinder_contours import draw_contours
from s5c.data.generator.pathfinder_strokes import LOOKS, Tables, tables
from s5c.errors import UserError

PIXELS_PER_CHUNK = 1 << 16
"""Of images that one call to a worker process draws."""


class Scenes(NamedTuple):
    """Images with what is in them.

    Attributes:
        images: (n, size, size) uint8, white on black.
        labels: (n,) uint8, 1 if both discs are on one contour.
        contours: (n, size, size) uint8, the contour that each pixel belongs to, discs left out: 1 and 2 are the
            targets, 3 and up the distractors, 0 is none.
        markers: (n, 2, 2) int16, row and column of the disc at a tail and of the one at a head.
    """

    images: np.ndarray
    labels: np.ndarray
    contours: np.ndarray
    markers: np.ndarray


def generate(
    count: int,
    *,
    seed: int,
    size: int,
    contour_length: int = 14,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws images; each depends on `seed`, its index, `size` and `contour_length` alone.

    On one core an image takes about 0.3 ms at size 32 and 16 ms at 128, most of it for contours that got stuck. That
    needs numba, which compiles for a quarter of a minute the first time; without it all takes a hundred times as long.

    Args:
        count: how many.
        seed: seeds everything.
        size: side of the window: 32, 64, 128 (Path-X) or 256.
        contour_length: dashes of a target: 14 for the Arena's hard level, the usual one; 9 and 6 for the easier ones.
        processes: how many to work with; None for one per core.
        progress: called with the number of images drawn so far.

    Returns:
        images: (count, size, size) uint8, white on black.
        labels: (count,) uint8, 1 if both discs are on one contour.

    Raises:
        UserError: an unknown size, or numbers out of range.
    """
    _check(count, seed, size, contour_length)
    images, labels = np.empty((count, size, size), np.uint8), np.empty(count, np.uint8)
    step = max(1, PIXELS_PER_CHUNK // size**2)
    chunks = [range(i, min(i + step, count)) for i in range(0, count, step)]
    draw = partial(_images_and_labels, seed, size, contour_length)
    done = 0
    with closing(in_order(draw, chunks, worker_count(processes, len(chunks)))) as results:
        for part, part_labels in results:
            images[done : done + len(part)], labels[done : done + len(part)] = part, part_labels
            done += len(part)
            if progress:
                progress(done)
    return images, labels


def scenes(indices: range, *, seed: int, size: int, contour_length: int = 14) -> Scenes:
    """Draws the images `indices` of `generate`, together with what is in them."""
    _check(len(indices), seed, size, contour_length)
    drawn = [_scene(seed, i, size, contour_length) for i in indices]
    return Scenes(*(np.stack(part) for part in zip(*drawn, strict=True)))


def _images_and_labels(seed: int, size: int, contour_length: int, indices: range) -> tuple[np.ndarray, np.ndarray]:
    drawn = scenes(indices, seed=seed, size=size, contour_length=contour_length)
    return drawn.images, drawn.labels


def _scene(
    seed: int, index: int, size: int, contour_length: int
) -> tuple[np.ndarray, np.uint8, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, index])
    look = LOOKS[size]
    t = tables(size, look.margins[int(rng.random() * len(look.margins))])
    distractor_length = contour_length // 3
    distractors = look.distractor_dashes // distractor_length
    image, contours, ends = draw_contours(rng, t, contour_length, distractors, distractor_length)
    # The label is drawn last: it then says nothing about how hard the contours were to place.
    tail, same = int(2 * rng.random()), int(2 * rng.random())
    markers = np.stack([ends[tail, 0], ends[tail if same else 1 - tail, 1]]).astype(np.int16)
    for row, column in markers:
        _stamp(image, t, int(row), int(column))
    return image, np.uint8(same), contours, markers


def _stamp(image: np.ndarray, t: Tables, row: int, column: int) -> None:
    """Adds a disc, cut at the edge of the image."""
    r = len(t.disc) // 2
    top, left = max(row - r, 0), max(column - r, 0)
    place = image[top : row + r + 1, left : column + r + 1]
    disc = t.disc[top - row + r :, left - column + r :]
    np.maximum(place, disc[: place.shape[0], : place.shape[1]], out=place)


def _check(count: int, seed: int, size: int, contour_length: int) -> None:
    if size not in LOOKS:
        raise UserError(f"size={size}: Pathfinder is drawn at {', '.join(map(str, LOOKS))} pixels.")
    if count < 1 or seed < 0:
        raise UserError(f"count={count}, seed={seed}: ask for 1 or more Pathfinder images, with a seed of 0 or more.")
    if not 6 <= contour_length <= 20:
        raise UserError(
            f"contour_length={contour_length}: Pathfinder contours have 6 to 20 dashes (6, 9 and 14 are the levels of "
            "the Long Range Arena); longer ones hardly ever fit."
        )
