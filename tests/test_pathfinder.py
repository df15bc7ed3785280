"""Pathfinder: what the label means can be seen in the images, and the images depend on seed and index alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from s5c.data.generator import pathfinder
from s5c.data.generator.pathfinder import Scenes, generate, scenes
from s5c.data.generator.pathfinder_strokes import LOOKS, tables
from s5c.errors import UserError

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs numba (extra `generators`): minutes without")
FEW = 32
CHECKSUM = (
    "import zlib; from s5c.data.generator.pathfinder import generate; print(zlib.crc32(generate(3, {})[0].tobytes()))"
)


@cache
def drawn(count: int = FEW, size: int = 32) -> Scenes:
    return scenes(range(count), seed=11, size=size)


def pieces(contour: np.ndarray) -> int:
    """Counts what a contour falls into once its gaps are closed."""
    half_a_gap = max(LOOKS[len(contour)].margins)
    square = np.ones((3, 3))
    return int(ndimage.label(ndimage.binary_dilation(contour, square, iterations=half_a_gap), square)[1])


def check_labels(s: Scenes) -> None:
    for contours, markers, label in zip(s.contours, s.markers, s.labels, strict=True):
        at_discs = [contours[row, column] for row, column in markers]
        assert set(at_discs) <= {1, 2}, "a disc marks a target"
        assert (at_discs[0] == at_discs[1]) == label
        assert pieces(contours == 1) == pieces(contours == 2) == 1


def test_label_says_whether_a_contour_joins_the_discs() -> None:
    check_labels(drawn())
    assert 8 <= drawn().labels.sum() <= FEW - 8


@pytest.mark.slow
@needs_numba
@pytest.mark.parametrize("size", [32, 128])
def test_labels_of_a_thousand_images(size: int) -> None:
    s = drawn(1_000, size)
    check_labels(s)
    assert abs(s.labels.mean() - 0.5) < 0.06
    # A label that the ink or the discs' distance gave away would be no test of following a contour.
    for quantity in (s.images.mean(axis=(1, 2)), s.contours.max(axis=(1, 2))):
        assert abs(np.corrcoef(quantity, s.labels)[0, 1]) < 0.12


def test_contours_are_what_the_recipe_says() -> None:
    s = drawn()
    distractors = s.contours.max(axis=(1, 2)) - 2
    assert distractors.max() == 5 and np.median(distractors) >= 3
    ink = np.stack([(s.contours == number).sum(axis=(1, 2)) for number in range(1, 8)])
    assert ink[:2].min() > ink[2:].max() > 0  # 14 dashes against 4
    assert (s.images[s.contours > 0] > 0).all()


@pytest.mark.parametrize("size", LOOKS)
def test_ends_and_dashes_keep_to_the_window(size: int) -> None:
    s = drawn(FEW if size == 32 else 1, size)
    padding = LOOKS[size].padding
    assert (s.markers >= padding).all() and (s.markers < size - padding).all()
    border = np.ones((size, size), bool)
    border[padding:-padding, padding:-padding] = False
    assert (s.contours[:, border] == 0).mean() > 0.98  # a soft edge may reach in
    assert s.images.shape == (len(s.labels), size, size) and s.images.dtype == s.labels.dtype == np.uint8


def test_discs_are_the_brightest_thing() -> None:
    s = drawn()
    for image, markers in zip(s.images, s.markers, strict=True):
        for row, column in markers:
            assert image[row, column] == 255
            around = image[row - 1 : row + 2, column - 1 : column + 2]
            assert around.min() > 100 and around.mean() > 190


def test_brightness() -> None:
    images = drawn().images
    assert abs(images.mean() - 35.8) < 2
    assert abs((images > 64).mean() - 0.20) < 0.015
    assert (images == 0).mean() > 0.4


def test_dash_points_where_it_should() -> None:
    t = tables(128, 3)
    for angle in (0, 45, 90, 200, 359):
        rows, columns = np.indices(t.ink[angle].shape) - t.reach
        weights = t.ink[angle] / t.ink[angle].sum()
        middle = np.array([(rows * weights).sum(), (columns * weights).sum()])
        np.testing.assert_allclose(
            middle, 2.5 * np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))]), atol=0.1
        )
        assert (t.mask[angle] >= t.ink[angle]).all()


def test_images_depend_on_seed_and_index_alone() -> None:
    count = pathfinder.PIXELS_PER_CHUNK // 32**2 + 6
    reports: list[int] = []
    images, labels = generate(count, seed=11, size=32, processes=2, progress=reports.append)
    np.testing.assert_array_equal(images[:FEW], drawn().images)
    np.testing.assert_array_equal(labels[:FEW], drawn().labels)
    last = scenes(range(count - 2, count), seed=11, size=32)
    np.testing.assert_array_equal(images[-2:], last.images)
    assert reports == [count - 6, count]
    other = scenes(range(2), seed=12, size=32)
    assert (other.images != images[:2]).any(axis=(1, 2)).all()


@needs_numba
def test_compiled_and_plain_code_draw_the_same() -> None:
    options = "seed=2, size=32, processes=1"
    plain = subprocess.run(
        [sys.executable, "-c", CHECKSUM.format(options)],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert zlib.crc32(generate(3, seed=2, size=32, processes=1)[0].tobytes()) == int(plain.stdout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 48}, "size=48.*32, 64, 128, 256"),
        ({"count": 0}, "count=0"),
        ({"seed": -1}, "seed=-1"),
        ({"contour_length": 3}, "contour_length=3"),
        ({"processes": 0}, "processes=0"),
    ],
)
def test_senseless_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(**{"count": 1, "seed": 0, "size": 32, **options})
