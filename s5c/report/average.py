"""Averages rows over seeds."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

from s5c.report.arms import asked, before, identity
from s5c.report.collect import Study, in_order, study_key
from s5c.report.row import FULL, Averaged, Row, value
from s5c.report.scores import full_score, metric_of, score

TIMED = ("latency", "speedup", "seconds", "temp_bytes")
TOLD = ("schema", "preset", "arm", "settings", "differences")
"""What rows say of their arm: that of the newest holds for all."""


def aggregate(rows: Iterable[Row]) -> list[Averaged]:
    """Averages over seeds, keeping apart everything else that was configured.

    Args:
        rows: Rows of any number of studies.

    Returns:
        One row per arm and target, with `n`, `seeds`, `points_lost` (test accuracy lost against the unpruned model of
        the same seed, in percentage points; of targets as `s5c.metric` has it) and `val_points_lost` where the unpruned
        model is among the rows, and `by_training`, the test accuracy in percent on every trained model, or how far it
        is from the unpruned one. A number `x` becomes its mean, with the
        sample standard deviation in `x_sd` (None for a single row); lists of numbers, one a layer, become lists of
        means. What is missing in some of the rows, is text that differs between them, or is a timing taken on
        different devices becomes None.
    """
    grouped: dict[str, list[Averaged]] = {}
    ordered = in_order(rows)
    full = {_training(row): score(row, "val") for row in ordered if row["reduction"] == FULL}
    for row in ordered:
        losses: Averaged = {
            "points_lost": points_lost(row),
            "val_points_lost": _lost(row, full.get(_training(row)), score(row, "val")),
        }
        key = json.dumps([study_key(row), identity(row), asked(row)])
        grouped.setdefault(key, []).append({**row, **losses})
    return [_average(group) for group in grouped.values()]


@functools.lru_cache(maxsize=64)
def means(study: Study) -> Sequence[Averaged]:
    """Returns the averaged rows of a study, made once: every table and figure of it starts from them."""
    return tuple(aggregate(study.rows))


def points_lost(row: Row) -> float | None:
    """Returns the accuracy lost against the unpruned model, in percentage points, or None if it was not measured."""
    return _lost(row, full_score(row), score(row))


def _lost(row: Row, full: float | None, reduced: float | None) -> float | None:
    return None if full is None or reduced is None else metric_of(row).lost(full, reduced)


def _training(row: Row) -> tuple[Any, ...]:
    return study_key(row), row.get("trained_id"), before(row)


def _average(group: Sequence[Averaged]) -> Averaged:
    result: dict[str, Any] = {
        "n": len(group),
        "seeds": sorted({row["seed"] for row in group if row.get("seed") is not None}),
    }
    for row in sorted(group, key=lambda row: str(row.get("timestamp") or "")):
        result |= {key: value(row, key) for key in TOLD if key in row}
    one_device = len({(row.get("latency_device") or row.get("device"), row.get("backend")) for row in group}) == 1
    one_measure = len({row.get("schema", 1) >= 2 for row in group}) == 1
    for key in dict.fromkeys(key for row in group for key in row):
        values = [value(row, key) for row in group]
        if key == "seed" or key in TOLD:
            continue
        if (not one_device and key.startswith(TIMED)) or (not one_measure and key.startswith("checkpoint_bytes")):
            result[key] = None
        elif all(map(_is_number, values)):
            result[key] = _mean(values)
            result[f"{key}_sd"] = _deviation(values) if len(values) > 1 else None
        elif all(one == values[0] for one in values):
            result[key] = values[0]
        elif all(isinstance(one, list) for one in values) and len({len(one) for one in values}) == 1:
            layers = list(zip(*values, strict=True))
            result[key] = [_mean(layer) if all(map(_is_number, layer)) else None for layer in layers]
        else:
            result[key] = None
    result["by_training"] = _by_training(group)
    return cast(Averaged, result)


def _by_training(group: Sequence[Row]) -> dict[str, float]:
    """Returns the accuracy in percent on every trained model, of several draws of a method on one their mean.

    Of an error it is the change against the unpruned model: those of several models have no unit in common.
    """
    found: dict[str, list[float]] = {}
    for row in group:
        if (reached := score(row)) is None:
            continue
        lost = None if metric_of(row).share else points_lost(row)
        if lost is not None or metric_of(row).share:
            standing = 100 * reached if lost is None else -lost
            found.setdefault(str(row.get("trained_id") or row.get("seed")), []).append(standing)
    return {key: _mean(values) for key, values in found.items()}


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


def _mean(values: Iterable[Any]) -> float | int:
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else math.fsum(listed) / len(listed)


def _deviation(values: Sequence[float]) -> float:
    """Returns the sample standard deviation; `statistics.stdev` does it in fractions, 30 times as slowly."""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
