"""`rows.jsonl`: the rows of a run, one JSON object per line, with checksums that also show whether any are missing.

The `timestamp` of a row is when its job started, by the clock, but later than that of any row already in the folders
beside it: a clock that was set back does not make an old result the newest.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from s5c.atomic import write_text
from s5c.checksums import CHECKSUM, sealed_table, unsealed_table
from s5c.errors import UserError
from s5c.report.row import Row, as_row

TIME = "timestamp"


def latest_beside(path: Path) -> float:
    """Returns the latest time of any row in the folders beside a run's, in seconds since 1970; 0 if there is none.

    Args:
        path: `rows.jsonl` in the run folder.
    """
    others = (row for file in path.parent.parent.glob(f"*/{path.name}") if file != path for row in _intact(file))
    return max(map(moment, others), default=0.0)


def write_rows(path: Path, rows: Sequence[Row], latest: float) -> None:
    """Replaces the rows of a run in one step. Rows that were there already keep a later time that they have.

    Args:
        path: `rows.jsonl` in the run folder.
        rows: all rows of the run, as JSON values.
        latest: of `latest_beside`, which reads as many files as there are runs: a job asks once.
    """
    stamped = _stamped(rows, _intact(path), latest)
    text = "".join(json.dumps(row) + "\n" for row in sealed_table(stamped))
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a run, each with its `folder`.

    Of a file without checksums a line cut short at the end is left out: it may belong to a job that is running.

    Raises:
        UserError: A row is not what was written, or rows are missing.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({**row, "reduction": row["reduction"]})
        except (ValueError, TypeError, KeyError) as error:
            sealed = any(CHECKSUM in row for row in rows)
            if number == len(lines) and rows and not sealed:
                break
            other = "." if sealed else ", or delete that line."
            raise UserError(f"{path}, line {number}, is not a row.\nRun the job again{other}") from error
    try:
        found = unsealed_table(rows)
        if not found:
            raise ValueError("it is empty")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Run the job again, or copy the file again from where it came.\n"
            f"If you have changed it on purpose, take {CHECKSUM!r} out of every line."
        ) from error
    return [as_row({**row, "folder": str(path.parent)}) for row in found]


def moment(row: Mapping[str, Any]) -> float:
    """Returns the time of a row in seconds since 1970, 0 where it has none."""
    try:
        said = datetime.datetime.fromisoformat(str(row.get(TIME) or ""))
    except ValueError:
        return 0.0
    return (said if said.tzinfo else said.replace(tzinfo=datetime.UTC)).timestamp()


def _stamped(rows: Sequence[Row], before: Iterable[Row], latest: float) -> list[Row]:
    known = {_content(row): row for row in before}
    own = max(map(moment, known.values()), default=0.0)
    found: list[Row] = []
    for row in rows:
        same, now = known.get(_content(row)), moment(row)
        # New rows of a job that writes several times stay together.
        least = max(own, latest + 1 if latest >= now else 0.0) if same is None else moment(same)
        stamp = max(now, least)
        found.append(row if stamp == now else {**row, "timestamp": _text(stamp)})
    return found


def _text(stamp: float) -> str:
    return datetime.datetime.fromtimestamp(stamp, datetime.UTC).isoformat(timespec="seconds")


def _content(row: Row) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in (TIME, "folder")}, sort_keys=True)


def _intact(path: Path) -> list[Row]:
    try:
        return read_rows(path)
    except (OSError, UserError):  # none there, or damaged: it says nothing
        return []
