"""The tab-separated files of the Long Range Arena's release: ListOps and the AAN pairs.

What spreadsheets and scripts add when they write such a file again is read: a byte-order mark, UTF-16, CRLF, blank
lines, a header in any case.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path

from s5c.data.source.folder import find_file
from s5c.errors import UserError

LISTOPS = {split: f"basic_{name}.tsv" for split, name in (("train", "train"), ("validation", "val"), ("test", "test"))}
AAN = {
    split: f"new_aan_pairs.{name}.tsv" for split, name in (("train", "train"), ("validation", "eval"), ("test", "test"))
}

RELEASE = ("lra_release.gz", "lra_release.tar.gz", "lra_release.tgz", "lra_release.tar")
"""Names of the Long Range Arena's release, which is a packed tar archive whatever it is called."""

FIELD = 2**24
"""Characters of a field at most, a hundred times those of the longest paper: behind an open quote all is one field."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
COLUMN = r"[A-Za-z_][\w .-]{0,30}"
"""A name of a column, such as Source, input1_id or "text 1"; expressions and ids have other characters first."""


def find(folder: Path, files: dict[str, str], name: str) -> Path | None:
    """Returns the folder of the three files: the given one, or `name` below it or below lra_release."""
    release = folder / "lra_release"
    for candidate in (folder, folder / name, release / name, release / "lra_release" / name):
        if find_file(candidate, files["train"]) is not None:
            return candidate
    return None


def listops(path: Path) -> Iterator[tuple[str, int]]:
    """Yields source and target of each row."""
    for index, (number, row) in enumerate(_rows(path)):
        if index == 0 and [cell.strip().lower() for cell in row] == ["source", "target"]:
            continue
        if len(row) != 2 or re.fullmatch(r"[0-9](\.0)?", row[1].strip()) is None:
            raise UserError(f"{path}, line {number}: expected an expression, a tab and a digit, got {_shown(row)}.")
        yield row[0], int(row[1].strip()[0])


def pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields both texts and the label of each row (label, id, id, text, text)."""
    for index, (number, row) in enumerate(_rows(path)):
        if index == 0 and _is_header_of_pairs(row):
            continue
        if len(row) != 5 or row[0].strip() not in ("0", "1", "0.0", "1.0"):
            raise UserError(
                f"{path}, line {number}: expected five columns (label 0 or 1, two ids, two texts), got {_shown(row)}."
            )
        yield row[3], row[4], int(row[0].strip()[0])


def _is_header_of_pairs(row: list[str]) -> bool:
    """Says whether a first row names the columns, in the order in which they are read: the texts last."""
    names = [cell.strip().lower() for cell in row]
    if len(names) != 5 or not all(re.fullmatch(COLUMN, name) for name in names):
        return False
    return "label" in names[0] and not any("text" in name for name in names[1:3])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows that are not blank, with the number of their (last) line."""
    found = find_file(path.parent, path.name)
    if found is None:
        raise UserError(f"{path} is missing: the set has three files.")
    csv.field_size_limit(FIELD)
    line, empty = 0, True
    try:
        with found.open("rb") as file:
            encoding = "utf-16" if file.read(2) in UTF16 else "utf-8-sig"
        with found.open(encoding=encoding, newline="") as text:
            reader = csv.reader(text, delimiter="\t", strict=True)
            for row in reader:
                line = reader.line_num
                if any(cell.strip() for cell in row):
                    yield line, row
                    empty = False
    except (csv.Error, UnicodeError) as error:
        raise UserError(f"{path}, after line {line}: {error}. The file is damaged. Get it again.") from error
    if empty:
        raise UserError(f"{path} is empty. Get it again.")


def _shown(row: list[str]) -> str:
    shown = [field if len(field) <= 20 else f"{field[:20]}..." for field in row[:6]]
    return f"{len(row)} columns {shown}"
