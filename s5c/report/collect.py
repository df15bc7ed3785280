"""Gathers the rows and arrays that jobs wrote, and stores them together.

A row describes one evaluated model: the unpruned one (`reduction` is "full") or one of its reductions. It is a flat
mapping that survives JSON. Rows may carry more keys than are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from s5c.atomic import save_arrays
from s5c.checksums import CHECKSUM, sealed_table, unsealed_table
from s5c.errors import UserError
from s5c.report import schemaless
from s5c.report.arms import asked, called, differences, identity, label, named, on_test, rank, settings
from s5c.report.arrayfile import read_arrays
from s5c.report.csvfile import read_csv, write_csv
from s5c.report.paired import add_paired
from s5c.report.row import FULL, Row, as_row, value
from s5c.report.rowfile import moment, read_rows

LATENCY = ("latency", "speedup", "backend", "temp_bytes", "load")
"""How the keys begin that the measurement of latency and memory fills in, all together or none."""

COMPARED = ("task", "source", "model", "experiment", "protocol")
APART = {
    "test_examples": ", {:,} test examples",
    "test_skip": ", {:,} others left out",
    "other_data": ", data {}",
    "recipe": ", recipe {}",
    "metric": ", by {}",
}
"""What rows that are compared have in common, and how the titles of studies say the less usual of it."""

Spectra = Mapping[str, Mapping[str, NDArray[Any]]]

ROWS_FILE = "rows.jsonl"
TABLE_FILE = "table.csv"
_noted: ContextVar[list[str] | None] = ContextVar("_noted", default=None)
SPECTRA_FILE = "spectra.npz"

PROTECTED = "unstable modes (|Lambda_bar| >= 1) are never removed"
"""What a row says whose model has such modes, stored before methods had the option `unstable`."""


@dataclass(frozen=True, eq=False)
class Study:
    """The rows that may be compared: same task, data, model, size, recipe and protocol; equal to itself alone.

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
        to single examples are stored, the paired errors of `s5c.report.paired`.

    Raises:
        UserError: A folder does not exist, a row is damaged, or there are no rows at all.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"There is no folder {str(path)!r}.\nGive the folder of a run or of a sweep: runs=results/..."
            )
    files = sorted({file for path in paths for file in path.rglob(ROWS_FILE)})
    found: dict[str, list[Row]] = {}
    for row in _protecting([row for file in files for row in read_rows(file)]):
        found.setdefault(_repetition_key(row), []).append(row)
    newest = _of_different_seeds([_newest(repetitions) for repetitions in found.values()])
    if not newest:
        raise UserError(
            f"No rows below {', '.join(repr(str(path)) for path in paths) or '(no folder given)'}.\n"
            f"Every finished train, reduce or evaluate job leaves a {ROWS_FILE} in its folder: "
            "run one first, or give another folder."
        )
    disk = {row.get("trained_id"): row.get("checkpoint_bytes") for row in newest if row["reduction"] == FULL}
    for row in newest:
        row.setdefault("checkpoint_bytes_full", disk.get(row.get("trained_id")))
    return add_paired(in_order(newest))


def gather(paths: Sequence[Path]) -> tuple[list[Row], Spectra, list[Path]]:
    """Returns the rows and arrays of runs and of stored studies, and the folders of the latter.

    Args:
        paths: Folders of runs, as for `collect`. One without any may hold what `store` wrote, at any depth but for
            folders called `report`.

    Raises:
        UserError: As `collect` and `restore`.
    """
    folders = {path: _stored(path) for path in paths if not next(path.rglob(ROWS_FILE), None)}
    runs = [path for path in paths if not folders.get(path)]
    rows = collect(runs) if runs else []
    arrays = read_spectra(rows)
    known = {_repetition_key(row) for row in rows}
    stored = list(dict.fromkeys(folder for found in folders.values() for folder in found))
    for folder in stored:
        found, spectra = restore(folder)
        rows += [row for row in found if _repetition_key(row) not in known]  # what is stored twice counts once
        known |= {_repetition_key(row) for row in found}
        arrays = {**spectra, **arrays}
    return in_order(rows), arrays, stored


