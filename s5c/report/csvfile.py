"""Tables as CSV files that hold text, numbers, lists and nothing, and give them back as they were."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s5c.atomic import written
from s5c.errors import UserError

Record = dict[str, Any]
"""A line of a table of any kind; those of results are `s5c.report.row.Row`."""

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a cell begins with, after blanks, that spreadsheets take for a formula."""


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows so that `read_csv` returns them unchanged.

    Text stands as it is, everything else as JSON, an absent key as an empty cell. Text that reads as JSON (a git hash
    made of digits, say) is quoted, lest a spreadsheet or `read_csv` take it for a number; so is text that a spreadsheet
    would run as a formula.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with written(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_to_cell(key) for key in columns])
        writer.writerows([_to_cell(row[key]) if key in row else "" for key in columns] for row in rows)


def read_csv(path: Path) -> list[Record]:
    """Returns the rows that `write_csv` wrote.

    Raises:
        UserError: The file is no such table, or a row has more or fewer cells than the first line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            rows.fieldnames = [_text_from_cell(name) for name in rows.fieldnames or ()]
            found = list(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}. Copy it again from where it came.") from error
    for number, row in enumerate(found, start=1):
        if None in row or None in row.values():
            raise UserError(f"{path} is damaged: row {number} has not one cell for each name in the first line.")
    return [{key: _from_cell(cell) for key, cell in row.items() if cell != ""} for row in found]


def _to_cell(value: Any) -> str:
    if isinstance(value, str) and value and _from_cell(value) is value and not value.lstrip().startswith(FORMULA):
        return value
    return json.dumps(value, ensure_ascii=False)


def _from_cell(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _text_from_cell(cell: str) -> str:
    value = _from_cell(cell)
    return value if isinstance(value, str) else cell
