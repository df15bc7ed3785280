"""What papers report, beside what was measured here.

`papers.csv` has one claim a row: an arm keeps an accuracy, or loses some, at some ratio of a task, or is above another
arm there. `of` says what the ratio counts, `kept` how the paper says it; a claim without a ratio is about all ratios at
which both arms were tested. `model`, `network` and `epochs` are those of the paper's networks: a claim is tested on
networks of that family (`other`: a family that s5c has not; none: the paper does not say, or it is not known here).
`said` holds what is no accuracy, `error` how far a figure read off a plot may be off, in points. Of a task with
targets `accuracy` and `full` are its metric, as `s5c.metric` tells it, and points those of that metric.

Verdicts have two sides. Our figure agrees with the paper's if they differ by no more than two standard errors of such a
difference, else it is higher or lower. The paper's network counts as one more draw of ours:

    margin^2 = 4 v + error^2,    v = max(sd^2 (1 + 1/k), 2 e^2) of k >= 2 trained models, 2 e^2 of one

with sd over these models and e the standard error of one over draws of the test set: three seeds that happen to agree
make no test set larger.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, cast

from s5c.metric import ACCURACY
from s5c.report.arms import label, on_test
from s5c.report.average import aggregate
from s5c.report.cells import NOTHING, reached, signed, table
from s5c.report.csvfile import read_csv
from s5c.report.row import FULL, Averaged, Row
from s5c.report.scores import metric_of, score
from s5c.report.scores import spread as deviation
from s5c.report.standing import SURE, drawn, lead

TRAINED = re.compile(r"_init \+\d+ epochs?( \(by order\))?$")
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
UNREDUCED = "none"
"""The arm of claims about a network that nothing was removed from."""

ELSEWHERE = ("hsvr", "compressm", "hankel_norm", "distillation", "scratch")
"""Methods of papers that s5c does not have."""

AGREES, HIGHER, LOWER = "agrees", "higher", "lower"
NOT_RUN, NOT_HERE, NO_ERROR = "not run", "no such method here", "error unknown"
HOLDS, OPEN, REVERSED = "holds", "open", "**reversed**"
"""Verdicts: of figures, of what was not tested, of the order of two arms."""


class Claim(TypedDict, total=False):
    """A line of `papers.csv`; accuracies and losses in percent and points."""

    source: str
    place: str
    task: str
    arm: str
    of: str
    ratio: float
    full: float
    accuracy: float
    lost: float
    versus: str
    versus_accuracy: float
    said: str
    error: float
    model: str | None
    network: str
    epochs: int | str
    kept: str


class Verdict(NamedTuple):
    """Our figure beside a paper's.

    Attributes:
        ours: as text.
        difference: to the paper's figure, in points, with its margin; as text.
        words: the verdict.
    """

    ours: str
    difference: str
    words: str

    @property
    def tested(self) -> bool:
        """Whether there were rows to test the claim on."""
        return self.words not in (NOT_RUN, NOT_HERE)


def claims_table(papers: Path, rows: Sequence[Row]) -> str:
    """Returns the table of published claims with our figures.

    Args:
        papers: The csv of claims.
        rows: Every stored row.
    """
    means = _means(rows)
    head = ["Source", "Network, epochs", "Task", "Claim", "Paper", "Ours", "Difference", "Verdict", "On a stand-in"]
    body = []
    for claim in _claims(papers):
        ours, difference, words = _judged(claim, means, claim["task"])
        stand_ins = [_told(claim, *found) for found in _stand_ins(claim, means).items()]
        cells = [f"{claim['source']}; {claim['place']}", _network(claim), claim["task"]]
        cells += [_statement(claim), _reported(claim)]
        body.append([*cells, ours, difference, words, "; ".join(stand_ins) or NOTHING])
    note = (
        "Ours: mean over seeds, checkpoints selected on validation data. Difference: ours minus the paper's ± two "
        "standard errors of that difference, the paper's network counted as one more of ours (over seeds where there "
        "are several, and no less than over draws of the test set; of one seed how trainings differ is unknown). "
        f"“{AGREES}”: no larger than that; “{HIGHER}” and “{LOWER}”: ours is, by more. Of two arms the lead is "
        f"compared, and their order “{HOLDS}”, is “{REVERSED.strip('*')}” or, within two standard errors of none, "
        f"“{OPEN}”. Stand-ins are smaller tasks (`_small`) and trainings with fewer epochs (`_short`, `_medium`); what "
        f"holds there reproduces nothing. “{NOT_RUN}”: no stored rows of that task, network, arm and ratio; `python "
        f"-m s5c.studies list` shows what is left. “{NOT_HERE}”: kept for comparison."
    )
    return table(head, body) + f"\n\n{note}"


def counts(papers: Path, rows: Sequence[Row]) -> dict[str, int]:
    """Returns how many claims there are, how many were tested and with what result, by a name.

    `all` and `testable` (of methods that s5c has), `tested`, `agrees`, `higher`, `lower`, `holds`, `open`, `reversed`;
    the same after `stand_in_` of the claims that were tested on stand-ins only, each counted once for every stand-in.
    """
    means = _means(rows)
    found: Counter[str] = Counter()
    for claim in _claims(papers):
        verdict = _judged(claim, means, claim["task"])
        found["all"] += 1
        found["testable"] += verdict.words != NOT_HERE
        found.update(_counted("", verdict))
        for verdict in _stand_ins(claim, means).values():
            found.update(_counted("stand_in_", verdict))
    keys = ("tested", AGREES, HIGHER, LOWER, HOLDS, OPEN, REVERSED.strip("*"))
    return {key: found[key] for key in ("all", "testable", *keys, *(f"stand_in_{key}" for key in keys))}


def reproduced(papers: Path, rows: Sequence[Row]) -> str:
    """Returns in one line how many claims were tested and what came of it."""
    found = counts(papers, rows)
    return (
        f"{found['all']} claims, {found['testable']} of methods that are here, {found['tested']} tested: "
        f"{found[AGREES]} agree, {found[HIGHER]} higher, {found[LOWER]} lower. On stand-ins, which reproduce nothing, "
        f"{found['stand_in_tested']} comparisons: {found[f'stand_in_{AGREES}']} agree, "
        f"{found[f'stand_in_{HIGHER}']} higher, {found[f'stand_in_{LOWER}']} lower."
    )


def reported_table(papers: Path, task: str, ratios: Sequence[float], ours: Mapping[str, Sequence[Averaged]]) -> str:
    """Returns what papers report on a task at some ratios, network and epochs beside it, then our rows.

    Args:
        papers: The csv of claims.
        task: Which.
        ratios: Columns, shares of states removed.
        ours: Averaged rows of arms by what a reader calls their network and its epochs, divided by a semicolon.
    """
    columns = ["Source", "Method", "Network", "Epochs", "Unreduced", *(f"{ratio:g}" for ratio in ratios)]
    grouped: dict[tuple[Any, ...], list[Claim]] = {}
    for claim in _claims(papers):
        if claim["task"] == task and claim.get("accuracy") is not None and not claim.get("versus"):
            key = (f"{claim['source']}; {claim['place']}", claim["arm"], claim.get("network"), claim.get("epochs"))
            grouped.setdefault(key, []).append(claim)
    body = []
    for key, found in grouped.items():
        at = {claim.get("ratio"): f"{claim['accuracy']:g}" for claim in found}
        if not set(at) & set(ratios):
            continue
        full = next((f"{claim['full']:g}" for claim in found if claim.get("full") is not None), NOTHING)
        cells = [NOTHING if part is None else str(part) for part in key]
        body.append([*cells, full, *(at.get(ratio, NOTHING) for ratio in ratios)])
    for network, rows in ours.items():
        name, _, epochs = (part.strip() for part in network.partition(";"))
        full = next(reached(row) for row in rows if row["reduction"] == FULL)
        for arm in dict.fromkeys(label(row) for row in rows if row["reduction"] != FULL):
            at = {row["ratio"]: reached(row) for row in rows if label(row) == arm}
            body.append(["here", arm, name, epochs, full, *(at.get(ratio, NOTHING) for ratio in ratios)])
    return table(columns, body)


def _claims(papers: Path) -> list[Claim]:
    return cast(list[Claim], read_csv(papers))


def _means(rows: Sequence[Row]) -> list[Averaged]:
    return [row for row in aggregate(rows) if not on_test(row)]


def _counted(prefix: str, verdict: Verdict) -> list[str]:
    words = verdict.words.replace("*", "").split(", ")
    return [f"{prefix}{word}" for word in ([*words, "tested"] if verdict.tested else [])]


# ---- what is reported


def _network(claim: Claim) -> str:
    epochs = claim.get("epochs")
    told = NOTHING if epochs is None else f"{epochs} epochs" if isinstance(epochs, int) else str(epochs)
    return f"{claim.get('network') or NOTHING}; {told}"


def _statement(claim: Claim) -> str:
    at = f" at {100 * claim['ratio']:.3g}% of {claim['of']}" if claim.get("ratio") is not None else ""
    at += f" ({claim['kept']})" if claim.get("kept") else ""
    name = "unreduced" if claim["arm"] == UNREDUCED else claim["arm"]
    return f"{name}{at}" + (f", above {claim['versus']}" if claim.get("versus") else "")


def _reported(claim: Claim) -> str:
    if claim.get("said"):
        return str(claim["said"])
    if claim.get("versus"):
        if claim.get("versus_accuracy") is None:
            return "above"
        return f"{claim['accuracy']:g} to {claim['versus_accuracy']:g}"
    if claim.get("lost") is None:
        full = f"{claim['full']:g} → " if claim.get("full") is not None else ""
        return f"{full}{claim['accuracy']:g}"
    change = f"−{claim['lost']:.2f}" if claim["lost"] else "0.00"
    return f"{claim['full']:g} → {claim['accuracy']:g} ({change})" if claim.get("full") is not None else change


# ---- verdicts


def _judged(claim: Claim, means: Sequence[Averaged], recipe: str) -> Verdict:
    """Returns our figure, its difference to the paper's, and how they compare."""
    if claim["arm"] in ELSEWHERE:
        return Verdict(NOTHING, NOTHING, NOT_HERE)
    if claim.get("said"):
        return Verdict(NOTHING, NOTHING, NOT_RUN)
    found = _tested(claim, claim["arm"], means, recipe)
    if claim.get("versus"):
        return _compared(claim, found, _tested(claim, claim["versus"], means, recipe))
    if not found:
        return Verdict(NOTHING, NOTHING, NOT_RUN)
    row = found[0]
    shown, points_lost, found_score = reached(row), row.get("points_lost"), score(row)
    if row["reduction"] != FULL and points_lost is not None:
        shown += f" ({signed(-points_lost)})"
    if (lost := claim.get("lost")) is not None and points_lost is not None:
        difference, error, spread = lost - points_lost, drawn(row), row.get("points_lost_sd")
    else:
        assert found_score is not None, "rows without are left out"
        metric = metric_of(row)
        difference, error = (
            metric.score(metric.factor * found_score - claim["accuracy"]),
            _of_accuracy(found_score, row),
        )
        spread = None if (found_sd := deviation(row)) is None else metric.factor * found_sd
    return Verdict(shown, *_two_sided(difference, _margin(claim, error, spread, row["n"])))


