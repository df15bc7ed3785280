"""Where an arm stands among others: paired differences, how far they may be off, and what may be said of them.

Arms are compared on the same trained models and the same test examples. Of k >= 2 trained models the difference d_i of
each counts, and the standard error of their mean is sd(d) / sqrt(k): the luck of a network with its examples is in it.
Of a single one it is sqrt(e_a^2 + e_b^2), with e the paired standard error of each against the unpruned model
(`s5c.report.paired`): too large rather than too small, as both share the unpruned model's answers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from s5c.errors import UserError, unknown
from s5c.report.arms import asked, label
from s5c.report.cells import NOTHING, signed, table
from s5c.report.row import FULL, Averaged, Row

SURE = 2.0
"""Standard errors beyond which a difference is more than noise."""


class Lead(NamedTuple):
    """How far one arm is ahead of another.

    Attributes:
        points: mean difference in test accuracy.
        error: its standard error in points; None if it cannot be told.
        spread: standard deviation of the difference over trained models; None of a single one.
        models: how many trained models both were tested on.
    """

    points: float
    error: float | None
    spread: float | None
    models: int

    @property
    def sign(self) -> int:
        """1 if ahead, -1 if behind, 0 if that may be noise or its error is not known."""
        if self.error is None or abs(self.points) <= SURE * self.error:
            return 0
        return 1 if self.points > 0 else -1

    def __str__(self) -> str:
        return signed(self.points) + ("" if self.error is None else f" ± {self.error:.1f}")


def change_error(row: Averaged) -> float | None:
    """Returns the standard error, in points, of an averaged row's loss: over trained models, of one over test examples.

    Args:
        row: of `s5c.report.average`.
    """
    if row["n"] > 1:
        spread = row.get("points_lost_sd")
        return None if spread is None else spread / math.sqrt(row["n"])
    return row.get("points_lost_se")


def drawn(row: Row) -> float | None:
    """Returns the standard error, in points, of one model's loss over draws of the test set, paired if that is stored.

    Where it is not, the errors of both accuracies are taken apart, which makes it larger.
    """
    if row.get("points_lost_se") is not None:
        return float(row["points_lost_se"])
    after, full, n = row.get("test_accuracy"), row.get("test_accuracy_full"), row.get("test_examples")
    if after is None or full is None or not n:  # of other metrics the errors cannot be told from them alone
        return None
    return 100 * math.sqrt((after * (1 - after) + full * (1 - full)) / n)


def lead(row: Averaged, other: Averaged) -> Lead | None:
    """Returns how far an arm is ahead of another, or None if no model was reduced by both.

    Args:
        row: averaged row of the arm.
        other: of the other arm, at the same target.
    """
    ours, theirs = row["by_training"], other["by_training"]
    found = [ours[key] - theirs[key] for key in ours if key in theirs]
    if not found:
        return None
    mean = math.fsum(found) / len(found)
    if len(found) > 1:
        spread = statistics.stdev(found)
        return Lead(mean, spread / math.sqrt(len(found)), spread, len(found))
    errors = drawn(row), drawn(other)
    return Lead(mean, None if None in errors else math.hypot(*errors), None, 1)  # type: ignore[arg-type]


def best_other(rows: Sequence[Averaged], arm: str, others: Sequence[str], target: str) -> tuple[str, Lead] | None:
    """Returns which of the other arms is best at a target, and an arm's lead over it; None where it was not tested.

    Args:
        rows: averaged rows of one study.
        arm: by its name.
        others: by their names.
        target: as `s5c.report.arms.asked` calls it.
    """
    there = {label(row): row for row in rows if row["reduction"] != FULL and asked(row) == target}
    known = {label(row) for row in rows}
    for name in (arm, *others):
        if name not in known:
            raise unknown("arm", name, sorted(known))
    leads = [(name, lead(there[arm], there[name])) for name in others if arm in there and name in there]
    found = [(name, one) for name, one in leads if one is not None]
    return min(found, key=lambda pair: pair[1].points) if found else None


def standing(rows: Sequence[Averaged], arm: str, others: Sequence[str], targets: Sequence[str]) -> str:
    """Returns in words at which ratios an arm is the best of several, or within noise of the best.

    Args:
        rows: averaged rows of one study.
        arm: by its name.
        others: by their names.
        targets: ratios, ascending.
    """
    found = {target: best_other(rows, arm, others, target) for target in targets}
    tested = {target: pair for target, pair in found.items() if pair is not None}
    if not tested:
        raise UserError(f"A template asks where {arm} stands at {', '.join(targets)}: it was not compared there.")
    behind = [target for target, (_, ahead) in tested.items() if ahead.sign < 0]
    if not behind:
        lowest, highest = next(iter(tested)), list(tested)[-1]
        return f"best or within noise of the best at every ratio from {lowest} to {highest}"
    up_to = [target for target in tested if float(target) < float(behind[0])]
    told = [f"at {target} behind `{tested[target][0]}` ({tested[target][1]} points)" for target in behind]
    start = f"best or within noise of the best up to {up_to[-1]}, " if up_to else ""
    return start + ", ".join(told)


def lead_table(
    studies: Mapping[str, Sequence[Averaged]], arm: str, others: Sequence[str], targets: Sequence[str]
) -> str:
    """Returns the table of an arm's lead over the best of several others, a line for each study.

    Args:
        studies: averaged rows by what a reader calls the study.
        arm: by its name.
        others: by their names; those that a study has not tested are left out there.
        targets: ratios.
    """
    body, several = [], False
    for name, rows in studies.items():
        known = {label(row) for row in rows}
        there = [other for other in others if other in known]
        cells = []
        for target in targets:
            pair = best_other(rows, arm, there, target)
            several |= pair is not None and pair[1].models > 1
            cells.append(NOTHING if pair is None else _cell(*pair))
        body.append([name, *cells])
    note = (
        f"Points by which {arm} is ahead of the best of the others ± standard error of the difference, **bold** where "
        f"that is behind by more than {SURE:g} standard errors; in parentheses the best other, with a + if it is more "
        "than its preset."
    )
    note += " Errors over seeds, of one seed over draws of the test set." if several else ""
    return table(["", *targets], body) + f"\n\n{note}"


def _cell(name: str, ahead: Lead) -> str:
    first, _, more = name.partition(" ")
    text = f"**{ahead}**" if ahead.sign < 0 else str(ahead)
    return f"{text} ({first}{'+' if more else ''})"