def _stored(path: Path) -> list[Path]:
    tables = sorted(path.rglob(TABLE_FILE))
    return [table.parent for table in tables if "report" not in table.relative_to(path).parts]


def with_latency(row: Row, older: Row | None) -> Row:
    """Returns a row with the latency and memory that an older row of the same network has, if it has none itself."""
    if older is None or row.get("latency_ms") is not None or older.get("latency_ms") is None:
        return row
    kept = {key: value for key, value in older.items() if key.startswith(LATENCY)}
    return as_row({**row, "latency_device": older.get("device"), **kept})


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Returns rows in the order in which reports present them, the arms of every study named apart."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(study_key(row), []).append(row)
    return sorted((row for study in grouped.values() for row in named(study)), key=_presentation_order)


def describing_itself(row: Row) -> Row:
    """Returns a row with all that says what it is; one without a schema gets it from what its preset stood for then."""
    if "schema" in row:
        return row
    told: Row = {"arm": label(row), "settings": settings(row), "differences": differences(row)}
    preset = row["reduction"] if row["reduction"] in schemaless.PRESETS else None
    return {**row, "schema": schemaless.SCHEMA, "preset": preset, **told}


def read_spectra(rows: Iterable[Row]) -> dict[str, dict[str, NDArray[Any]]]:
    """Returns the arrays of `spectra.npz` for every folder of `rows` that has a complete one."""
    found = {row["folder"]: _arrays(Path(row["folder"]) / SPECTRA_FILE) for row in rows if "folder" in row}
    return {folder: arrays for folder, arrays in sorted(found.items()) if arrays}


def store(rows: Sequence[Row], spectra: Spectra, directory: Path) -> None:
    """Writes rows and arrays of any number of runs into one folder, for `restore`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(sealed_table([describing_itself(row) for row in rows]), directory / TABLE_FILE)
    arrays = {f"{folder}/{name}": array for folder, found in spectra.items() for name, array in found.items()}
    if arrays:
        save_arrays(directory / SPECTRA_FILE, arrays)
    else:
        (directory / SPECTRA_FILE).unlink(missing_ok=True)


def restore(directory: Path) -> tuple[list[Row], dict[str, dict[str, NDArray[Any]]]]:
    """Returns the rows and arrays that `store` wrote.

    Raises:
        UserError: A row is not what was written, or rows are missing.
    """
    spectra: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in _arrays(directory / SPECTRA_FILE).items():
        folder, _, key = name.rpartition("/")
        spectra.setdefault(folder, {})[key] = array
    table = directory / TABLE_FILE
    stored = read_csv(table)
    try:
        rows = unsealed_table(stored)
        if not rows:
            raise ValueError("it has no rows")
    except ValueError as error:
        found = UserError(
            f"{table} is damaged: {error}. Make the report again from its runs, or copy the file again from where it "
            f"came.\nIf you have changed it on purpose, take the column {CHECKSUM!r} out."
        )
        if (noted := _noted.get()) is None:
            raise found from error
        noted.append(str(found))
        rows = [{key: value for key, value in row.items() if key != CHECKSUM} for row in stored]
    return in_order(_protecting([as_row(row) for row in rows])), spectra


@contextmanager
def noting_damage() -> Iterator[list[str]]:
    """While active, `restore` notes what is wrong with a table and takes it as it is, for a check that tells all."""
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def studies(rows: Iterable[Row]) -> list[Study]:
    """Returns the rows split into sets that may be compared, in order of title."""
    grouped: dict[str, list[Row]] = {}
    for row in in_order(rows):
        grouped.setdefault(study_key(row), []).append(row)
    found: list[Study] = []
    for members in grouped.values():
        first = members[0]
        parts = [str(name) for key in ("task", "model", "experiment") if (name := value(first, key))]
        title = ", ".join(parts) + (", selected on test data" if on_test(first) else "")
        title += "".join(_told_apart(first, [rows[0] for rows in grouped.values()]))
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", title)
        twins = sum(study.slug == slug or study.slug.startswith(f"{slug}--") for study in found)
        found.append(Study(title, f"{slug}--{twins + 1}" if twins else slug, members))
    return found


def study_key(row: Row) -> str:
    """Returns a text that rows share which may be compared."""
    size = [row.get("orders_full") or row.get("orders"), row.get("params_full") or row.get("params")]
    return json.dumps([[value(row, key) for key in (*COMPARED, *APART)], size])


def _told_apart(row: Row, others: Iterable[Row]) -> Iterator[str]:
    """Yields what sets a row's study apart from others of the same title."""
    alike = [other for other in others if all(value(other, key) == value(row, key) for key in COMPARED)]
    for key, form in APART.items():
        if value(row, key) is not None and len({value(other, key) for other in alike}) > 1:
            yield form.format(value(row, key))