def _of_accuracy(accuracy: float, row: Row) -> float | None:
    """Returns the standard error of one model's accuracy over draws of the test set, in points."""
    n = row.get("test_examples") if metric_of(row) is ACCURACY else None
    return 100 * math.sqrt(accuracy * (1 - accuracy) / n) if n else None


def _margin(claim: Claim, error: float | None, spread: float | None, models: int) -> float | None:
    """Returns two standard errors of the difference between our figure and a paper's, in points."""
    over_models = spread * math.sqrt(1 + 1 / models) if models > 1 and spread is not None else None
    known = [one for one in (over_models, None if error is None else math.sqrt(2) * error) if one is not None]
    return math.hypot(SURE * max(known), claim.get("error") or 0.0) if known else None


def _two_sided(difference: float, margin: float | None) -> tuple[str, str]:
    if margin is None:
        return signed(difference), NO_ERROR
    words = AGREES if abs(difference) <= margin + 1e-9 else HIGHER if difference > 0 else LOWER
    return f"{signed(difference)} ± {margin:.1f}", words


def _compared(claim: Claim, found: Sequence[Averaged], others: Sequence[Averaged]) -> Verdict:
    pairs = [(a, b) for a in found for b in others if a["ratio"] == b["ratio"] and a["experiment"] == b["experiment"]]
    compared = [(a, b, one) for a, b in pairs if (one := lead(a, b)) is not None]
    if not compared:
        return Verdict(NOTHING, NOTHING, NOT_RUN)
    leads = [one for _, _, one in compared]
    points = sum(one.points for one in leads) / len(leads)
    errors = [one.error for one in leads if one.error is not None]
    # Ratios of one model share its luck: their errors are averaged, not divided by the root of their number.
    error = sum(errors) / len(errors) if len(errors) == len(leads) else None
    shown = f"{signed(points)}{'' if error is None else f' ± {error:.1f}'} points"
    shown += f", mean of {len(leads)} ratios" if len(leads) > 1 else ""
    order = NO_ERROR if error is None else OPEN if abs(points) <= SURE * error else HOLDS if points > 0 else REVERSED
    if claim.get("versus_accuracy") is None:
        return Verdict(shown, NOTHING, order)
    a, b, one = compared[0]
    alone = [drawn(a), drawn(b)]
    over_draws = None if None in alone else math.hypot(*alone)  # type: ignore[arg-type]
    read_off: Claim = {"error": math.sqrt(2) * (claim.get("error") or 0.0)}
    margin = _margin(read_off, over_draws, one.spread, one.models)
    difference, words = _two_sided(points - (claim["accuracy"] - claim["versus_accuracy"]), margin)
    return Verdict(shown, difference, words if words == order else f"{words}, {order}")


