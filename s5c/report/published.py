"""The published results: one page and everything on it, made from stored run files and from nothing else.

`results/published/FOLDER/table.csv` holds every row of the runs, `spectra.npz` the arrays that figures need, and
`papers.csv` what papers report. All the rest there is written by `publish`: report.md and figures in every folder, and
all pages that have a template in results/templates (`s5c.report.templates`), such as README.md and results/README.md.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s5c.atomic import write_text
from s5c.errors import UserError
from s5c.report import summary, tables, unseen
from s5c.report.collect import TABLE_FILE, Study, noting_damage, restore, studies
from s5c.report.plots import save_figures
from s5c.report.row import FULL, Row
from s5c.report.templates import FOLDER, folders, rendered

PAGE = Path("results/README.md")
COMMAND = "python -m s5c.report published=true"

FIGURES = {
    "accuracy_vs_ratio": "Accuracy against the ratio of states removed",
    "states_per_layer": "States kept per layer",
    "accuracy_vs_bytes": "Answers against the bytes of the weights, and against the time of a step in C",
    "latency_vs_ratio": "Latency against the ratio of states removed",
    "hankel_singular_values": "Hankel singular values of every layer",
    "poles_moved": "Poles before and after",
    "originals": "Reduced models against their originals",
}
"""Those shown on the page, in this order; the others are in the folders."""

HEADLINE, COMPARISON = "_headline", "_comparison"
"""End the names of folders: what was scored last, and what was looked at on the way."""

MADE = (".md", ".csv", ".png", ".pdf")
"""Endings of what is made; other files that someone puts beside the stored runs are left alone."""


def publish(
    root: Path, models: Mapping[str, str], to: Path | None = None, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Writes everything that is made from the stored runs of a checkout.

    Args:
        root: The checkout.
        models: What the zoo holds: a line for every name.
        to: Where to write instead of the checkout, under the same relative names.
        formats: Of pictures; none writes text and numbers only.

    Returns:
        The relative names of the files written.

    Raises:
        UserError: Nothing is stored, or a template asks for what cannot be made.
    """
    to = to or root
    stored = {folder.name: restore(folder) for folder in folders(root)}
    if not stored:
        raise UserError(f"No stored runs in {root / FOLDER}: {COMMAND} runs in a checkout of the repository.")
    written = []
    for name, (rows, arrays) in stored.items():
        folder = to / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        written += save_figures(rows, arrays, folder, formats)
        written.append(_write(folder / "report.md", tables.markdown(rows)))
    pages = rendered(root, models, lambda: _sections(stored, to))
    written += [_write(to / name, text) for name, text in pages.items()]
    return sorted(path.relative_to(to) for path in written)


def differences(root: Path, models: Mapping[str, str]) -> list[str]:
    """Returns a line for every file of a checkout that `publish` would write differently; pictures are not compared.

    Args:
        root: The checkout.
        models: What the zoo holds: a line for every name.
    """
    with tempfile.TemporaryDirectory() as place:
        to = Path(place)
        with noting_damage() as damage:
            made = publish(root, models, to, formats=())
        compared = {path: _difference(root / path, to / path) for path in made}
    found = [*dict.fromkeys(damage), *(f"{path}: {text}" for path, text in compared.items() if text)]
    found += [f"{path.relative_to(root)}: made from nothing that is stored" for path in strays(root, made)]
    pictures = [path.with_suffix(".png") for path in made if path.suffix == ".csv"]
    return found + [f"{path}: missing" for path in pictures if not (root / path).is_file()]


def strays(root: Path, made: Sequence[Path]) -> list[Path]:
    """Returns the tables and pictures in the folders of stored runs that are of no file among `made`."""
    stems = {root / path.with_suffix("") for path in made}
    files = [path for folder in folders(root) for path in folder.rglob("*") if path.suffix in MADE]
    return sorted(path for path in files if path.name != TABLE_FILE and path.with_suffix("") not in stems)


def _difference(there: Path, made: Path) -> str:
    if not there.is_file():
        return "missing"
    old, new = (path.read_text("utf-8").splitlines() for path in (there, made))
    same = _same_numbers if there.suffix == ".csv" else str.__eq__
    number = next((i for i, pair in enumerate(zip(old, new, strict=False)) if not same(*pair)), min(len(old), len(new)))
    if number == len(old) == len(new):
        return ""
    return (
        f"line {number + 1} would be {new[number]!r}" if number < len(new) else f"{len(old) - len(new)} lines too many"
    )


def _same_numbers(old: str, new: str) -> bool:
    """Returns whether two lines of a table agree, numbers to nine digits: processors differ in the last ones."""
    if old == new:
        return True
    cells = list(zip(old.split(","), new.split(","), strict=False))
    return old.count(",") == new.count(",") and all(one == other or _close(one, other) for one, other in cells)


def _close(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9)
    except ValueError:
        return False


# ---- the sections of results/README.md


def _sections(stored: Mapping[str, tuple[list[Row], Any]], to: Path) -> str:
    parts = []
    for name, (rows, _) in stored.items():
        parts.append(_section(name, rows, to))
        if left := _unseen(name, stored):
            parts.append(left)
    return "\n\n".join(parts)


def _section(name: str, rows: Sequence[Row], root: Path) -> str:
    found = studies(rows)
    return "\n\n".join(
        _study(name if len(found) == 1 else f"{name}/{study.slug}", name, study, root) for study in found
    )


def _unseen(name: str, stored: Mapping[str, tuple[list[Row], Any]]) -> str | None:
    """Returns what a headline says about the test examples that the comparison of the same task has not scored."""
    comparison = f"{name.removesuffix(HEADLINE)}{COMPARISON}"
    if not name.endswith(HEADLINE) or comparison not in stored:
        return None
    found = unseen.table(stored[name][0], stored[comparison][0])
    return found and f"### {name}: on the test examples that `{comparison}` has not scored\n\n{found}"


def _study(place: str, name: str, study: Study, root: Path) -> str:
    parts = [f"## {name}: {study.title}", tables.description(study)]
    if any(row["reduction"] != FULL for row in study.rows) and summary.grid(study)[0]:
        parts += [summary.accuracies(study), summary.largest_ratios(study)]
    parts += [text for text in (summary.other_targets(study),) if text]
    parts += [
        f"![{caption}](published/{place}/{figure}.png)"
        for figure, caption in FIGURES.items()
        if (root / FOLDER / place / f"{figure}.csv").is_file()
    ]
    every = f"[all rows](published/{name}/{TABLE_FILE}), [sizes, layers, errors](published/{name}/report.md)"
    opened = f"to hover, toggle and sort: `python -m s5c.report runs={FOLDER.as_posix()}/{name} html=true`"
    return "\n\n".join([*parts, f"{every}; {opened}; commands:", tables.commands(study.rows)])


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path
