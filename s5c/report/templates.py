"""Pages made from stored rows: `results/templates/PATH.j2` is the template of PATH, README.md for one.

A template is one of Jinja2. All that it says in figures it asks for, by functions:

    figure(FOLDER[/EXPERIMENT], ARM, TARGET[, KEY[, FORMAT]])     of averaged rows, accuracy if no key
    standing(FOLDER, ARM, TARGETS, ARMS)                          in words: where an arm is best of several, where not
    cell(FILE.csv, CONDITIONS, COLUMN[, FORMAT])                  of a table: `COLUMN=VALUE, ...`
    claims(COUNT)                                                 of `s5c.report.claims.counts`
    older()                                                       what rows of before an option stand for
    accuracy_table, largest_table(FOLDER, ratios=, arms=, experiment=)
    leads_table(FOLDERS, ratios=, arms=)                          the first arm ahead of the best of the others
    reported_table(FOLDER, ratios=, arms=, task=)                 what papers report, and arms of a model in the zoo
    rest_table(HEADLINE, COMPARISON)                              on test examples of one that the other has not scored
    models_table(), claims_table(), columns_table(), sections()   the zoo; all claims; columns of rows; every study

How arms, keys and columns are written says `s5c.report.fields`. `TARGET` is one or a list, which makes cells of a
table; `protected(ARM)` is ARM or, where there is none, `ARM +protect`. A template whose name begins with `_` is no
page, but part of others.

What a sentence says without a figure is stated beside it, `{% do holds(NUMBER, "<", NUMBER, ...) %}` with figures for
numbers and <, <=, >, >= or == between. No page is written while one of these is false.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from s5c.errors import UserError, unknown
from s5c.report import cells, claims, fields, row, summary, unseen
from s5c.report.arms import label
from s5c.report.average import means
from s5c.report.collect import TABLE_FILE, Study, restore, studies
from s5c.report.row import FULL, Averaged, Row
from s5c.report.standing import lead_table, standing

FOLDER = Path("results/published")
TEMPLATES = Path("results/templates")
PAPERS = FOLDER / "papers.csv"

ENDING = ".j2"
COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}

Texts = str | float | Sequence[str | float]
"""One name or number of a template, or several."""


def folders(root: Path) -> list[Path]:
    """Returns the folders of stored runs in a checkout."""
    return sorted(path.parent for path in (root / FOLDER).glob(f"*/{TABLE_FILE}"))


def stored_rows(root: Path) -> list[Row]:
    """Returns every stored row of a checkout."""
    return [row for folder in folders(root) for row in restore(folder)[0]]


def rendered(root: Path, models: Mapping[str, str], sections: Callable[[], str]) -> dict[Path, str]:
    """Returns the text of every page that there is a template of, by its name below the checkout.

    Args:
        root: The checkout.
        models: What the zoo holds: a line for every name.
        sections: Makes the sections on all studies.

    Raises:
        UserError: A template is none, or asks for what is not stored, or something said in words does not hold.
    """
    stored = Stored(root, models)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(root / TEMPLATES),
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.do"],
        autoescape=False,  # Markdown; what comes out of rows is made harmless by `cells.plain`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {**stored.functions(), "sections": sections}
    pages = {}
    for path in sorted((root / TEMPLATES).rglob(f"[!_]*{ENDING}")):
        name = path.relative_to(root / TEMPLATES).as_posix()
        try:
            pages[Path(name.removesuffix(ENDING))] = environment.get_template(name).render()
        except UserError as error:
            raise UserError(f"{_place(path, error)}: {error}") from error
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise UserError(f"{_place(path, error)} cannot be filled in: {error}.") from error
    if stored.wrong:
        raise UserError("\n".join(stored.wrong))
    return pages


def _place(path: Path, error: Exception) -> str:
    """Returns a template and the line of it that raised an error."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{path}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}, line {lines[-1]}" if lines else f"{path}"


