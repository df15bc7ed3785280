"""What the network of a row scores: read by the metric of its task, which is accuracy unless the row names another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from s5c.metric import ACCURACY, METRICS, Metric
from s5c.report.row import Row, value


def metric_of(row: Row) -> Metric:
    """Returns the metric of a row's task; of one that is not known any more the row counts as without scores."""
    return METRICS.get(str(row.get("metric", ACCURACY.name)), ACCURACY)


def metric_of_all(rows: Iterable[Row]) -> Metric:
    """Returns the metric of rows that are compared."""
    return next((metric_of(row) for row in rows), ACCURACY)


def column(row: Row, split: str = "test") -> str:
    """Returns the column of a row's score on a split, test or val."""
    return f"{split}_{metric_of(row).name}"


def score(row: Row, split: str = "test") -> Any:
    """Returns what the network scores; None if nothing was measured."""
    return value(row, column(row, split))


def full_score(row: Row) -> Any:
    """Returns what the network that was reduced scores on the test split."""
    return value(row, f"{column(row)}_full")


def spread(row: Row) -> Any:
    """Returns the standard deviation of an averaged row's score."""
    return value(row, f"{column(row)}_sd")
