"""Grows the contours of Pathfinder, dash by dash; compiled by numba where it is installed.

Without numba the same code runs as plain Python, a hundred times slower, and gives the same images: all randomness
comes from `random()` of the generator that is passed in, brightness and occupancy are integers, and sums have a fixed
order. Small functions take arrays one by one: handing all tables on costs numba more than the work itself.

A contour is a row per dash in an integer array, with the columns
(row and column of its anchor, direction in which it is drawn from there, heading, row and column of the next pivot).
The first dash is anchored at its near end, all others at their far end, which is also the end of the contour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, no_type_check

import numpy as np

from s5c.data.generator.pathfinder_strokes import FULL

F = TypeVar("F", bound=Callable[..., Any])

ROW, COLUMN, DRAWN, HEADING, PIVOT_ROW, PIVOT_COLUMN = range(6)

TOO_MUCH = int(1.8 * FULL)
"""Two masks that add up to this somewhere collide; less is a touch of their soft edges."""

VISIBLE = FULL // 4
"""Brightness from which a pixel counts as part of a contour; every dash has some above it, its halo none."""

CHOICES = 3
"""Far ends that are tried for a dash before its contour is given up."""

SECOND_SEEDS = 10
"""Places tried for the second target before the first is given up."""

DISTRACTOR_TRIES = 5
"""Times that a distractor is begun before it is left out."""

PLACES = 200
"""Places tried for the first dash of a distractor; a crowded window may have none."""


def compiled(function: F) -> F:
    """Compiles with numba if it is there. Put `no_type_check` below: run-time type checks would hide the function."""
    try:
        from numba import njit
    except ImportError:
        return function
    return njit(cache=True)(function)


@compiled
@no_type_check
def draw_contours(rng, t, contour_length, distractors, distractor_length):
    """Draws one image without markers.

    Args:
        rng: numpy's Generator.
        t: Tables.
        contour_length, distractor_length: dashes per contour.
        distractors: how many to try to place.

    Returns:
        image: (size, size) uint8.
        contours: (size, size) uint8, which contour each pixel belongs to: 1, 2 are the targets, 0 is none.
        ends: (2, 2, 2) by target, for tail and head, its position.
    """
    occupied = np.empty((2, len(t.blank), len(t.blank)), np.int16)
    targets = np.zeros((2, contour_length, 6), np.int64)
    while not grow_targets(rng, t, occupied, targets):
        pass
    image = np.zeros(t.blank.shape, np.uint8)
    contours = np.zeros(t.blank.shape, np.uint8)
    taken = occupied[0]
    ends = np.empty((2, 2, 2), np.int64)
    for target in range(2):
        place(taken, image, contours, t.mask, t.ink, targets[target], target + 1)
        ends[target, 0] = targets[target, 0, :2] - t.reach
        ends[target, 1] = targets[target, -1, :2] - t.reach
    path = np.zeros((distractor_length, 6), np.int64)
    for distractor in range(distractors):
        for _ in range(DISTRACTOR_TRIES):
            if grow_distractor(rng, t, taken, path):
                place(taken, image, contours, t.mask, t.ink, path, distractor + 3)
                break
    inside = slice(t.reach, -t.reach)
    return image[inside, inside], contours[inside, inside], ends


@compiled
@no_type_check
def grow_targets(rng, t, occupied, paths):
    """Grows two contours in turn; whether that succeeded.

    occupied[i] is what contour i must keep clear of: all dashes but its own last, which its next one adjoins.
    """
    occupied[0] = t.blank
    occupied[1] = t.blank
    first, second = paths[0, 0], paths[1, 0]
    low, high = t.reach + 2 * t.seed_distance, len(t.blank) - t.reach - 2 * t.seed_distance
    if not begin(t, occupied[0], uniform(rng, low, high), uniform(rng, low, high), uniform(rng, 0, 360), first):
        return False
    merge(occupied[1], t.mask, first)
    for _ in range(SECOND_SEEDS):
        row, column = first[:2] + t.circle[uniform(rng, 0, 360)]
        if begin(t, occupied[1], row, column, uniform(rng, 0, 360), second):
            break
    else:
        return False
    merge(occupied[0], t.mask, second)
    for i in range(1, paths.shape[1]):
        for j in range(2):
            if not extend(rng, t, occupied[j], paths[j], i):
                return False
            merge(occupied[j], t.mask, paths[j, i - 1])
            merge(occupied[1 - j], t.mask, paths[j, i])
    return True


@compiled
@no_type_check
def grow_distractor(rng, t, taken, path):
    """Grows one contour at any free place; whether that succeeded. Leaves `taken` as it is."""
    angle = uniform(rng, 0, 360)
    for _ in range(PLACES):
        row, column = uniform(rng, t.reach, len(taken) - t.reach), uniform(rng, t.reach, len(taken) - t.reach)
        if taken[row, column] + FULL < TOO_MUCH and begin(t, taken, row, column, angle, path[0]):
            break
    else:
        return False
    occupied = taken.copy()
    for i in range(1, len(path)):
        if not extend(rng, t, occupied, path, i):
            return False
        merge(occupied, t.mask, path[i - 1])
    return True


@compiled
@no_type_check
def begin(t, occupied, row, column, angle, dash):
    """Puts the first dash of a contour at a place, if it fits there."""
    if not (in_window(occupied, t.reach, row, column) and fits(occupied, t.mask, row, column, angle)):
        return False
    dash[ROW], dash[COLUMN], dash[DRAWN], dash[HEADING] = row, column, angle, angle
    dash[PIVOT_ROW], dash[PIVOT_COLUMN] = row + t.start[angle, 0], column + t.start[angle, 1]
    return in_window(occupied, t.reach, dash[PIVOT_ROW], dash[PIVOT_COLUMN])


@compiled
@no_type_check
def extend(rng, t, occupied, path, i):
    """Adds dash i to a contour: its far end is drawn by straightness and free space, among those where it fits."""
    ring, heading, straightness = t.ring, t.heading, t.straightness[path[i - 1, HEADING]]
    last, dash = path[i - 1], path[i]
    weights = np.zeros(len(ring))
    total = 0.0
    for k in range(len(ring)):
        if straightness[k] == 0:
            continue
        row, column = last[PIVOT_ROW] + ring[k, 0], last[PIVOT_COLUMN] + ring[k, 1]
        if in_window(occupied, t.reach, row, column):
            weights[k] = straightness[k] * (1 - crowding(occupied, t.neighbours, row, column) / FULL)
            total += weights[k]
    for _ in range(CHOICES):
        k = pick(rng, weights, total)
        if k < 0:
            return False
        dash[ROW], dash[COLUMN] = last[PIVOT_ROW] + ring[k, 0], last[PIVOT_COLUMN] + ring[k, 1]
        dash[HEADING], dash[DRAWN] = heading[k], (heading[k] + 180) % 360
        if fits(occupied, t.mask, dash[ROW], dash[COLUMN], dash[DRAWN]):
            dash[PIVOT_ROW] = last[PIVOT_ROW] + t.advance[heading[k], 0]
            dash[PIVOT_COLUMN] = last[PIVOT_COLUMN] + t.advance[heading[k], 1]
            return in_window(occupied, t.reach, dash[PIVOT_ROW], dash[PIVOT_COLUMN])
        total -= weights[k]
        weights[k] = 0
    return False


@compiled
@no_type_check
def pick(rng, weights, total):
    """Draws an index in proportion to its weight; -1 if none has any."""
    left = rng.random() * total
    last = -1
    for k in range(len(weights)):
        if weights[k] > 0:
            last = k
            left -= weights[k]
            if left < 0:
                return k
    return last  # rounding errors used up the sum


@compiled
@no_type_check
def crowding(occupied, neighbours, row, column):
    """The highest occupancy within the margin of a pixel."""
    highest = 0
    for k in range(len(neighbours)):
        highest = max(highest, int(occupied[row + neighbours[k, 0], column + neighbours[k, 1]]))
    return highest


@compiled
@no_type_check
def fits(occupied, mask, row, column, angle):
    """Whether a dash collides with nothing."""
    k = mask.shape[1]
    top, left = row - k // 2, column - k // 2
    for y in range(k):
        for x in range(k):
            if occupied[top + y, left + x] + mask[angle, y, x] >= TOO_MUCH:
                return False
    return True


@compiled
@no_type_check
def place(occupied, image, contours, mask, ink, path, number):
    """Draws a contour: what it occupies, its brightness and, where it is visible and the brightest, its number."""
    k = ink.shape[1]
    for i in range(len(path)):
        merge(occupied, mask, path[i])
        angle, top, left = path[i, DRAWN], path[i, ROW] - k // 2, path[i, COLUMN] - k // 2
        for y in range(k):
            for x in range(k):
                if ink[angle, y, x] > image[top + y, left + x]:
                    image[top + y, left + x] = ink[angle, y, x]
                    if ink[angle, y, x] >= VISIBLE:
                        contours[top + y, left + x] = number


@compiled
@no_type_check
def merge(occupied, mask, dash):
    """Marks the place that a dash takes up."""
    k = mask.shape[1]
    angle, top, left = dash[DRAWN], dash[ROW] - k // 2, dash[COLUMN] - k // 2
    for y in range(k):
        for x in range(k):
            if mask[angle, y, x] > occupied[top + y, left + x]:
                occupied[top + y, left + x] = mask[angle, y, x]


@compiled
@no_type_check
def in_window(occupied, reach, row, column):
    """Whether a position, counted with the border, lies in the image."""
    return reach <= row < len(occupied) - reach and reach <= column < len(occupied) - reach


@compiled
@no_type_check
def uniform(rng, low, high):
    """Draws a whole number, low <= number < high."""
    return low + int(rng.random() * (high - low))
