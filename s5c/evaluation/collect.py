"""Gathers the rows and arrays that jobs wrote, and stores them together.

A row describes one evaluated model: the unpruned one (`reduction` is "full") or one of its reductions. It is a flat
mapping that survives JSON. Rows may carry more keys than are read here.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s5c.errors import UserError
from s5c.evaluation.arms import FULL, Row, asked, differences, identity, rank
from s5c.evaluation.paired import add_paired
from s5c.training.atomic import save_arrays, written

Spectra = Mapping[str, Mapping[str, NDArray[Any]]]

ROWS_FILE = "rows.jsonl"
TABLE_FILE = "table.csv"
SPECTRA_FILE = "spectra.npz"


@dataclass(frozen=True, eq=False)
class Study:
    """The rows that may be compared with each other: same task, data, model, size and protocol; equal to itself alone.

    Attributes:
        title: What a reader calls it.
        slug: The same as a folder name, unique within the report.
        rows: Its rows, sorted.
    """

    title: str
    slug: str
    rows: list[Row]


def collect(paths: Sequence[Path]) -> list[Row]:
    """Returns every row found below `paths`, sorted, the newest of each set of repetitions.

    A line cut short at the end of a file belongs to a job that is running or was killed, and is left out.

    Args:
        paths: Folders of runs, searched at any depth for `rows.jsonl`.

    Returns:
        The rows, each with the `folder` it was found in, the size on disk of its unpruned model and, where the answers
        to single examples are stored, the paired errors of `s5c.evaluation.paired`.

    Raises:
        UserError: A folder does not exist, a row is damaged, or there are no rows at all.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"There is no folder {str(path)!r}.\nGive the folder of a run or of a sweep: runs=results/..."
            )
    newest: dict[str, Row] = {}
    for file in sorted({file for path in paths for file in path.rglob(ROWS_FILE)}):
        for row in _read_rows(file):
            key = _repetition_key(row)
            if key not in newest or _timestamp(row) >= _timestamp(newest[key]):
                newest[key] = row
    if not newest:
        raise UserError(
            f"No rows below {', '.join(repr(str(path)) for path in paths) or '(no folder given)'}.\n"
            f"Every finished train, reduce or evaluate job leaves a {ROWS_FILE} in its folder: "
            "run one first, or give another folder."
        )
    disk = {row.get("trained_id"): row.get("checkpoint_bytes") for row in newest.values() if row["reduction"] == FULL}
    for row in newest.values():
        row.setdefault("checkpoint_bytes_full", disk.get(row.get("trained_id")))
    return add_paired(in_order(newest.values()))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Returns rows in the order in which reports present them."""
    return sorted(rows, key=_presentation_order)


def read_spectra(rows: Iterable[Row]) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns the arrays of `spectra.npz` for every folder of `rows` that has a complete one."""
    found = {row["folder"]: _arrays(Path(row["folder"]) / SPECTRA_FILE) for row in rows if "folder" in row}
    return {folder: arrays for folder, arrays in sorted(found.items()) if arrays}


def store(rows: Sequence[Row], spectra: Spectra, directory: Path) -> None:
    """Writes rows and arrays of any number of runs into one folder, for `restore`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(rows, directory / TABLE_FILE)
    arrays = {f"{folder}/{name}": array for folder, found in spectra.items() for name, array in found.items()}
    if arrays:
        save_arrays(directory / SPECTRA_FILE, arrays)
    else:
        (directory / SPECTRA_FILE).unlink(missing_ok=True)


def restore(directory: Path) -> tuple[list[Row], dict[str, dict[str, NDArray[Any]]]]:
    """Returns the rows and arrays that `store` wrote."""
    spectra: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in _arrays(directory / SPECTRA_FILE).items():
        folder, _, key = name.rpartition("/")
        spectra.setdefault(folder, {})[key] = array
    return in_order(read_csv(directory / TABLE_FILE)), spectra


def studies(rows: Iterable[Row]) -> list[Study]:
    """Returns the rows split into sets that may be compared, in order of title."""
    grouped: dict[str, list[Row]] = {}
    for row in in_order(rows):
        grouped.setdefault(study_key(row), []).append(row)
    found: list[Study] = []
    for members in grouped.values():
        first = members[0]
        parts = [str(first[key]) for key in ("task", "model", "experiment") if first.get(key)]
        title = ", ".join(parts) + (", selected on test data" if first.get("protocol") == "paper" else "")
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", title)
        twins = sum(study.slug == slug or study.slug.startswith(f"{slug}--") for study in found)
        found.append(Study(title, f"{slug}--{twins + 1}" if twins else slug, members))
    return found


def study_key(row: Row) -> str:
    """Returns a text that rows share which may be compared."""
    size = [row.get("orders_full") or row.get("orders"), row.get("params_full") or row.get("params")]
    return json.dumps([[row.get(key) for key in ("task", "source", "model", "experiment", "protocol")], size])


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes rows so that `read_csv` returns them unchanged.

    Text stands as it is, everything else as JSON, an absent key as an empty cell. Text that reads as JSON (a git hash
    made of digits, say) is quoted, lest a spreadsheet or `read_csv` take it for a number.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with written(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_to_cell(row[key]) if key in row else "" for key in columns] for row in rows)


def read_csv(path: Path) -> list[Row]:
    """Returns the rows that `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _from_cell(cell) for key, cell in row.items() if cell != ""} for row in csv.DictReader(file)]


def _to_cell(value: Any) -> str:
    if isinstance(value, str) and value and _from_cell(value) is value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _from_cell(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return {}  # none there, or its job is still writing: figures are drawn from the others


def _read_rows(file: Path) -> list[Row]:
    rows = []
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({**row, "reduction": row["reduction"], "folder": str(file.parent)})
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break  # no newline yet: cut short
            raise UserError(f"{file}, line {number}, is not a row.\nDelete that line, or run the job again.") from error
    return rows


def _repetition_key(row: Row) -> str:
    trained = row.get("trained_id") or row.get("parent") or row.get("checkpoint")
    return json.dumps([trained, row.get("protocol"), identity(row), asked(row)])


def _presentation_order(row: Row) -> tuple[Any, ...]:
    place = [str(row.get(key)) for key in ("task", "model", "experiment")]
    return (
        *place,
        row.get("protocol") == "paper",
        study_key(row),
        rank(row),
        len(differences(row)),  # the preset itself before its variants
        identity(row),
        float(row.get("ratio") or 0.0),
        row.get("seed") or 0,
    )


def _timestamp(row: Row) -> str:
    return str(row.get("timestamp") or "")