class Stored:
    """The stored rows of a checkout, as templates ask for them; each table is read once.

    Args:
        root: The checkout.
        models: What the zoo holds: a line for every name.

    Attributes:
        wrong: A line for everything said in words that rows do not bear out.
    """

    def __init__(self, root: Path, models: Mapping[str, str]) -> None:
        self.root, self.models = root, models
        self.wrong: list[str] = []
        self._rows = functools.cache(self._read)
        self._averaged = functools.cache(self._average)
        self._counts = functools.cache(lambda: claims.counts(root / PAPERS, stored_rows(root)))

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Returns what templates may call, by name."""
        public = (
            *(self.figure, self.standing, self.cell, self.claims, self.older, self.holds, self.protected),
            *(self.accuracy_table, self.largest_table, self.leads_table, self.reported_table, self.rest_table),
            *(self.models_table, self.claims_table, self.columns_table),
        )
        return {function.__name__: function for function in public}

    # ---- figures

    def figure(self, where: str, arm: str, target: Texts, key: str = "test_accuracy", form: str = "") -> str:
        """Returns figures of one arm, in cells of a table if there are several targets."""
        return fields.of_rows(self._averaged(where), arm, _texts(target), key, form)

    def standing(self, where: str, arm: str, targets: Texts, others: Texts) -> str:
        """Returns in words at which targets an arm is the best of several."""
        return standing(self._averaged(where), arm, _texts(others), _texts(targets))

    def cell(self, file: str, conditions: str, column: str, form: str = "g") -> str:
        """Returns figures of those rows of a CSV that meet conditions."""
        return fields.of_file(self.root / FOLDER / file, conditions, column, form)

    def claims(self, count: str) -> str:
        """Returns how many claims of papers there are of a kind."""
        if count not in self._counts():
            raise unknown("count of claims", count, self._counts())
        return f"{self._counts()[count]}"

    def older(self) -> str:
        """Returns a sentence on rows that are older than an option."""
        return fields.older({path.name: self._rows(path.name) for path in folders(self.root)})

    def protected(self, arm: str) -> str:
        """Returns the name for an arm or, where it is not stored, for the one that protects unstable modes."""
        return f"{arm} / {arm} {fields.PROTECT}"

    def holds(self, *statement: Any) -> None:
        """Notes a comparison of figures that is false.

        Raises:
            UserError: It is no comparison of numbers.
        """
        parts = [str(part).replace("−", "-") for part in statement]
        told = " ".join(parts)
        try:
            values, signs = [float(part) for part in parts[::2]], [COMPARED[sign] for sign in parts[1::2]]
            if len(values) != len(signs) + 1 or not signs:
                raise ValueError(told)
        except (ValueError, KeyError):
            allowed = ", ".join(COMPARED)
            raise UserError(f"It states {told!r}: give numbers with {allowed} between.") from None
        if not all(sign(a, b) for sign, a, b in zip(signs, values, values[1:], strict=False)):
            self.wrong.append(f"A template says what the stored rows do not bear out: {told}")

    # ---- tables

    def accuracy_table(self, folder: str, ratios: Texts = (), arms: Texts = (), experiment: str = "") -> str:
        """Returns the test accuracies of arms by ratio, of all if none are named."""
        chosen = self._studies(folder, experiment, _texts(arms))
        return "\n\n".join(summary.accuracies(study, list(map(float, _texts(ratios)))) for study in chosen)

    def largest_table(self, folder: str, arms: Texts = (), experiment: str = "") -> str:
        """Returns the largest ratios that cost little."""
        return "\n\n".join(map(summary.largest_ratios, self._studies(folder, experiment, _texts(arms))))

    def leads_table(self, wheres: Texts, ratios: Texts, arms: Texts) -> str:
        """Returns by how much the first arm is ahead of the best of the others, a line for each folder."""
        averaged = {name.removesuffix("_comparison"): self._averaged(name) for name in _texts(wheres)}
        known = {label(row) for rows in averaged.values() for row in rows}
        first, *others = (_known(arm, known) for arm in _texts(arms))
        return lead_table(averaged, first, others, _texts(ratios))

    def reported_table(self, folder: str, ratios: Texts, task: str, arms: Texts) -> str:
        """Returns what papers report on a task, and our arms on a model of the zoo."""
        rows = [row for study in self._studies(folder, "", _texts(arms)) for row in means(study)]
        ours = {_network(self.root, rows): rows}
        return claims.reported_table(self.root / PAPERS, task, list(map(float, _texts(ratios))), ours)

    def rest_table(self, headline: str, comparison: str) -> str:
        """Returns the accuracies on the test examples of a folder that another has not scored."""
        found = unseen.table(self._rows(headline), self._rows(comparison))
        return found or f"Nothing in {headline} is left over."

    def models_table(self) -> str:
        """Returns the table of the zoo."""
        lines = [[f"`zoo:{name}`", line] for name, line in self.models.items()]
        return cells.table(["checkpoint=", "Model"], lines)

    def claims_table(self) -> str:
        """Returns what papers report beside what was measured, with a sentence on what came of it."""
        rows = stored_rows(self.root)
        return f"{claims.reproduced(self.root / PAPERS, rows)}\n\n{claims.claims_table(self.root / PAPERS, rows)}"

    def columns_table(self) -> str:
        """Returns the columns of a row with their meaning."""
        return cells.table(["Column", "Meaning, unit"], [[f"`{name}`", told] for name, told in row.columns().items()])

    # ---- rows

    def _read(self, folder: str) -> list[Row]:
        known = [path.name for path in folders(self.root)]
        if folder not in known:
            raise unknown("folder", folder, known)
        return restore(self.root / FOLDER / folder)[0]

    def _average(self, where: str) -> list[Averaged]:
        folder, _, experiment = where.partition("/")
        return [row for study in self._studies(folder, experiment) for row in means(study)]

    def _studies(self, folder: str, experiment: str, arms: Sequence[str] = ()) -> list[Study]:
        """Returns the studies of a folder: of an experiment, with the unpruned model and these arms, or all."""
        found = studies(_of_arms(self._rows(folder), arms))
        named = {study.slug: str(study.rows[0].get("experiment")) for study in found}
        if experiment and experiment not in named.values():
            raise unknown("experiment", experiment, named.values())
        return [study for study in found if not experiment or named[study.slug] == experiment]


def _texts(given: Texts) -> list[str]:
    """Returns one or several as text, numbers as targets are written."""
    listed = [given] if isinstance(given, str | int | float) else list(given)
    return [f"{one:g}" if isinstance(one, int | float) else one for one in listed]


def _known(arm: str, known: Iterable[str]) -> str:
    if arm not in known:
        raise unknown("arm", arm, sorted(known))
    return arm


def _of_arms(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    """Returns the rows of the unpruned model and of arms, whatever stands in parentheses behind their names."""
    names = [re.sub(r" \(.*\)$", "", label(row)) for row in rows]
    wanted = []
    for arm in arms:
        choices = arm.split(" / ")
        wanted.append(_known(next((name for name in choices if name in names), choices[0]), set(names)))
    return [
        row for row, name in zip(rows, names, strict=True) if not arms or name in wanted or row["reduction"] == FULL
    ]


def _network(root: Path, rows: Sequence[Row]) -> str:
    """Returns network and epochs of the model in the zoo that rows are about, as `claims.reported_table` takes them."""
    name = Path(str(rows[0]["parent"])).name.removeprefix("zoo:")
    card = json.loads((root / "results/zoo" / name / "card.json").read_text("utf-8"))
    model = card["model"]
    sizes = f"{model['n_layers']} layers, {model['d_model']} features, {model['state_size']} states"
    ways = ", both ways" if model.get("bidirectional") else ""
    return f"{model['name'].upper()}, {sizes}{ways}; {card['recipe']['epochs']}"
