"""Rows of JSON values that carry a checksum of themselves, so that a flipped digit does not pass for a number.

Rows without one were written by older code, and are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

CHECKSUM = "checksum"


def sealed(row: Mapping[str, Any], place: Any = None) -> dict[str, Any]:
    """Returns a row, as JSON gives it back, with its checksum as last key.

    Args:
        row: JSON values.
        place: what else the checksum covers.
    """
    plain = json.loads(json.dumps(dict(row)))
    return {**plain, CHECKSUM: _digest(plain, place)}


def unsealed(row: Mapping[str, Any], place: Any = None) -> dict[str, Any]:
    """Returns a row without its checksum.

    Raises:
        ValueError: the row is not the one that the checksum was taken of.
    """
    bare = _bare(row)
    if CHECKSUM in row and row[CHECKSUM] != _digest(bare, place):
        raise ValueError("it does not match its checksum")
    return bare


def sealed_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of a file with checksums that show also whether rows are missing, or in another order."""
    return [sealed(row, _place(number, len(rows))) for number, row in enumerate(rows)]


def unsealed_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of a file without their checksums.

    Raises:
        ValueError: the rows are not those that the checksums were taken of, or not all of them.
    """
    if not any(CHECKSUM in row for row in rows):
        return [dict(row) for row in rows]
    found = []
    for number, row in enumerate(rows):
        if CHECKSUM not in row:
            raise ValueError(f"row {number + 1} has no checksum, and others have one")
        try:
            found.append(unsealed(row, _place(number, len(rows))))
        except ValueError as error:
            if number == len(rows) - 1 and row[CHECKSUM] == _digest(_bare(row), _place(number, len(rows) + 1)):
                raise ValueError(f"rows are missing after row {number + 1}") from error
            raise ValueError(f"row {number + 1} is not what was written, or not at this place") from error
    return found


def _bare(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != CHECKSUM}


def _place(number: int, count: int) -> list[Any]:
    return [number, number == count - 1]


def _digest(row: Mapping[str, Any], place: Any) -> str:
    text = json.dumps([row, place], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
