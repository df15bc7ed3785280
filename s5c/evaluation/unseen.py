"""The test examples that were scored for the first time with the last figures: what is left of all without a part.

A comparison scores a fixed part of the test split while methods are being made, a headline later all of it. From both
rows of one network follows what it does on the rest: of n examples c answered rightly, of the m among them c', leaves
c - c' of n - m. Gained and lost examples follow from the paired errors (`s5c.evaluation.paired`) in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from s5c.evaluation import summary
from s5c.evaluation.arms import Row, asked, label
from s5c.evaluation.collect import studies

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
            found.append({**{key: value for key, value in row.items() if key not in OF_EXAMPLES}, **_left(row, other)})
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
    known = None not in losses and row.get("orders") == other.get("orders")
    return known and abs(losses[0] - losses[1]) <= SAME  # type: ignore[operator]


def _left(row: Row, other: Row) -> Row:
    n, m = row["test_examples"], other["test_examples"]
    found: Row = {"test_examples": n - m, "test_skip": m}
    for key in ("test_accuracy", "test_accuracy_full"):
        if row.get(key) is not None and other.get(key) is not None:
            found[key] = (round(n * row[key]) - round(m * other[key])) / (n - m)
    changed = _changed(row), _changed(other)
    if None not in changed and {"test_accuracy", "test_accuracy_full"} <= set(found):
        change = found["test_accuracy"] - found["test_accuracy_full"]
        share = (changed[0] - changed[1]) / (n - m)  # type: ignore[operator]
        found["points_lost_se"] = 100 * math.sqrt(max(share - change**2, 0.0) / (n - m))
    return found


def _changed(row: Row) -> int | None:
    """Returns how many examples a network answers otherwise than the unpruned one as to right and wrong."""
    if row.get("points_lost_se") is None:
        return None
    n, change = row["test_examples"], row["test_accuracy"] - row["test_accuracy_full"]
    return round(n * ((row["points_lost_se"] / 100) ** 2 * n + change**2))
