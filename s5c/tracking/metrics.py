"""`metrics.jsonl`: one JSON object per line, the record of truth of a run.

Every row has `event`, `step` (null where none applies), `time` (seconds since 1970), `attempt` and, as last key,
`checksum` (`s5c.checksums`); the rest depends on the event. Each start of a job is one more attempt, from 1 on. Of
rows about the same thing only those of the last attempt count. Rows of older code have neither key.
Floats that are not finite stand as `NaN` and `Infinity`, as Python and NumPy readers expect: a diverged loss must show.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s5c.checksums import CHECKSUM, sealed, unsealed
from s5c.errors import UserError

HEAD = ("event", "step", "time", "attempt", CHECKSUM)
"""Names that no value may have."""

SUBJECT = ("name", "target", "ratio", "epoch")
"""Values that say what a row is about."""

ONCE = ("summary", "table", "figure", "artifact")
"""Events of which a job has one of each name."""

_log = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """Returns `value` as JSON would give it back: arrays and scalars of NumPy and JAX become Python numbers and lists.

    Raises:
        TypeError: A part of `value` has no JSON form.
    """
    return json.loads(json.dumps(value, default=_native))


def _native(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"A value of type {type(value).__name__} cannot be recorded: {value!r}.")


class MetricsFile:
    """One attempt's part of a `metrics.jsonl`; what earlier attempts wrote stays until this one has ended well.

    Args:
        path: The file, created with the first row. A half-written last line is dropped.

    Raises:
        UserError: A line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        truncate_after(path)  # the first row must not continue a half-written one
        rows = _rows(path) if path.exists() else iter(())
        self.attempt = 1 + max((row.get("attempt", 0) for _, row in rows), default=0)

    def log(self, values: Mapping[str, Any], *, step: int | None = None, event: str = "metrics") -> None:
        """Appends one row."""
        append_row(self.path, event, step, values, attempt=self.attempt)

    def truncate_after(self, step: int) -> None:
        """Forgets the rows written after `step`: a training resumes from the checkpoint of that step."""
        truncate_after(self.path, step)

    def settle(self) -> None:
        """Drops the rows of earlier attempts that this one has written again."""
        if self.attempt > 1 and self.path.exists():
            lines, rows = zip(*_rows(self.path), strict=True)
            _replace(self.path, [lines[number] for number in _counted(rows)])


def append_row(
    path: Path, event: str, step: int | None, values: Mapping[str, Any], *, attempt: int | None = None
) -> None:
    """Appends one row and flushes it.

    The file is opened again each time: no handle outlives a truncation, and a killed process loses at most this row.

    Args:
        path: The file, created if need be.
        event: What the row records.
        step: The training step, or None.
        values: Everything else in the row.
        attempt: Number of the attempt, if the job has several.

    Raises:
        ValueError: `values` uses the name of a fixed column.
        TypeError: A value has no JSON form.
    """
    if reserved := sorted({*HEAD} & values.keys()):
        raise ValueError(f"{', '.join(reserved)}: reserved in metrics.jsonl, name the value differently.")
    head = {"event": event, "step": plain(step), "time": round(time.time(), 3)}
    head |= {} if attempt is None else {"attempt": attempt}
    line = json.dumps(sealed({**head, **plain(values)})) + "\n"
    with path.open("a", encoding="ascii") as file:
        file.write(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`, without the half-written last line that a killed process may leave.

    Args:
        path: The file.

    Returns:
        The rows that count, in the order written, without `attempt` and `checksum`.

    Raises:
        UserError: The file does not exist, or a whole line is not what was written.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Give the metrics.jsonl of a run folder.")
    rows = [row for _, row in _rows(path)]
    return [{key: value for key, value in rows[n].items() if key != "attempt"} for n in _counted(rows)]


def subject(row: Mapping[str, Any], reached: int | None = None) -> str:
    """Returns what a row is about: the same text for rows of several attempts of which one counts.

    Args:
        row: as recorded.
        reached: the last step before it, to which a row without a step belongs.
    """
    about = {key: row[key] for key in SUBJECT if key in row}
    named = bool(about) or row.get("event") in ONCE
    names = [] if named else sorted(row.keys() - {*HEAD})
    return json.dumps([row.get("event"), row.get("step"), about, names, None if named else reached])


def _counted(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the places of the rows that no later attempt has written again."""
    subjects, last, reached = [], dict[str, int](), None
    for row in rows:
        reached = reached if row.get("step") is None else row["step"]
        subjects.append(subject(row, reached))
        last[subjects[-1]] = max(row.get("attempt", 0), last.get(subjects[-1], 0))
    return [number for number, row in enumerate(rows) if row.get("attempt", 0) == last[subjects[number]]]


def truncate_after(path: Path, step: float = math.inf) -> None:
    """Drops what was written after `step`, so that a resumed run continues the record of its checkpoint.

    A row without a step belongs to the last step before it. A half-written last line is dropped too. The file is
    replaced atomically, or left alone if there is nothing to drop; a file that does not exist is not an error.

    Args:
        path: The `metrics.jsonl`.
        step: The step of the checkpoint; infinity drops the half-written line alone.

    Raises:
        UserError: A whole line is not what was written.
    """
    if not path.exists():
        return
    kept, reached = [], -math.inf
    for line, row in _rows(path):
        if row.get("step") is not None:
            reached = row["step"]
        if reached <= step:
            kept.append(line)
    _replace(path, kept)


def salvage(path: Path) -> None:
    """Drops damaged lines from a `metrics.jsonl` and keeps the whole file beside it as `metrics.damaged.jsonl`.

    Args:
        path: The file; one that does not exist is not an error.
    """
    if not path.exists():
        return
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    kept = [line for line in lines if not isinstance(_parsed(line), str)]
    if len(kept) < len(lines):
        _replace(path.with_name(f"{path.stem}.damaged{path.suffix}"), lines)
        _replace(path, kept)
        _log.warning("%d damaged lines of %s are left out; sums over its rows lack them.", len(lines) - len(kept), path)


def _replace(path: Path, lines: Sequence[bytes]) -> None:
    """Writes a file of lines atomically, unless it is the same already."""
    content = b"".join(line + b"\n" for line in lines)
    if path.exists() and content == path.read_bytes():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            Path(name).chmod(path.stat().st_mode)  # mkstemp makes a private file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields lines and their rows, the checksums verified and taken off."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if isinstance(row, str):
            if number == len(lines) and not content.endswith(b"\n") and not _was_whole(line):
                return  # half-written
            raise UserError(
                f"{path}, line {number} is damaged: {row}. Restore the file from a backup, or drop the line:\n"
                f"  sed -i.bak {number}d {shlex.quote(str(path))}"
            )
        yield line, row


def _parsed(line: bytes) -> dict[str, Any] | str:
    """Returns a line's row, or what is wrong with the line."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            return "it is not a JSON object"
        return "it lacks its checksum" if "attempt" in row and CHECKSUM not in row else unsealed(row)
    except ValueError as error:
        return str(error)


def _was_whole(line: bytes) -> bool:
    """Returns whether a line without an end begins with a whole row: then its end was damaged, not left unwritten."""
    try:
        row, _ = json.JSONDecoder().raw_decode(line.decode("ascii", "replace"))
    except ValueError:
        return False
    return isinstance(row, dict) and CHECKSUM in row
