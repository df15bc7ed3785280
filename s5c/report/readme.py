"""README.md's tables and figures, filled in from what is stored under results/published.

`<!-- table: WORDS -->` and `<!-- /table -->` stand around a table of the report: `zoo`, `papers`, or

    accuracy|largest FOLDER [EXPERIMENT] [RATIOS] [arms=NAME,NAME]
    leads FOLDER,FOLDER RATIOS arms=NAME,NAME         the first arm ahead of the best of the others
    reported FOLDER RATIOS task=NAME arms=NAME,NAME   what papers report, and arms of a model in the zoo
    rest HEADLINE COMPARISON                          on the test examples of one folder that another has not scored

with arms by their names without spaces and without parentheses at the end; `NAME|protect` is `NAME_+protect` where
there is no NAME. A comment that starts with `text:` is a template, and what follows it until `<!-- /text -->` is the
template with every field replaced (`s5c.report.fields`).

What a sentence says without a figure is stated beside it: `<!-- holds: NUMBER OP NUMBER [OP NUMBER] -->`, with fields
for numbers and <, <=, >, >= or == for OP. README.md is not written while one of these is false.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from s5c.errors import UserError, unknown
from s5c.report import cells, claims, fields, summary, unseen
from s5c.report.arms import label
from s5c.report.average import means
from s5c.report.collect import TABLE_FILE, Study, restore, studies
from s5c.report.row import FULL, Averaged, Row
from s5c.report.standing import lead_table

FOLDER = Path("results/published")
README = Path("README.md")
PAPERS = FOLDER / "papers.csv"

MARKED = re.compile(r"(<!-- (table|text):\s+(.+?)\s*-->\n).*?(<!-- /\2 -->)", re.DOTALL)
FIELD = re.compile(r"\{([^{}]+;[^{}]+)\}")
HOLDS = re.compile(r"<!-- holds:\s+(.+?)\s*-->", re.DOTALL)
KINDS = ("accuracy", "largest", "leads", "papers", "reported", "rest", "zoo")
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


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
        UserError: a marker asks for what is not stored, or something said in words does not hold.
    """
    text = (root / README).read_text("utf-8")
    if wrong := unborne(root, text):
        raise UserError("\n".join(wrong))

    def made(match: re.Match[str]) -> str:
        text = _table(match[3], root, models) if match[2] == "table" else _text(match[3], root)
        return f"{match[1]}{text}\n{match[4]}"

    return MARKED.sub(made, text)


# ---- tables


def _table(words: str, root: Path, models: Mapping[str, str]) -> str:
    kind, *where = words.split()
    if kind == "zoo":
        return models_table(models)
    if kind == "papers":
        return claims.claims_table(root / PAPERS, stored_rows(root))
    if kind not in KINDS:
        raise unknown("table in README.md", kind, KINDS)
    if kind == "rest":
        headline, comparison = (_stored(root, folder) for folder in where)
        return unseen.table(headline, comparison) or f"Nothing in {where[0]} is left over."
    ratios = [part for word in where[1:] if word[0].isdigit() for part in word.split(",")]
    given = dict(word.split("=", 1) for word in where[1:] if "=" in word)
    arms = given["arms"].split(",") if "arms" in given else []
    if kind == "leads":
        averaged = {name: _averaged(root, name) for name in where[0].split(",")}
        first, *others = _labels([row for rows in averaged.values() for row in rows], arms)
        shown = {name.removesuffix("_comparison"): rows for name, rows in averaged.items()}
        return lead_table(shown, first, others, ratios)
    if kind == "reported":
        rows = [row for study in _studies(root, where[0], (), arms) for row in means(study)]
        here = {_network(root, rows): rows}
        return claims.reported_table(root / PAPERS, given["task"], list(map(float, ratios)), here)
    wanted = [word for word in where[1:] if not word[0].isdigit() and "=" not in word]
    chosen = _studies(root, "".join(where[:1]), wanted, arms)
    columns = list(map(float, ratios))
    make = (lambda study: summary.accuracies(study, columns)) if kind == "accuracy" else summary.largest_ratios
    return "\n\n".join(make(study) for study in chosen)


def _averaged(root: Path, folder: str) -> list[Averaged]:
    return [row for study in _studies(root, folder) for row in means(study)]