def _protecting(rows: Sequence[Row]) -> list[Row]:
    """Returns rows with the option that those lack which are older than it: every method protected unstable modes then.

    Where no model of an arm has any, of no seed, that made no difference, and they count as made with today's preset.
    """

    def older(row: Row) -> bool:
        return row.get("method") in schemaless.LATER and "unstable" not in settings(row)

    def arm(row: Row) -> tuple[str, str]:
        return study_key(row), identity(row)

    told = {arm(row) for row in rows if older(row) and any(PROTECTED in str(note) for note in row.get("notes") or [])}
    return [_protected(row) if older(row) and arm(row) in told else row for row in rows]


def _protected(row: Row) -> Row:
    added = {"unstable": "protect"}
    row = {**row, "options": {**(row.get("options") or {}), **added}}
    if "schema" not in row:
        return row
    row |= {"settings": {**settings(row), **added}, "differences": {**differences(row), **added}}
    return {**row, "arm": called(row["reduction"], row["differences"])}


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    return read_arrays(file, "figures are drawn without it")


def _repetition_key(row: Row, of_any_seed: bool = False) -> str:
    trained = row.get("trained_id") or row.get("parent") or row.get("checkpoint")
    return json.dumps(
        [study_key(row), trained, identity(row), asked(row), None if of_any_seed else row.get("reduction_seed")]
    )


def _newest(repetitions: Sequence[Row]) -> Row:
    row, *others = sorted(repetitions, key=_timestamp)
    for newer in others:
        row = with_latency(newer, row)
    return row


def _of_different_seeds(rows: Sequence[Row]) -> list[Row]:
    """Returns rows without those that only repeat another: the seed of a method that draws nothing changes nothing."""
    results = ("val_loss", "test_loss", "test_accuracy", "orders", "error_h2")
    found: dict[str, Row] = {}
    for row in sorted(rows, key=_timestamp):
        if any(value(row, key) is not None for key in results[:2]):
            outcome = json.dumps([value(row, key) for key in results])
        else:
            outcome = str(row.get("reduction_seed"))
        key = json.dumps([_repetition_key(row, of_any_seed=True), outcome])
        found[key] = with_latency(row, found.get(key))
    return list(found.values())


def _presentation_order(row: Row) -> tuple[Any, ...]:
    place, changed = [str(value(row, key)) for key in ("task", "model", "experiment")], differences(row)
    return (
        *place,
        on_test(row),
        study_key(row),
        rank(row),
        len(changed),  # the preset itself before its variants
        json.dumps([row["reduction"], changed], sort_keys=True),
        identity(row),
        float(row.get("ratio") or 0.0),
        row.get("seed") or 0,
    )


def _timestamp(row: Row) -> float:
    return moment(row)
