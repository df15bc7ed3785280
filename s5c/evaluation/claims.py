"""What papers report, beside what was measured here.

`papers.csv` has one claim a row: an arm loses some accuracy at some ratio of a task, or is above another arm there.
`of` says what the ratio counts; a claim without a ratio is about all ratios at which both arms were tested.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from s5c.evaluation.arms import FULL, Row, label, on_test
from s5c.evaluation.average import aggregate
from s5c.evaluation.cells import NOTHING, number, percent, signed, table
from s5c.evaluation.collect import read_csv

WITHIN = 1.0
"""Points by which our loss may exceed a paper's for its claim to count as reproduced."""

TRAINED = re.compile(r"_init \+\d+ epochs?$")
"""An arm that is a start for training is one in claims however long its task is trained."""

STAND_INS = {
    "imdb": ("imdb_short", "imdb_small"),
    "smnist": ("smnist_medium", "smnist_short", "smnist_small"),
    "listops": ("listops_short", "listops_small"),
    "image": ("image_short",),
}
"""Smaller tasks, and shorter trainings of the same one, that show whether a claim holds there too; no reproduction."""
SHORTER = ("_short", "_medium")
"""End the name, without the family, of a recipe that is a published one with fewer epochs; studies of its model begin
with that name."""
FAMILY = "s5"
"""The models that claims about whole tasks, and their stand-ins, are about."""


def claims_table(papers: Path, rows: Sequence[Row]) -> str:
    """Returns the table of published claims with our figures.

    Args:
        papers: The csv of claims.
        rows: Every stored row.
    """
    means = [row for row in aggregate(rows) if not on_test(row)]
    head = ["Source", "Task", "Claim", "Paper", "Ours", "Difference", "Reproduces", "On a stand-in"]
    body = []
    for claim in read_csv(papers):
        ours, difference, verdict = _judged(claim, means, claim["task"])
        cells = [f"{claim['source']}; {claim['place']}", claim["task"], _statement(claim), _reported(claim)]
        body.append([*cells, ours, difference, verdict, _stand_in(claim, means)])
    note = (
        "Ours: mean over seeds, checkpoints selected on validation data. A loss reproduces if ours is at most "
        f"{WITHIN:g} point larger, an accuracy without a stated loss if ours is within {WITHIN:g} point of it "
        "(“higher”: ours is above that), an order if it is the same. Stand-ins are smaller tasks (`_small`) and "
        "trainings with fewer epochs (`_short`, `_medium`); what holds there reproduces nothing. “not run”: no stored "
        "rows of that task, arm and ratio; `python scripts/reproduce.py list` shows what is left."
    )
    return table(head, body) + f"\n\n{note}"


def _statement(claim: Row) -> str:
    at = f" at {claim['ratio']:.0%} of {claim['of']}" if claim.get("ratio") is not None else ""
    return f"{claim['arm']}{at}" + (f", above {claim['versus']}" if claim.get("versus") else "")


def _reported(claim: Row) -> str:
    if claim.get("versus"):
        if claim.get("versus_accuracy") is None:
            return "above"
        return f"{claim['accuracy']:g} to {claim['versus_accuracy']:g}"
    if claim.get("lost") is None:
        return f"{claim['accuracy']:g}"
    change = f"−{claim['lost']:.2f}" if claim["lost"] else "0.00"
    return f"{claim['full']:g} → {claim['accuracy']:g} ({change})" if claim.get("full") is not None else change


def _judged(claim: Row, means: Sequence[Row], recipe: str) -> tuple[str, str, str]:
    """Returns our figure, its difference to the paper's in points, and whether the claim reproduces."""
    found = _tested(claim, claim["arm"], means, recipe)
    if claim.get("versus"):
        return _compared(claim, found, _tested(claim, claim["versus"], means, recipe))
    if not found:
        return NOTHING, NOTHING, "not run"
    row = found[0]
    shown = f"{percent(row, 'test_accuracy')} ({signed(-row['points_lost'])})"
    if claim.get("lost") is not None:
        difference = claim["lost"] - row["points_lost"]
    else:
        difference = 100 * row["test_accuracy"] - claim["accuracy"]
    if claim.get("lost") is None and difference > WITHIN + 1e-9:
        return shown, signed(difference), "higher"
    return shown, signed(difference), "yes" if difference >= -WITHIN - 1e-9 else "**no**"


def _compared(claim: Row, found: Sequence[Row], others: Sequence[Row]) -> tuple[str, str, str]:
    pairs = [(a, b) for a in found for b in others if a["ratio"] == b["ratio"] and a["experiment"] == b["experiment"]]
    if not pairs:
        return NOTHING, NOTHING, "not run"
    leads = [100 * (a["test_accuracy"] - b["test_accuracy"]) for a, b in pairs]
    lead = sum(leads) / len(leads)
    shown = f"{signed(lead)} points" + (f", mean of {len(leads)} ratios" if len(leads) > 1 else "")
    reported = claim.get("versus_accuracy")
    difference = NOTHING if reported is None else signed(lead - (claim["accuracy"] - reported))
    return shown, difference, "yes" if lead > 0 else "**no**"


def _stand_in(claim: Row, means: Sequence[Row]) -> str:
    found = []
    for recipe in STAND_INS.get(claim["task"], ()):
        if not claim.get("versus") and claim.get("lost") is None and not recipe.endswith(SHORTER):
            continue  # an accuracy of another task says nothing
        ours, _, verdict = _judged(claim, means, recipe)
        found += [] if verdict == "not run" else [f"{recipe}: {ours}, {verdict}"]
    return "; ".join(found) or NOTHING


def _recipe(row: Row) -> str:
    """Returns what a row's model was trained by: its task, or a shorter recipe of it, and that of which family."""
    for end in SHORTER:
        short = f"{row.get('task')}{end}"
        if str(row["experiment"]).startswith(short):
            return short if row.get("model", FAMILY) == FAMILY else f"{short}_{row['model']}"
    return str(row.get("task"))


def _tested(claim: Row, arm: str, means: Sequence[Row], recipe: str) -> list[Row]:
    """Returns the averaged rows a claim is about, of the study with the most seeds first."""
    rows = [row for row in means if _recipe(row) == recipe and row.get("points_lost") is not None]
    rows = [row for row in rows if row["reduction"] != FULL and TRAINED.sub("_init", label(row)) == arm]
    ratio = claim.get("ratio")
    if ratio is None:
        return rows
    if claim["of"] == "parameters":
        rows = [
            row for row in rows if row.get("params_full") and 1 - row["params"] / row["params_full"] >= ratio - 0.02
        ]
        rows.sort(key=lambda row: -row["params"])  # the least reduction that removes as many
    else:
        rows = [row for row in rows if abs(row["ratio"] - ratio) < 1e-9]
    return sorted(rows, key=lambda row: -row["n"])


def reproduced(papers: Path, rows: Sequence[Row]) -> str:
    """Returns in one line how many claims were tested and how many of them reproduce."""
    means = [row for row in aggregate(rows) if not on_test(row)]
    verdicts = [_judged(claim, means, claim["task"])[2] for claim in read_csv(papers)]
    tested = [verdict for verdict in verdicts if verdict != "not run"]
    return f"{len(verdicts)} claims, {number(len(tested), '{:d}')} tested, {tested.count('yes')} reproduced."
