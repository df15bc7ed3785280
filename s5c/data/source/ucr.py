"""The files of the UCR, UEA and TSER archives: `NAME_TRAIN.ts` and `NAME_TEST.ts`, or `.arff`, or `.tsv`.

.ts     @-lines, then one example a line: dimensions with ':' between, values with ',', at last class or target
.arff   @attribute lines; univariate: values and the class; multivariate: 'v,v\\nv,v',class
.tsv    the class, then the values, tabs between; NaN at the end is padding
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from s5c.data.source.folder import entries
from s5c.data.source.sequences import Sequences, real, split_named, text_of
from s5c.errors import UserError

SUFFIXES = (".ts", ".arff", ".tsv")
MISSING = ("?", "nan", "")


def find(place: Path) -> dict[str, Path]:
    """Returns the files of the splits: those in a folder, or those beside a file that is given.

    Raises:
        UserError: there are those of several sets.
    """
    folder, given = (place, None) if place.is_dir() else (place.parent, place)
    named: dict[tuple[str, str], dict[str, Path]] = {}
    for path in entries(folder) if folder.is_dir() else ():
        stem, _, end = path.stem.rpartition("_")
        split = split_named(end)
        if path.suffix.lower() in SUFFIXES and split is not None and path.is_file():
            named.setdefault((path.suffix.lower(), stem), {})[split] = path
    if given is not None:
        if given.suffix.lower() not in SUFFIXES:
            return {}
        return next((files for files in named.values() if given in files.values()), {"train": given})
    for suffix in SUFFIXES:
        sets = [name for kind, name in named if kind == suffix]
        if len(sets) > 1:
            raise UserError(
                f"{folder} holds several sets, {', '.join(sorted(sets)[:8])}: give one of its files, such as "
                f"task.data_dir={next(iter(named[suffix, sorted(sets)[0]].values()))}."
            )
        if sets:
            return named[suffix, sets[0]]
    return {}


def title(files: dict[str, Path]) -> str:
    """Returns the name of a set, by its files."""
    return next(iter(files.values())).stem.rpartition("_")[0] or "own sequences"


def read(path: Path) -> Sequences:
    """Returns the examples of a file.

    Raises:
        UserError: a line is not what the format has there.
    """
    readers: dict[str, Callable[[Path], Sequences]] = {".ts": _ts, ".arff": _arff, ".tsv": _tsv}
    return readers[path.suffix.lower()](path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        text = line.strip()
        if text and not text.startswith(("#", "%")):
            yield number, text


def _numbers(text: str, place: str, *, padded: bool = False) -> np.ndarray:
    """Returns values between commas; what is missing at the end is padding, where the format pads."""
    cells = [cell.strip() for cell in text.split(",")]
    while padded and cells and cells[-1].lower() in MISSING:
        cells.pop()
    for index, cell in enumerate(cells):
        if cell.lower() in MISSING:
            raise UserError(
                f"{place}: value {index + 1} is missing ({cell or 'nothing'}); expected a number. Fill it in, or leave "
                "the line out."
            )
    try:
        return np.array(cells, np.float64)
    except ValueError:
        index, cell = next((i, cell) for i, cell in enumerate(cells) if _number(cell) is None)
        raise UserError(f"{place}: value {index + 1} is {cell[:40]!r}; expected a number.") from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _example(found: Sequences, dimensions: list[np.ndarray], where: str) -> None:
    lengths = sorted({len(one) for one in dimensions})
    if len(lengths) > 1:
        raise UserError(f"{where}: dimensions of {lengths[0]} and {lengths[-1]} steps; expected equally many in each.")
    found.values.append(real(np.stack(dimensions, axis=1), where))
    found.where.append(where)


def _ts(path: Path) -> Sequences:
    """Reads the .ts format."""
    header: dict[str, list[str]] = {}
    lines = _lines(path)
    for number, line in lines:
        if not line.startswith("@"):
            raise UserError(f"{path}, line {number}: expected a line that begins with @, and @data before the values.")
        key, *words = line[1:].split()
        if key.lower() == "data":
            break
        header[key.lower()] = words
    else:
        raise UserError(f"{path}: expected a line @data; there is none. Either it is cut off, or no .ts file.")
    if header.get("timestamps", ["false"])[0].lower() == "true":
        raise UserError(f"{path}: its values have time stamps; expected evenly sampled values, @timeStamps false.")
    targets = header.get("targetlabel", ["false"])[0].lower() == "true"
    declared = tuple(header.get("classlabel", ["false"])[1:])
    if not targets and header.get("classlabel", ["false"])[0].lower() != "true":
        raise UserError(f"{path}: expected @classLabel true, or @targetLabel true: there is nothing to learn from it.")
    dimensions = int(header["dimensions"][0]) if header.get("dimensions", [""])[0].isdigit() else None
    found = Sequences(declared=declared, **({"targets": []} if targets else {"labels": []}))  # type: ignore[arg-type]
    for number, line in lines:
        where = f"{path}, line {number}"
        *parts, answer = line.split(":")
        if not parts or (dimensions is not None and len(parts) != dimensions):
            wanted = "dimensions" if dimensions is None else f"{dimensions} dimension{'s' * (dimensions != 1)}"
            raise UserError(
                f"{where}: expected {wanted} and an answer with ':' between, got {len(line.split(':'))} parts."
            )
        _example(found, [_numbers(part, f"{where}, dimension {i}") for i, part in enumerate(parts, 1)], where)
        _answered(found, answer.strip(), where)
    return found


def _answered(found: Sequences, answer: str, where: str) -> None:
    if found.targets is not None:
        value = _number(answer)
        if value is None or not np.isfinite(value):
            raise UserError(f"{where}: the target is {answer[:40]!r}; expected a number.")
        found.targets.append(np.array([value]))
        return
    assert found.labels is not None
    if found.declared and answer not in found.declared:
        raise UserError(
            f"{where}: the class is {answer[:40]!r}; expected one of those that the file declares: "
            f"{', '.join(found.declared[:20])}."
        )
    if not answer:
        raise UserError(f"{where}: the class is missing; expected one at the end of the line.")
    found.labels.append(answer)


def _arff(path: Path) -> Sequences:
    """Reads the .arff format, univariate or with one relational attribute."""
    relational, nominal, attributes, lines = False, "", 0, _lines(path)
    for number, line in lines:
        word = line.split(None, 1)[0].lower()
        if word == "@data":
            break
        if word not in ("@relation", "@attribute", "@end"):
            raise UserError(f"{path}, line {number}: expected @relation, @attribute, @end or @data, got {line[:40]!r}.")
        attributes += word == "@attribute"
        relational |= word == "@attribute" and line.lower().endswith("relational")
        nominal = line if word == "@attribute" else nominal
    else:
        raise UserError(f"{path}: expected a line @data; there is none. Either it is cut off, or no .arff file.")
    classes = re.search(r"\{(.*)\}\s*$", nominal)
    declared = tuple(_bare(name) for name in classes[1].split(",")) if classes else ()
    if classes is None and not re.search(r"\s(numeric|real|integer)\s*$", nominal, re.IGNORECASE):
        raise UserError(
            f"{path}: the last attribute is {nominal[:60]!r}; expected classes {{a,b}}, or numeric targets."
        )
    found = Sequences(declared=declared, **({"labels": []} if classes else {"targets": []}))  # type: ignore[arg-type]
    for number, line in lines:
        where = f"{path}, line {number}"
        quoted = re.fullmatch(r"""(['"])(.*)\1\s*,([^'"]*|'[^']*')""", line)
        if relational and quoted is None:
            raise UserError(f"{where}: expected the dimensions in quotes, a comma and the answer.")
        text, answer = (quoted[2], quoted[3]) if relational and quoted else line.rpartition(",")[::2]
        parts = re.split(r"\\n|\n", text)
        if not relational and line.count(",") != attributes - 1:
            raise UserError(f"{where}: {line.count(',') + 1} values; expected {attributes}, one for each attribute.")
        values = [_numbers(part, f"{where}, dimension {i}", padded=True) for i, part in enumerate(parts, 1)]
        _example(found, values, where)
        _answered(found, _bare(answer), where)
    return found


def _bare(name: str) -> str:
    return name.strip().strip("'\"").strip()


def _tsv(path: Path) -> Sequences:
    """Reads the .tsv format of the UCR archive."""
    found = Sequences(labels=[])
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        answer, _, rest = line.partition("\t")
        if not rest:
            raise UserError(f"{where}: expected a class and values with tabs between, got {line[:40]!r}.")
        _example(found, [_numbers(rest.replace("\t", ","), where, padded=True)], where)
        value = _number(answer)
        whole = value is not None and value.is_integer()
        _answered(found, f"{value:.0f}" if whole and value is not None else answer.strip(), where)
    return found
