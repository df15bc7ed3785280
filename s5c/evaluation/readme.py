"""README.md's tables and figures, filled in from what is stored under results/published.

`<!-- table: WORDS -->` and `<!-- /table -->` stand around a table of the report: `zoo`, `papers`, or
`accuracy|largest FOLDER [EXPERIMENT] [RATIOS] [arms=NAME,NAME]`, arms by their names without spaces and without
parentheses at the end. A comment that starts with `text:` is a template, and what follows it until `<!-- /text -->` is
the template with every field replaced:

    {FOLDER[/EXPERIMENT]; ARM; TARGET[, TARGET ...][; KEY[; FORMAT]]}    of averaged rows; accuracy if no key
    {FILE.csv; COLUMN=VALUE[, COLUMN=VALUE ...]; COLUMN[; FORMAT]}       of several rows the range

`COLUMN ~ COLUMN` is their rank correlation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from s5c.errors import UserError, unknown
from s5c.evaluation import cells, claims, summary
from s5c.evaluation.arms import FULL, Row, asked, label
from s5c.evaluation.average import means
from s5c.evaluation.collect import TABLE_FILE, Study, read_csv, restore, studies
from s5c.evaluation.metrics import rank_correlation

FOLDER = Path("results/published")
README = Path("README.md")
PAPERS = FOLDER / "papers.csv"

MARKED = re.compile(r"(<!-- (table|text):\s+(.+?)\s*-->\n).*?(<!-- /\2 -->)", re.DOTALL)
FIELD = re.compile(r"\{([^{}]+;[^{}]+)\}")
KINDS = ("accuracy", "largest", "papers", "zoo")


def folders(root: Path) -> list[Path]:
    """Returns the folders of stored runs in a checkout."""
    return sorted(path.parent for path in (root / FOLDER).glob(f"*/{TABLE_FILE}"))


def stored_rows(root: Path) -> list[Row]:
    """Returns every stored row of a checkout."""
    return [row for folder in folders(root) for row in restore(folder)[0]]


def models_table(models: Mapping[str, str]) -> str:
    """Returns the table of the zoo, which holds a line for every name."""
    return cells.table(["checkpoint=", "Model"], [[f"`zoo:{name}`", line] for name, line in models.items()])


def filled(root: Path, models: Mapping[str, str]) -> str:
    """Returns README.md with everything between its markers made anew.

    Args:
        root: the checkout.
        models: what the zoo holds: a line for every name.

    Raises:
        UserError: a marker asks for what is not stored.
    """

    def made(match: re.Match[str]) -> str:
        text = _table(match[3], root, models) if match[2] == "table" else _text(match[3], root)
        return f"{match[1]}{text}\n{match[4]}"

    return MARKED.sub(made, (root / README).read_text("utf-8"))


# ---- tables


def _table(words: str, root: Path, models: Mapping[str, str]) -> str:
    kind, *where = words.split()
    if kind == "zoo":
        return models_table(models)
    if kind == "papers":
        return claims.claims_table(root / PAPERS, stored_rows(root))
    if kind not in KINDS:
        raise unknown("table in README.md", kind, KINDS)
    ratios = [float(part) for word in where[1:] if word[0].isdigit() for part in word.split(",")]
    arms = [arm for word in where[1:] if word.startswith("arms=") for arm in word.removeprefix("arms=").split(",")]
    wanted = [word for word in where[1:] if not word[0].isdigit() and not word.startswith("arms=")]
    chosen = _studies(root, "".join(where[:1]), wanted, arms)
    make = (lambda study: summary.accuracies(study, ratios)) if kind == "accuracy" else summary.largest_ratios
    return "\n\n".join(make(study) for study in chosen)


def _studies(root: Path, folder: str, experiments: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Study]:
    """Returns the studies of a folder: of these experiments, with the unpruned model and these arms, or all."""
    known = [path.name for path in folders(root)]
    if folder not in known:
        raise unknown("folder of README.md", folder, known)
    found = studies(_of_arms(restore(root / FOLDER / folder)[0], arms))
    named = {study.slug: str(study.rows[0].get("experiment")) for study in found}
    for wanted in experiments:
        if wanted not in named.values():
            raise unknown("experiment of README.md", wanted, named.values())
    return [study for study in found if not experiments or named[study.slug] in experiments]


def _of_arms(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    names = [re.sub(r" \(.*\)$", "", label(row)).replace(" ", "_") for row in rows]
    for arm in arms:
        if arm not in names:
            raise unknown("arm of README.md", arm, sorted(set(names)))
    return [row for row, name in zip(rows, names, strict=True) if not arms or name in arms or row["reduction"] == FULL]


# ---- templates


def _text(template: str, root: Path) -> str:
    averaged: dict[str, list[Row]] = {}

    def field(match: re.Match[str]) -> str:
        where, *rest = (part.strip() for part in match[1].split(";"))
        if where.endswith(".csv"):
            return _of_file(root / FOLDER / where, *rest)
        if where not in averaged:
            folder, _, experiment = where.partition("/")
            chosen = _studies(root, folder, [experiment] if experiment else [])
            averaged[where] = [row for study in chosen for row in means(study)]
        return _of_rows(averaged[where], *rest)

    return FIELD.sub(field, template)


def _of_rows(rows: Sequence[Row], arm: str, targets: str, key: str = "test_accuracy", form: str = "") -> str:
    found = {asked(row): row for row in rows if label(row) == arm}
    if not found:
        raise unknown("arm of README.md", arm, {label(row) for row in rows})
    shown = []
    for wanted in (part.strip() for part in targets.split(",")):
        if wanted not in found:
            raise unknown(f"target of {arm} in README.md", wanted, found)
        row = found[wanted]
        if row.get(key) is None:
            raise UserError(f"README.md asks for {key} of {arm} at {wanted}: there is no such figure.")
        if form:
            shown.append(_formatted([row[key]], form))
        else:
            shown.append(cells.loss(row) if key == "points_lost" else cells.percent(row, key))
    return " | ".join(shown)


def _of_file(path: Path, conditions: str, column: str, form: str = "g") -> str:
    if not path.is_file():
        raise unknown("file of README.md", path.name, (other.name for other in path.parent.glob("*.csv")))
    rows = read_csv(path)
    for condition in re.split(r",\s*(?=[\w.]+=)", conditions):
        key, _, wanted = condition.partition("=")
        if not any(key in row for row in rows):
            raise unknown(f"column of {path.name} in README.md", key, rows[0])
        rows = [row for row in rows if _written(row.get(key)) == wanted]
    columns = [part.strip() for part in column.split("~")]
    if not rows or any(name not in rows[0] for name in columns):
        raise UserError(f"README.md asks {path.name} for {column} where {conditions}: there is no such figure.")
    if len(columns) == 2:
        x, y = (np.array([row[name] for row in rows]) for name in columns)
        return _formatted([rank_correlation(x, y)], form)
    return _formatted([row[column] for row in rows], form)


def _written(value: object) -> str:
    """Returns a cell of a CSV as markers write it: 0 for 0.0, true for True."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _formatted(values: Iterable[float], form: str) -> str:
    """Returns one number, or the range of several, by a format of Python's or the name of one of `cells`."""
    named: dict[str, Callable[[float], str]] = {
        "signed": cells.signed, "ms": cells.milliseconds, "s": cells.seconds, "B": cells.size
    }  # fmt: skip
    show = named.get(form, lambda value: format(value, form))
    listed = list(values)
    ends = list(dict.fromkeys([show(min(listed)), show(max(listed))]))
    return " to ".join(ends)