def _stand_ins(claim: Claim, means: Sequence[Averaged]) -> dict[str, Verdict]:
    """Returns what came of a claim on every stand-in that it was tested on."""
    found = {}
    for recipe in STAND_INS.get(claim["task"], ()):
        if not claim.get("versus") and claim.get("lost") is None and not recipe.endswith(SHORTER):
            continue  # an accuracy of another task says nothing
        found[recipe] = _judged({**claim, "model": None}, means, recipe)
    return {recipe: verdict for recipe, verdict in found.items() if verdict.tested}


def _told(claim: Claim, recipe: str, verdict: Verdict) -> str:
    apart = "" if claim.get("model") in (None, FAMILY) else ", on another kind of network"
    by = "" if verdict.difference == NOTHING else f" ({verdict.difference})"
    return f"{recipe}: {verdict.ours}, {verdict.words}{by}{apart}"


def _recipe(row: Row) -> str:
    """Returns what a row's model was trained by: its task, or a shorter recipe of it, and that of which family."""
    for end in SHORTER:
        short = f"{row.get('task')}{end}"
        if str(row["experiment"]).startswith(short):
            return short if row.get("model", FAMILY) == FAMILY else f"{short}_{row['model']}"
    return str(row.get("task"))


def _tested(claim: Claim, arm: str, means: Sequence[Averaged], recipe: str) -> list[Averaged]:
    """Returns the averaged rows a claim is about, of the study with the most seeds first."""
    rows = [row for row in means if _recipe(row) == recipe and score(row) is not None]
    rows = [row for row in rows if claim.get("model") in (None, row.get("model", FAMILY))]
    if arm == UNREDUCED:
        return sorted((row for row in rows if row["reduction"] == FULL), key=lambda row: -row["n"])
    rows = [row for row in rows if row.get("points_lost") is not None]
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
