"""Gathers the rows that jobs wrote, and averages them over seeds.

A row describes one evaluated model: the unpruned one (`reduction` is "full") or one of its reductions. It is a flat
mapping that survives JSON. Rows may carry more keys than are read here: every number in them is averaged.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s5c.errors import UserError

Row = dict[str, Any]
Spectra = Mapping[str, Mapping[str, NDArray[Any]]]

ROWS_FILE = "rows.jsonl"
SPECTRA_FILE = "spectra.npz"
FULL = "full"

# Order of presentation: the method under study, what it is compared with, the floors. Other presets come in between.
FIRST = ("last", "uniform_hinf", "global_hinf", "uniform_magnitude", "global_magnitude", "lamp")
FLOORS = ("random", "unstructured_random")


@dataclass(frozen=True)
class Study:
    """The rows that may be compared with each other: same task, data, model, size and protocol.

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
        The rows, each with the `folder` it was found in and the size on disk of its unpruned model.

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
    return sorted(newest.values(), key=_presentation_order)


def read_spectra(rows: Iterable[Row]) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns the arrays of `spectra.npz` for every folder of `rows` that has a complete one."""
    spectra = {}
    for folder in sorted({row["folder"] for row in rows if "folder" in row}):
        try:
            with np.load(Path(folder) / SPECTRA_FILE) as arrays:
                spectra[folder] = dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            continue  # none there, or its job is still writing: figures are drawn from the others
    return spectra


def studies(rows: Iterable[Row]) -> list[Study]:
    """Returns the rows split into sets that may be compared, in order of title."""
    grouped: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_presentation_order):
        grouped.setdefault(_study_key(row), []).append(row)
    found: list[Study] = []
    for members in grouped.values():
        first = members[0]
        parts = [str(first[key]) for key in ("task", "model", "experiment") if first.get(key)]
        title = ", ".join(parts) + (", selected on test data" if first.get("protocol") == "paper" else "")
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", title)
        twins = sum(study.slug == slug or study.slug.startswith(f"{slug}--") for study in found)
        found.append(Study(title, f"{slug}--{twins + 1}" if twins else slug, members))
    return found


def aggregate(rows: Iterable[Row]) -> list[Row]:
    """Averages over seeds, keeping apart everything else that was configured.

    Args:
        rows: Rows of any number of studies.

    Returns:
        One row per configuration and ratio, with `n`, `seeds` and `points_lost` (accuracy lost against the unpruned
        model of the same seed, in percentage points). A number `x` becomes its mean, with the sample standard
        deviation in `x_sd` (None for a single row). What is missing in some of the rows, is text that differs between
        them, or is a timing taken on different devices becomes None.
    """
    grouped: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_presentation_order):
        key = json.dumps([_study_key(row), variant(row), _ratio(row)])
        grouped.setdefault(key, []).append({**row, "points_lost": points_lost(row)})
    return [_average(group) for group in grouped.values()]


def _average(group: Sequence[Row]) -> Row:
    result: Row = {"n": len(group), "seeds": sorted({row["seed"] for row in group if row.get("seed") is not None})}
    one_device = len({(row.get("device"), row.get("backend")) for row in group}) == 1
    for key in dict.fromkeys(key for row in group for key in row):
        values: list[Any] = [row.get(key) for row in group]
        if key == "seed":
            continue
        if not one_device and key.startswith(("latency", "speedup", "seconds", "temp_bytes")):
            result[key] = None
        elif key != "ratio" and all(_is_number(value) for value in values):
            result[key] = _mean(values)
            result[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        elif all(value == values[0] for value in values):
            result[key] = values[0]
        elif key == "orders" and len({len(value or ()) for value in values}) == 1:
            result[key] = [_mean(layer) for layer in zip(*values, strict=True)]
        else:
            result[key] = None
    return result


def points_lost(row: Row) -> float | None:
    """Returns the accuracy lost against the unpruned model, in percentage points, or None if it was not measured."""
    full, reduced = row.get("test_accuracy_full"), row.get("test_accuracy")
    return None if full is None or reduced is None else 100 * (full - reduced)


def variant(row: Row) -> str:
    """Returns what distinguishes one reduction from another, whatever the ratio."""
    parts = [row["reduction"], row.get("method"), row.get("allocation"), row.get("options") or {}]
    return json.dumps(parts, sort_keys=True)


def labeller(rows: Iterable[Row]) -> Callable[[Row], str]:
    """Returns the function that names the reduction of a row.

    The name is the preset's. Where rows hold one preset with several settings, the settings that differ are added,
    so that two different things never share a name.
    """
    settings: dict[str, dict[str, Row]] = {}
    for row in rows:
        chosen = {"method": row.get("method"), "allocation": row.get("allocation"), **(row.get("options") or {})}
        settings.setdefault(row["reduction"], {})[variant(row)] = chosen
    names: dict[str, str] = {}
    for preset, variants in settings.items():
        keys = dict.fromkeys(key for chosen in variants.values() for key in chosen)
        differing = [key for key in keys if len({json.dumps(chosen.get(key)) for chosen in variants.values()}) > 1]
        for identity, chosen in variants.items():
            detail = ", ".join(f"{key}={chosen[key]}" for key in differing if chosen.get(key) is not None)
            names[identity] = f"{preset} ({detail})" if detail else preset
    return lambda row: names[variant(row)]


def by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows of every reduction under its name, without those of the unpruned model."""
    reduced = [row for row in rows if row["reduction"] != FULL]
    label = labeller(reduced)
    grouped: dict[str, list[Row]] = {}
    for row in reduced:
        grouped.setdefault(label(row), []).append(row)
    return grouped


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes rows so that `read_csv` returns them unchanged.

    Text stands as it is, everything else as JSON, an absent key as an empty cell. Text that reads as JSON (a git hash
    made of digits, say) is quoted, lest a spreadsheet or `read_csv` take it for a number.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
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
    return json.dumps([trained, row.get("protocol"), variant(row), _ratio(row)])


def _study_key(row: Row) -> str:
    size = [row.get("orders_full") or row.get("orders"), row.get("params_full") or row.get("params")]
    return json.dumps([[row.get(key) for key in ("task", "source", "model", "experiment", "protocol")], size])


def _presentation_order(row: Row) -> tuple[Any, ...]:
    name = row["reduction"]
    if name in FLOORS:
        rank = len(FIRST) + 2 + FLOORS.index(name)
    else:
        rank = {FULL: 0, **{first: 1 + i for i, first in enumerate(FIRST)}}.get(name, len(FIRST) + 1)
    place = [str(row.get(key)) for key in ("task", "model", "experiment")]
    return (
        *place,
        row.get("protocol") == "paper",
        _study_key(row),
        rank,
        variant(row),
        _ratio(row),
        row.get("seed") or 0,
    )


def _ratio(row: Row) -> float:
    return float(row.get("ratio") or 0.0)


def _timestamp(row: Row) -> str:
    return str(row.get("timestamp") or "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(values: Iterable[Any]) -> float | int:
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else statistics.fmean(listed)
