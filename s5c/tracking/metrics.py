"""`metrics.jsonl`: one JSON object per line, the record of truth of a run.

Every row has `event`, `step` (null where none applies) and `time` (seconds since 1970); the rest depends on the event.
Floats that are not finite stand as `NaN` and `Infinity`, as Python and NumPy readers expect: a diverged loss must show.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s5c.errors import UserError


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


def append_row(path: Path, event: str, step: int | None, values: Mapping[str, Any]) -> None:
    """Appends one row and flushes it.

    The file is opened anew each time: no handle outlives a truncation, and a killed process loses at most this row.

    Args:
        path: The file, created if need be.
        event: What the row records.
        step: The training step, or None.
        values: Everything else in the row.

    Raises:
        ValueError: `values` uses the name of a fixed column.
        TypeError: A value has no JSON form.
    """
    head = {"event": event, "step": plain(step), "time": round(time.time(), 3)}
    if reserved := sorted(head.keys() & values.keys()):
        raise ValueError(f"{', '.join(reserved)}: reserved in metrics.jsonl, name the value differently.")
    line = json.dumps({**head, **plain(values)}) + "\n"
    with path.open("a", encoding="ascii") as file:
        file.write(line)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`, without the half-written last line that a killed process may leave.

    Args:
        path: The file.

    Returns:
        The rows in the order written.

    Raises:
        UserError: The file does not exist, or a line other than the last is not a JSON object.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Give the metrics.jsonl of a run folder.")
    return [row for _, row in _rows(path)]


def truncate_after(path: Path, step: float = math.inf) -> None:
    """Drops what was written after `step`, so that a resumed run continues the record of its checkpoint.

    A row without a step belongs to the last step before it. A half-written last line is dropped too. The file is
    replaced atomically, or left alone if there is nothing to drop; a file that does not exist is not an error.

    Args:
        path: The `metrics.jsonl`.
        step: The step of the checkpoint; infinity drops the half-written line alone.

    Raises:
        UserError: A line other than the last is not a JSON object.
    """
    if not path.exists():
        return
    kept, reached = [], -math.inf
    for line, row in _rows(path):
        if row.get("step") is not None:
            reached = row["step"]
        if reached <= step:
            kept.append(line + b"\n")
    content = b"".join(kept)
    if content == path.read_bytes():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode)  # mkstemp makes a private file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    lines = path.read_bytes().split(b"\n")
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                return
            raise UserError(
                f"{path}, line {number} is not a JSON object ({error}). Only a last line can be half-written; "
                "remove the line, or restore the file."
            ) from error
        yield line, row
