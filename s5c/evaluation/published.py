"""The published results: one page and everything on it, made from stored run files and from nothing else.

`results/published/FOLDER/table.csv` holds every row of the runs, `spectra.npz` the arrays that figures need, and
`papers.csv` what papers report. All the rest there is written by `publish`: report.md and figures in every folder,
results/README.md, and the tables between `<!-- table: ... -->` and `<!-- /table -->` in README.md.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from s5c.errors import UserError, unknown
from s5c.evaluation import claims, summary, tables
from s5c.evaluation.arms import FULL, Row, label
from s5c.evaluation.cells import table
from s5c.evaluation.collect import TABLE_FILE, Study, restore, studies
from s5c.evaluation.plots import save_figures

FOLDER = Path("results/published")
PAGE = Path("results/README.md")
README = Path("README.md")
PAPERS = FOLDER / "papers.csv"
COMMAND = "python -m s5c.report published=true"

FIGURES = {
    "accuracy_vs_ratio": "Accuracy against the ratio of states removed",
    "states_per_layer": "States kept per layer",
    "latency_vs_ratio": "Latency against the ratio of states removed",
    "hankel_singular_values": "Hankel singular values of every layer",
    "poles_moved": "Poles before and after",
    "originals": "Reduced models against their originals",
}
"""Those shown on the page, in this order; the others are in the folders."""

MADE = (".md", ".csv", ".png", ".pdf")
"""Endings of what is made; other files that someone puts beside the stored runs are left alone."""

MARKED = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- /table -->)", re.DOTALL)


def folders(root: Path) -> list[Path]:
    """Returns the folders of stored runs in a checkout."""
    return sorted(path.parent for path in (root / FOLDER).glob(f"*/{TABLE_FILE}"))


def stored_rows(root: Path) -> list[Row]:
    """Returns every stored row of a checkout."""
    return [row for folder in folders(root) for row in restore(folder)[0]]


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
        UserError: Nothing is stored, or README.md asks for a table that cannot be made.
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
    every = [row for rows, _ in stored.values() for row in rows]
    parts = [_head(root, every, models), *(_section(name, rows, to) for name, (rows, _) in stored.items())]
    written.append(_write(to / PAGE, "\n\n".join(parts) + "\n"))
    if (root / README).is_file():
        written.append(_write(to / README, _filled(root, models)))
    return sorted(path.relative_to(to) for path in written)


def differences(root: Path, models: Mapping[str, str]) -> list[str]:
    """Returns a line for every file of a checkout that `publish` would write differently; pictures are not compared.

    Args:
        root: The checkout.
        models: What the zoo holds: a line for every name.
    """
    with tempfile.TemporaryDirectory() as place:
        to = Path(place)
        made = publish(root, models, to, formats=())
        compared = {path: _difference(root / path, to / path) for path in made}
    found = [f"{path}: {text}" for path, text in compared.items() if text]
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
    if old == new:
        return ""
    number = next(
        (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), min(len(old), len(new))
    )
    return (
        f"line {number + 1} would be {new[number]!r}" if number < len(new) else f"{len(old) - len(new)} lines too many"
    )


# ---- the page


def _head(root: Path, rows: Sequence[Row], models: Mapping[str, str]) -> str:
    parts = [
        "# Results",
        f"Made by `{COMMAND}` from the run files stored in [published](published); never edited by hand, and checked "
        "by `make test`. Ratios count stored states removed over the whole network. “one seed” means just that.",
        "## Trained models",
        _models(models),
    ]
    if (root / PAPERS).is_file():
        parts += ["## What the papers report", claims.reproduced(root / PAPERS, rows)]
        parts.append(claims.claims_table(root / PAPERS, rows))
    return "\n\n".join(parts)


def _models(models: Mapping[str, str]) -> str:
    return table(["checkpoint=", "Model"], [[f"`zoo:{name}`", line] for name, line in models.items()])


def _section(name: str, rows: Sequence[Row], root: Path) -> str:
    found = studies(rows)
    return "\n\n".join(
        _study(name if len(found) == 1 else f"{name}/{study.slug}", name, study, root) for study in found
    )


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
    return "\n\n".join([*parts, f"{every}; commands:", tables.commands(study.rows)])


# ---- README.md


def _filled(root: Path, models: Mapping[str, str]) -> str:
    text = (root / README).read_text("utf-8")
    return MARKED.sub(lambda match: f"{match[1]}{_marked(match[2], root, models)}\n{match[3]}", text)


def _marked(words: str, root: Path, models: Mapping[str, str]) -> str:
    """Returns a table by the words of its marker: `zoo`, `papers`, `accuracy|largest FOLDER [EXPERIMENT] [RATIOS]`.

    `arms=NAME,NAME` shows those arms only, by their names without spaces and parentheses at the end.
    """
    kind, *where = words.split()
    if kind == "zoo":
        return _models(models)
    if kind == "papers":
        return claims.claims_table(root / PAPERS, stored_rows(root))
    if kind not in ("accuracy", "largest"):
        raise unknown("table in README.md", kind, ("accuracy", "largest", "papers", "zoo"))
    known = [folder.name for folder in folders(root)]
    if not where or where[0] not in known:
        raise unknown(f"folder of table {kind} in README.md", "".join(where[:1]), known)
    ratios = [float(part) for word in where[1:] if word[0].isdigit() for part in word.split(",")]
    arms = [arm for word in where[1:] if word.startswith("arms=") for arm in word.removeprefix("arms=").split(",")]
    wanted = [word for word in where[1:] if not word[0].isdigit() and not word.startswith("arms=")]
    found = studies(_of_arms(restore(root / FOLDER / where[0])[0], arms))
    chosen = [study for study in found if not wanted or study.rows[0].get("experiment") in wanted]
    if not chosen:
        raise unknown(
            "experiment of a table in README.md", wanted[0], [str(s.rows[0].get("experiment")) for s in found]
        )
    make = (lambda study: summary.accuracies(study, ratios)) if kind == "accuracy" else summary.largest_ratios
    return "\n\n".join(make(study) for study in chosen)


def _of_arms(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    """Returns the rows of the unpruned model and of these arms; all if none is named."""
    names = [re.sub(r" \(.*\)$", "", label(row)).replace(" ", "_") for row in rows]
    for arm in arms:
        if arm not in names:
            raise unknown("arm of a table in README.md", arm, sorted(set(names)))
    return [row for row, name in zip(rows, names, strict=True) if not arms or name in arms or row["reduction"] == FULL]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path
