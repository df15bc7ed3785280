"""The test examples that were scored for the first time with the last figures: what is left of all without a part.

A comparison scores a fixed part of the test split while methods are being made, a headline later all of it. From both
rows of one network follows what it does on the rest: of n examples c answered rightly, of the m among them c', leaves
c - c' of n - m. Gained and lost examples follow from the paired errors (`s5c.report.paired`) in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from s5c.report import summary
from s5c.report.arms import asked, label
from s5c.report.collect import studies
from s5c.report.row import Row, as_row

SAME = 1e-6
"""Loss on validation data by which two rows may differ and still be of one network."""
OF_EXAMPLES = ("test_loss", "agreement", "above_last", "above_last_se", "correct_file")
"""Keys about the examples scored that do not follow from both rows."""


def rest(whole: Sequence[Row], part: Sequence[Row]) -> list[Row]:
    """Returns rows of the examples that a headline scored and a comparison did not.

    Args:
        whole: of the headline. Those that left examples out themselves (`test_skip`) are returned as they are.
        part: of the comparison, on a part of the examples of `whole`.

    Returns:
        The rows of those arms all of whose networks are among `part`, with the examples left and the paired error
        there. An arm of which a network is missing is left out: its mean would be over fewer seeds than the others'.
        So are networks that answer with targets, of which it cannot be told.
    """
    seen = {_network(row): row for row in part if row.get("test_examples")}
    found: list[Row] = []
    incomplete = set()
    for row in whole:
        other = seen.get(_network(row))
        if row.get("test_skip"):
            found.append(row)
        elif other is None or not _same(row, other) or (row.get("test_examples") or 0) <= other["test_examples"]:
            incomplete.add(label(row))
        else:
            found.append(
                as_row({key: value for key, value in {**row, **_left(row, other)}.items() if key not in OF_EXAMPLES})
            )
    return [row for row in found if label(row) not in incomplete]


def table(whole: Sequence[Row], part: Sequence[Row]) -> str | None:
    """Returns the accuracies on what the comparison left, with what is missing, or None if nothing is.

    Args:
        whole: rows of the headline.
        part: rows of the comparison.
    """
    left = rest(whole, part)
    found = [study for study in studies(left) if summary.grid(study)[0]]
    if not found:
        return None
    gone = sorted({label(row) for row in whole} - {label(row) for row in left})
    why = "as a network that the comparison scored is not to the last digit the one scored later"
    missing = f" Left out, {why}: {', '.join(gone)}." if gone else ""
    return "\n\n".join(summary.accuracies(study) + missing for study in found)


def _network(row: Row) -> tuple[Any, ...]:
    return row.get("trained_id"), label(row), asked(row), row.get("reduction_seed")


def _same(row: Row, other: Row) -> bool:
    """Returns whether two rows are of one network, by what it says about the validation data."""
    losses = row.get("val_loss"), other.get("val_loss")
    known = None not in losses and "metric" not in row and row.get("orders") == other.get("orders")
    return known and abs(losses[0] - losses[1]) <= SAME  # type: ignore[operator]


def _left(row: Row, other: Row) -> Row:
    n, m = row["test_examples"], other["test_examples"]
    found: Row = {"test_examples": n - m, "test_skip": m}

    def left(whole: float | None, part: float | None) -> float | None:
        return None if whole is None or part is None else (round(n * whole) - round(m * part)) / (n - m)

    reduced = left(row.get("test_accuracy"), other.get("test_accuracy"))
    full = left(row.get("test_accuracy_full"), other.get("test_accuracy_full"))
    if reduced is not None:
        found["test_accuracy"] = reduced
    if full is not None:
        found["test_accuracy_full"] = full
    changed, before = _changed(row), _changed(other)
    if changed is not None and before is not None and reduced is not None and full is not None:
        change, share = reduced - full, (changed - before) / (n - m)
        found["points_lost_se"] = 100 * math.sqrt(max(share - change**2, 0.0) / (n - m))
    return found


def _changed(row: Row) -> int | None:
    """Returns how many examples a network answers otherwise than the unpruned one as to right and wrong."""
    error, reduced, full = row.get("points_lost_se"), row.get("test_accuracy"), row.get("test_accuracy_full")
    if error is None or reduced is None or full is None:
        return None
    n = row["test_examples"]
    return round(n * ((error / 100) ** 2 * n + (reduced - full) ** 2))
