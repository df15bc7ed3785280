"""A folder with a file for each sequence: csv, npy or parquet, and a file of labels.

    labels.csv            columns file, label (or target, target_...), and split if the folder is not split
    train/, test/         or a folder for each split, with its own labels.csv, or without where targets are in the files
    a.csv, b.npy, ...     a row per step, a column per channel; npy (l, channels)

Columns of a csv or parquet whose names are target or begin with target_ are answers, one a step.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from s5c.data.source.arrayfile import Place
from s5c.data.source.folder import entries, find_file
from s5c.data.source.sequences import Sequences, real, split_named, text_of
from s5c.errors import UserError

LABELS = "labels.csv"
SUFFIXES = (".csv", ".npy", ".parquet")
Table = tuple[list[str], np.ndarray]
"""Names of the columns, none for npy, and their values (l, columns)."""


def find(place: Path) -> dict[str, Path]:
    """Returns the folders of the splits, or the given one under the name ""; nothing if it holds no such files."""
    if not place.is_dir():
        return {}
    if find_file(place, LABELS) is not None or _sequences(place):
        return {"": place}
    parts = {split: path for path in entries(place) if path.is_dir() and (split := split_named(path.name)) is not None}
    return {split: path for split, path in parts.items() if find_file(path, LABELS) is not None or _sequences(path)}


def _sequences(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.suffix.lower() in SUFFIXES and path.name.lower() != LABELS]


def read(folder: Path) -> Sequences:
    """Returns the sequences of a folder with their answers.

    Raises:
        UserError: a file is missing or has no answer, a cell is no number, or columns differ.
    """
    listed, paths = find_file(folder, LABELS), _sequences(folder)
    found = Sequences()
    if listed is not None:
        paths = _listed(found, listed, paths)
    for path in paths:
        names, values = _table(path)
        _append(found, path, names, values, answered=listed is not None)
    return found


def _append(found: Sequences, path: Path, names: list[str], values: np.ndarray, *, answered: bool) -> None:
    """Adds one sequence."""
    outputs = [name for name in names if _is_target(name)]
    if not answered and not outputs:
        raise UserError(
            f"{path}: no answer for it; expected {path.parent / LABELS} with the columns file and label (or target), "
            "or a column `target` in it."
        )
    if answered and outputs:
        raise UserError(f"{path}: column {outputs[0]!r} and {LABELS} both answer; expected one of them.")
    channels = [name for name in names if not _is_target(name)]
    if names and not channels:
        raise UserError(f"{path}: all of its columns are targets; expected one channel at least.")
    if found.values and tuple(channels) != found.channels:
        raise UserError(
            f"{path}: columns {', '.join(channels[:12]) or '(unnamed)'}; expected those of {found.where[0]}: "
            f"{', '.join(found.channels[:12]) or '(unnamed)'}."
        )
    if outputs:
        if found.values and tuple(outputs) != found.outputs:
            raise UserError(f"{path}: targets {', '.join(outputs)}; expected {', '.join(found.outputs)}.")
        found.outputs = tuple(outputs)
        found.targets = [*(found.targets or []), values[:, [names.index(name) for name in outputs]]]
    inputs = values[:, [names.index(name) for name in channels]] if names else values
    found.channels = tuple(channels)
    found.values.append(real(inputs, str(path)))
    found.where.append(str(path))


def _is_target(name: str) -> bool:
    return name.lower() == "target" or name.lower().startswith("target_")


def _listed(found: Sequences, path: Path, there: Iterable[Path]) -> list[Path]:
    """Reads the file of labels; returns the files it lists."""
    try:
        rows = list(csv.reader(text_of(path).splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"{path}: expected a table with commas between its cells ({error}).") from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    targets = [i for i, name in enumerate(head) if _is_target(name)]
    if "file" not in head or ("label" in head) == bool(targets):
        raise UserError(
            f"{path}, line 1: columns {', '.join(head) or '(none)'}; expected `file` and either `label` or `target` "
            "(or several, `target_...`), and `split` if one file lists all."
        )
    known, paths, seen = {one.name: one for one in there}, [], dict[str, int]()
    found.labels, found.targets = ([], None) if "label" in head else (None, [])
    found.splits = [] if "split" in head else None
    found.outputs = tuple(head[i] for i in targets)
    for line, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"{path}, line {line}"
        if len(row) != len(head):
            raise UserError(f"{where}: {len(row)} cells; expected {len(head)}, {', '.join(head)}.")
        name = row[head.index("file")].strip()
        if name not in known:
            raise UserError(
                f"{where}: there is no file {name!r} in {path.parent}; expected one of {', '.join(sorted(known)[:8])}."
            )
        if name in seen:
            raise UserError(f"{where}: {name!r} is listed in line {seen[name]} already; expected every file once.")
        seen[name] = line
        paths.append(known[name])
        if found.splits is not None:
            cell = row[head.index("split")]
            if (split := split_named(cell)) is None:
                raise UserError(f"{where}: split {cell.strip()!r}; expected train, validation or test.")
            found.splits.append(split)
        if found.labels is not None:
            found.labels.append(_class(row[head.index("label")], where))
        if found.targets is not None:
            found.targets.append(np.array([_value(row[i], f"{where}, {head[i]}") for i in targets]))
    if left := sorted(set(known) - set(seen)):
        more = f", nor are {len(left) - 1} more" if left[1:] else ""
        raise UserError(f"{path}: {left[0]!r} is not listed{more}; expected every file once.")
    return paths


def _class(cell: str, where: str) -> str:
    if not cell.strip():
        raise UserError(f"{where}: the label is empty; expected a class.")
    return cell.strip()


def _value(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{where}: {cell.strip()[:40]!r}; expected a number.")
    return value


def _table(path: Path) -> Table:
    readers: dict[str, Callable[[Path], Table]] = {".csv": _csv, ".npy": _npy, ".parquet": _parquet}
    return readers[path.suffix.lower()](path)


def _csv(path: Path) -> Table:
    """Reads a table with a line of names, or without."""
    text = text_of(path)
    first, _, rest = text.partition("\n")
    head = [cell.strip().strip('"') for cell in first.split(",")]
    named = any(not _is_number(cell) for cell in head)
    try:
        values = np.loadtxt(io.StringIO(rest if named else text), delimiter=",", ndmin=2, comments=None)
    except ValueError:
        raise UserError(_first_wrong(path, text, head, named)) from None
    if named and values.size and values.shape[1] != len(head):
        raise UserError(
            f"{path}, line 2: {values.shape[1]} cells; expected {len(head)}, one for each of {', '.join(head)}."
        )
    if named and len(set(head)) < len(head):
        raise UserError(f"{path}, line 1: two columns have one name; expected different ones.")
    return (head if named else []), values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_wrong(path: Path, text: str, head: list[str], named: bool) -> str:
    """Returns which line of a csv is not what it should be."""
    for number, line in enumerate(text.splitlines(), start=1):
        row = line.split(",")
        if (number == 1 and named) or not line.strip():
            continue
        if len(row) != len(head):
            return f"{path}, line {number}: {len(row)} cells; expected {len(head)}, as in line 1."
        for column, cell in enumerate(row):
            if not _is_number(cell):
                name = head[column] if named else column + 1
                return f"{path}, line {number}, column {name}: {cell.strip()[:40]!r}; expected a number."
    return f"{path}: expected numbers with commas between."


def _npy(path: Path) -> Table:
    values = Place(path).load()
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise UserError(f"{path}: shape {values.shape}; expected (length,) or (length, channels).")
    return [], values


def _parquet(path: Path) -> Table:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            f"{path}: parquet files are read by the package pyarrow, which is not installed: pip install pyarrow."
        ) from error
    try:
        table: Any = parquet.read_table(path)
        names = list(table.column_names)
        kinds, missing = [one.type for one in table.columns], [one.null_count for one in table.columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: expected a parquet file; it is cut off or damaged ({said}).") from error
    of = pyarrow.types
    for name, kind, count in zip(names, kinds, missing, strict=True):
        if not (of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind)):
            raise UserError(f"{path}, column {name}: {kind}; expected real numbers.")
        if count:
            raise UserError(f"{path}, column {name}: {count} values are missing; expected none.")
    columns = [np.asarray(column.to_numpy(), np.float64) for column in table.columns]
    return names, np.stack(columns, axis=1) if columns else np.zeros((0, 0))