def _network(root: Path, rows: Sequence[Row]) -> str:
    """Returns network and epochs of the model in the zoo that rows are about, as `claims.reported_table` takes them."""
    name = Path(str(rows[0]["parent"])).name.removeprefix("zoo:")
    card = json.loads((root / "results/zoo" / name / "card.json").read_text("utf-8"))
    model = card["model"]
    sizes = f"{model['n_layers']} layers, {model['d_model']} features, {model['state_size']} states"
    ways = ", both ways" if model.get("bidirectional") else ""
    return f"{model['name'].upper()}, {sizes}{ways}; {card['recipe']['epochs']}"


def _labels(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    """Returns the names of arms that markers write without spaces."""
    known = {label(row).replace(" ", "_"): label(row) for row in rows}
    for arm in arms:
        if arm not in known:
            raise unknown("arm of README.md", arm, sorted(known))
    return [known[arm] for arm in arms]


def _stored(root: Path, folder: str) -> list[Row]:
    known = [path.name for path in folders(root)]
    if folder not in known:
        raise unknown("folder of README.md", folder, known)
    return restore(root / FOLDER / folder)[0]


def _studies(root: Path, folder: str, experiments: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Study]:
    """Returns the studies of a folder: of these experiments, with the unpruned model and these arms, or all."""
    found = studies(_of_arms(_stored(root, folder), arms))
    named = {study.slug: str(study.rows[0].get("experiment")) for study in found}
    for wanted in experiments:
        if wanted not in named.values():
            raise unknown("experiment of README.md", wanted, named.values())
    return [study for study in found if not experiments or named[study.slug] in experiments]


def _of_arms(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    names = [re.sub(r" \(.*\)$", "", label(row)).replace(" ", "_") for row in rows]
    wanted = []
    for arm in arms:
        plain, _, protected = arm.partition("|")
        wanted.append(f"{plain}_+{protected}" if protected and plain not in names else plain)
        if wanted[-1] not in names:
            raise unknown("arm of README.md", arm, sorted(set(names)))
    return [
        row for row, name in zip(rows, names, strict=True) if not arms or name in wanted or row["reduction"] == FULL
    ]


# ---- templates


def _text(template: str, root: Path) -> str:
    averaged: dict[str, list[Averaged]] = {}
    counted: dict[str, int] = {}

    def field(match: re.Match[str]) -> str:
        where, *rest = (part.strip() for part in match[1].split(";"))
        if where.endswith(".csv"):
            return fields.of_file(root / FOLDER / where, *rest)
        if where == "claims":
            counted.update(counted or claims.counts(root / PAPERS, stored_rows(root)))
            return _count(counted, rest[0])
        if where == "older":
            return fields.older({path.name: restore(path)[0] for path in folders(root)})
        if where not in averaged:
            folder, _, experiment = where.partition("/")
            chosen = _studies(root, folder, [experiment] if experiment else [])
            averaged[where] = [row for study in chosen for row in means(study)]
        return fields.of_rows(averaged[where], *rest)

    return FIELD.sub(field, template)


def _count(counted: Mapping[str, int], key: str) -> str:
    if key not in counted:
        raise unknown("count of claims in README.md", key, counted)
    return f"{counted[key]}"


def unborne(root: Path, text: str) -> list[str]:
    """Returns a line for everything that README.md says in words and stored rows do not bear out.

    Args:
        root: the checkout.
        text: of README.md.
    """
    found = []
    for match in HOLDS.finditer(text):
        statement = " ".join(match[1].split())
        filled_in = _text(statement, root).replace("−", "-")
        first, *rest = filled_in.split()
        try:
            values, signs = [float(first), *map(float, rest[1::2])], [COMPARED[sign] for sign in rest[::2]]
            if len(values) != len(signs) + 1 or not signs:
                raise ValueError(filled_in)
        except (ValueError, KeyError):
            allowed = ", ".join(COMPARED)
            raise UserError(f"README.md states {filled_in!r}: give numbers with {allowed} between.") from None
        if not all(sign(a, b) for sign, a, b in zip(signs, values, values[1:], strict=False)):
            found.append(f"README.md says what the stored rows do not bear out: {filled_in} ({statement})")
    return found
