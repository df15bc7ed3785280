"""Paired differences: two models answer the same test examples, and only those that they answer differently count.

With b examples lost and c gained of n, the difference in accuracy is (c - b) / n, and its standard error over draws of
the test set sqrt((b + c) / n - ((c - b) / n)^2) / sqrt(n). Of the errors of two accuracies taken apart, it is the part
that does not cancel. Of targets the jackknife over examples gives it (`s5c.metric.changed`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s5c.metric import ACCURACY, changed
from s5c.report.arms import asked, before, differences, target
from s5c.report.arrayfile import read_arrays
from s5c.report.row import FULL, Row
from s5c.report.scores import column, metric_of, score

BARE = "last"


def add_paired(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with paired errors where the answers to single examples are stored.

    `points_lost_se` is the standard error, in points, of the accuracy lost against the unpruned model, of one model;
    `above_last` and `above_last_se` compare with plain LAST at the same target, on the same trained model; of several
    such, the preset having been changed, with the newest.
    """
    files: dict[Path, dict[str, NDArray[Any]]] = {}
    bare = {
        _pairing_key(row): found
        for row in sorted(rows, key=lambda row: str(row.get("timestamp") or ""))
        if row["reduction"] == BARE and not differences(row) and (found := _answers(row, files)) is not None
    }
    return [{**row, **_paired(row, files, bare.get(_pairing_key(row)))} for row in rows]


def _difference(row: Row, before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float]:
    """Returns the change from one set of answers to the other and its standard error, by the row's metric."""
    return difference(before, after) if metric_of(row) is ACCURACY else changed(metric_of(row), before, after)


def difference(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float]:
    """Returns the change in accuracy from one set of answers to the other and its standard error, in points."""
    n = len(before)
    gained, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    change = (gained - lost) / n
    return 100 * change, 100 * math.sqrt(max((gained + lost) / n - change**2, 0.0) / n)


def _paired(row: Row, files: dict[Path, dict[str, NDArray[Any]]], last: NDArray[Any] | None) -> Row:
    after = _answers(row, files)
    if row["reduction"] == FULL or after is None:
        return {}
    found: Row = {}
    before = _answers(row, files, FULL)
    if before is not None and before.shape == after.shape:
        found["points_lost_se"] = _difference(row, before, after)[1]
    if last is not None and last.shape == after.shape:
        found["above_last"], found["above_last_se"] = _difference(row, last, after)
    return {key: one for key, one in found.items() if one is not None and math.isfinite(one)}  # type: ignore[return-value, arg-type]


def _pairing_key(row: Row) -> tuple[Any, ...]:
    return row.get("trained_id"), row.get("protocol"), before(row), asked(row)


def _answers(row: Row, files: dict[Path, dict[str, NDArray[Any]]], name: str = "") -> NDArray[Any] | None:
    if not row.get("correct_file") or "folder" not in row:
        return None
    if not name and column(row) in row and score(row) is None:
        return None  # not all of them are answers
    path = Path(row["folder"]) / row["correct_file"]
    if path not in files:
        arrays = read_arrays(path, "its paired errors are left out")
        files[path] = {key: array if array.ndim > 1 else array.astype(bool) for key, array in arrays.items()}
    return files[path].get(name or (FULL if row["reduction"] == FULL else target(row)[1]))
