"""The tab-separated files of the Long Range Arena's release: ListOps and the AAN pairs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from s5c.errors import UserError

LISTOPS = {split: f"basic_{name}.tsv" for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))}
AAN = {
    split: f"new_aan_pairs.{name}.tsv" for split, name in (("train", "train"), ("validation", "eval"), ("test", "test"))
}


def find(folder: Path, files: dict[str, str], name: str) -> Path | None:
    """Returns the folder of the three files: the given one, or `name` below it or below lra_release."""
    release = folder / "lra_release"
    for candidate in (folder, folder / name, release / name, release / "lra_release" / name):
        if (candidate / files["train"]).is_file():
            return candidate
    return None


def listops(path: Path) -> Iterator[tuple[str, int]]:
    """Yields source and target of each row."""
    for number, row in _rows(path):
        if number == 1 and row == ["Source", "Target"]:
            continue
        if len(row) != 2 or not row[1].strip().isdigit() or int(row[1]) > 9:
            raise UserError(f"{path}, line {number}: expected an expression, a tab and a digit, got {_shown(row)}.")
        yield row[0], int(row[1])


def pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields both texts and the label of each row (label, id, id, text, text)."""
    for number, row in _rows(path):
        if len(row) != 5 or row[0].strip() not in ("0", "1", "0.0", "1.0"):
            raise UserError(
                f"{path}, line {number}: expected five columns (label 0 or 1, two ids, two texts), got {_shown(row)}."
            )
        yield row[3], row[4], int(float(row[0]))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows with the number of their (last) line."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the set has three files.")
    csv.field_size_limit(2**31 - 1)
    line = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter="\t", strict=True)
            for row in reader:
                line = reader.line_num
                yield line, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}, after line {line}: {error}. The file is damaged. Get it again.") from error
    if line == 0:
        raise UserError(f"{path} is empty. Get it again.")


def _shown(row: list[str]) -> str:
    shown = [field if len(field) <= 20 else f"{field[:20]}..." for field in row[:6]]
    return f"{len(row)} columns {shown}"
