"""The look of Pathfinder: tables of everything that depends on the size of the window alone.

All directions are whole degrees, so that a dash has 360 shapes and a contour is grown by looking things up.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

ANTIALIAS = 2
"""Shapes are drawn at this multiple of the resolution and then reduced."""

FULL = 255
"""Full brightness, full occupancy."""


class Look(NamedTuple):
    """What the Long Range Arena chose for one size; lengths in pixels.

    Attributes:
        margins: free space around a dash and half the gap inside a contour; one is drawn per image.
        padding: border that no dash enters.
        dash_length, dash_thickness: of the dashes.
        marker_radius: radius of the two discs.
        seed_distance: from the first dash of one target to that of the other.
        continuity: how much a turn is held against a direction; larger is straighter.
        distractor_dashes: all distractors together have at most this many.
        contrast: brightness of a dash, of which thin lines keep only a part.
    """

    margins: tuple[int, ...]
    padding: int
    dash_length: int
    dash_thickness: float
    marker_radius: float
    seed_distance: int
    continuity: float
    distractor_dashes: int
    contrast: float


LOOKS = {
    32: Look((1,), 1, 2, 0.5, 1.5, 7, 1.0, 20, 2.0),
    64: Look((1,), 1, 5, 1.0, 2.5, 12, 1.8, 22, 0.8),
    128: Look((2, 3), 1, 5, 1.5, 3.0, 20, 1.8, 35, 0.9),
    256: Look((3,), 22, 5, 2.0, 5.0, 27, 1.8, 30, 1.0),
}


class Tables(NamedTuple):
    """Look-up tables of one size and margin; positions are (row, column) in arrays with a border of `reach`.

    Attributes:
        reach: dashes extend no further than this from their anchor; width of the border.
        seed_distance: from the first dash of one target to that of the other.
        ink: (360, k, k) a dash from the middle of the patch in each direction, uint8.
        mask: (360, k, k) the same dash with its margin, which it keeps occupied, int16.
        start: (360, 2) from the anchor of a contour's first dash to the pivot of its second.
        advance: (360, 2) from a pivot to the next.
        circle: (360, 2) from the anchor of one target to that of the other.
        ring: (r, 2) from a pivot to the possible far ends of a dash.
        heading: (r,) the direction of each.
        straightness: (360, r) weight of each after a dash in each direction.
        neighbours: (m, 2) pixels within the margin of a pixel.
        blank: occupancy of an empty window: full in the border and the padding, 0 inside, int16.
        disc: (q, q) a marker, uint8.
    """

    reach: int
    seed_distance: int
    ink: np.ndarray
    mask: np.ndarray
    start: np.ndarray
    advance: np.ndarray
    circle: np.ndarray
    ring: np.ndarray
    heading: np.ndarray
    straightness: np.ndarray
    neighbours: np.ndarray
    blank: np.ndarray
    disc: np.ndarray


@cache
def tables(size: int, margin: int) -> Tables:
    """Returns the tables of one size; takes 0.1 s the first time."""
    look = LOOKS[size]
    length, thickness = look.dash_length, look.dash_thickness
    reach = length + math.ceil(thickness) + margin
    angles = np.arange(360)
    unit = np.stack([np.sin(np.deg2rad(angles)), np.cos(np.deg2rad(angles))], axis=1)
    ring = _offsets(length + margin + 1)
    distance = np.hypot(ring[:, 0], ring[:, 1])
    ring = ring[np.abs(distance - (length + margin)) < 0.5]
    neighbours = _offsets(margin)
    heading = np.rint(np.rad2deg(np.arctan2(ring[:, 0], ring[:, 1]))).astype(np.int64) % 360
    turn = look.continuity * (180 - np.abs(180 - np.abs(heading - angles[:, None])))
    blank = np.full((size + 2 * reach,) * 2, FULL, np.int16)
    inside = slice(reach + look.padding, reach + size - look.padding)
    blank[inside, inside] = 0
    return Tables(
        reach=reach,
        seed_distance=look.seed_distance,
        ink=_levels(look.contrast * np.stack([_line(d, length, thickness, reach) for d in unit])).astype(np.uint8),
        mask=_levels(np.stack([_line(d, length, thickness + 2 * margin, reach) for d in unit])),
        start=_rounded_up((length + margin) * unit),
        advance=_rounded_up((length + 2 * margin) * unit),
        circle=np.rint(look.seed_distance * unit).astype(np.int64),
        ring=ring,
        heading=heading,
        straightness=np.where(turn < 90, np.cos(np.deg2rad(turn)) ** 2, 0),
        neighbours=neighbours[np.hypot(neighbours[:, 0], neighbours[:, 1]) <= margin],
        blank=blank,
        disc=_levels(_line(unit[0], 0, 2 * look.marker_radius, math.ceil(look.marker_radius) + 1)).astype(np.uint8),
    )


def _line(direction: np.ndarray, length: float, thickness: float, reach: int) -> np.ndarray:
    """Draws a line with round ends from the middle of a patch of 2 reach + 1 pixels; 1 is full brightness."""
    pixels = 2 * reach + 1
    at = (np.arange(pixels * ANTIALIAS) + 0.5) / ANTIALIAS - pixels / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    along = np.clip(y * direction[0] + x * direction[1], 0, length)
    distance = np.hypot(y - along * direction[0], x - along * direction[1])
    fine = np.clip((thickness / 2 - distance) * ANTIALIAS + 0.5, 0, 1)
    reduce = _lanczos(pixels)
    return np.clip(reduce @ fine @ reduce.T, 0, 1)


def _levels(brightness: np.ndarray) -> np.ndarray:
    return np.rint(FULL * np.minimum(brightness, 1)).astype(np.int16)


def _lanczos(pixels: int) -> np.ndarray:
    """Returns the matrix that reduces a line of pixels by `ANTIALIAS`, with three lobes to a side."""
    centres = (np.arange(pixels * ANTIALIAS) + 0.5) / ANTIALIAS - 0.5
    x = centres - np.arange(pixels)[:, None]
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _offsets(radius: int) -> np.ndarray:
    span = np.arange(-radius, radius + 1)
    return np.stack(np.meshgrid(span, span, indexing="ij"), axis=-1).reshape(-1, 2)


def _rounded_up(steps: np.ndarray) -> np.ndarray:
    return np.ceil(steps.round(9)).astype(np.int64)  # a sine of 1e-17 is none
