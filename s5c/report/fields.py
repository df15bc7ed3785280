"""Figures of templates (`s5c.report.templates`): what stored rows and tables say, as text.

    ARM                                       is the name of an arm
    ARM / ARM                                 the first that is stored; `/ –` for neither
    ARM over ARM, with lead or errors         points ahead; the same in standard errors
    orders, orders.LAYER with a format        of all layers the range, or of one
    COLUMN ~ COLUMN of a table                their rank correlation; of several rows the range of one column

A second ARM after ` / ` is marked with a dagger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from s5c.errors import UserError, unknown
from s5c.report import cells
from s5c.report.arms import asked, label
from s5c.report.csvfile import read_csv
from s5c.report.row import Averaged, Row, value
from s5c.report.standing import lead

OTHER = "†"
"""Marks a figure of the second choice of an arm."""
PROTECT = "+protect"


def of_rows(
    rows: Sequence[Averaged], arm: str, targets: Sequence[str], key: str = "test_accuracy", form: str = ""
) -> str:
    """Returns figures of one arm, in cells of a table if there are several.

    Args:
        rows: averaged rows of the study.
        arm: its name; `ARM / ARM` takes the first that is stored, `ARM over ARM` compares two.
        targets: as `s5c.report.arms.asked` calls them.
        key: a column of a row, `lead` or `errors`.
        form: of numbers.

    Raises:
        UserError: There is no such figure.
    """
    if " over " in arm:
        first, _, second = arm.partition(" over ")
        return " | ".join(_lead(rows, (first, second), one, key, form) for one in targets)
    name, mark = _chosen(rows, arm)
    if name == cells.NOTHING:
        return " | ".join(cells.NOTHING for _ in targets)
    return " | ".join(_figure(rows, name, one, key, form) + mark for one in targets)


def _chosen(rows: Sequence[Row], arm: str) -> tuple[str, str]:
    known = {label(row) for row in rows}
    choices = [part.strip() for part in arm.split(" / ")]
    for place, name in enumerate(choices):
        if name in known or name == cells.NOTHING:
            return name, OTHER if place and name in known else ""
    raise unknown("arm", choices[0], known)


def _figure(rows: Sequence[Averaged], arm: str, target: str, key: str, form: str) -> str:
    at = {asked(row): row for row in rows if label(row) == arm}
    if target not in at:
        raise unknown(f"target of {arm}", target, at)
    row = at[target]
    name, _, layer = key.partition(".")
    figure = value(row, name)
    if figure is not None and layer:
        figure = figure[int(layer)]
    if figure is None:
        raise UserError(f"A template asks for {key} of {arm} at {target}: there is no such figure.")
    if form:
        return formatted(figure if isinstance(figure, list) else [figure], form)
    return cells.loss(row) if key == "points_lost" else cells.percent(row, key)


def _lead(rows: Sequence[Averaged], arms: tuple[str, str], target: str, key: str, form: str) -> str:
    found = []
    for name in arms:
        chosen = _chosen(rows, name)[0]
        at = {asked(row): row for row in rows if label(row) == chosen}
        if target not in at:
            raise unknown(f"target of {chosen}", target, at)
        found.append(at[target])
    ahead = lead(*found)
    if ahead is None:
        raise UserError(f"A template asks for {' over '.join(arms)} at {target}: no model was reduced by both.")
    if key == "errors":
        if ahead.error is None:
            raise UserError(f"A template asks for {' over '.join(arms)} at {target}: its error is not known.")
        return formatted([ahead.points / ahead.error if ahead.error else 0.0], form or ".1f")
    return formatted([ahead.points], form) if form else str(ahead)


def of_file(path: Path, conditions: str, column: str, form: str = "g") -> str:
    """Returns figures of those rows of a table that meet some conditions: of several the range, of text the one.

    Args:
        path: of the table.
        conditions: `COLUMN=VALUE`, with commas between.
        column: which, or `COLUMN ~ COLUMN` for their rank correlation.
        form: of numbers.

    Raises:
        UserError: There is no such figure.
    """
    if not path.is_file():
        raise unknown("file", path.name, (other.name for other in path.parent.glob("*.csv")))
    rows = read_csv(path)
    for condition in re.split(r",\s*(?=[\w.]+=)", conditions):
        key, _, wanted = condition.partition("=")
        if not any(key in row for row in rows):
            raise unknown(f"column of {path.name}", key, rows[0])
        rows = [row for row in rows if _written(row.get(key)) == wanted]
    columns = [part.strip() for part in column.split("~")]
    if not rows or any(name not in rows[0] for name in columns):
        raise UserError(f"A template asks {path.name} for {column} where {conditions}: there is no such figure.")
    if len(columns) == 2:
        from scipy.stats import spearmanr  # slow to import, and few reports need it

        x, y = ([row[name] for row in rows] for name in columns)
        return formatted([spearmanr(x, y).statistic], form)
    return formatted([row[column] for row in rows], form)


def _written(value: object) -> str:
    """Returns a cell of a CSV as markers write it: 0 for 0.0, true for True."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def formatted(values: Iterable[float], form: str) -> str:
    """Returns one number, or the range of several, by a format of Python's or the name of one of `cells`."""
    named: dict[str, Callable[[float], str]] = {
        "signed": cells.signed, "ms": cells.milliseconds, "s": cells.seconds, "B": cells.size
    }  # fmt: skip
    show = named.get(form, lambda value: format(value, form))
    listed = list(values)
    ends = list(dict.fromkeys([show(min(listed)), show(max(listed))]))
    return " to ".join(ends)


def older(folders: Mapping[str, Sequence[Row]]) -> str:
    """Returns a sentence on the rows that are older than the option `unstable`, or one that there are none.

    Args:
        folders: rows by the name of the folder they are stored in.
    """
    names = {folder: {label(row) for row in rows} for folder, rows in folders.items()}
    found = [
        folder
        for folder, known in names.items()
        if any(PROTECT in name and name.replace(f" {PROTECT}", "") not in known for name in known)
    ]
    if not found:
        return "Every arm is also scored by its published formula where modes are unstable."
    listed = ", ".join(f"`{folder}`" for folder in found)
    return (
        f"{OTHER} The networks of {listed} have unstable modes (|Λ̄| ≥ 1). Their stored rows never remove those "
        f"(`{PROTECT}` in the names of arms); the published formulas, which are the default now, score them like all "
        "others and have not been run there yet."
    )
