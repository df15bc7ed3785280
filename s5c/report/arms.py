"""Arms: what distinguishes one curve of a comparison from another, and what it is called.

A row says by itself what decided it: `settings` holds every setting, `differences` those that were not its preset's on
the day it was written, `arm` the name made of them, `schema` the version of all this. No yaml is read here, so that a
preset changed later renames nothing. Rows without a schema are older (`s5c.report.schemaless`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from s5c.report import schemaless
from s5c.report.row import FULL, Row
from s5c.report.scores import metric_of, score

UNPRUNED, AS_GIVEN = "unpruned", "as given"
"""What the network that is reduced is called; the second where it is the result of another reduction."""

# Order of presentation: the method under study, what it is compared with, the floors. Other presets come in between.
FIRST = ("last", "uniform_hinf", "global_hinf", "uniform_magnitude", "global_magnitude", "lamp")
FLOORS = ("random", "unstructured_random")

NEUTRAL: dict[str, Any] = {
    **{"refit": "none", "sequential": "off", "norm": "keep", "readout": "keep", "layer_sensitivity": "none"},
    **{"rounds": 1, "max_drop": None, "finetune.epochs": 0},
}
"""Axes at the value that does nothing. A row that lacks an axis, being older than it, has it at this value."""
OLDER: dict[str, dict[str, Any]] = {
    **schemaless.LATER,
    "aire": {"score": "paper", "eps": 0.0, "horizon": "infinite", **schemaless.LATER["aire"]},
    "bt": {"gramian": "white"},
    "lqo": {"shared": "squared"},
}
"""Options that methods got after rows had been stored, at the value that they had had in effect."""

GIVEN = ("of", "weights")
"""Settings that say which network is reduced: the result of another reduction, another step than the best."""

R = TypeVar("R", bound=Row)

SHORT = {
    ("norm", "recalibrate"): "+bn",
    ("unstable", "protect"): "+protect",
    ("unstable", "clip"): "+clip",
    ("sequential", "refit"): "+sequential",
    ("readout", "refit"): "+readout",
    ("readout", "keep"): "-readout",
    ("refit", "h2"): "+refit(h2)",
    ("refit", "calibrated"): "+refit(calibrated)",
    ("finetune.distill", True): "+distil",
}


def settings(row: Row) -> dict[str, Any]:
    """Returns every setting that decided a row but its target and its seeds, by key; nested keys have a dot."""
    if row["reduction"] == FULL or "schema" in row:
        return row.get("settings") or {}
    return schemaless.settings(row, target(row)[0])


def differences(row: Row) -> dict[str, Any]:
    """Returns the settings of a row that were not its preset's, by key; nested keys have a dot."""
    if row["reduction"] == FULL or "schema" in row:
        return row.get("differences") or {}
    return schemaless.differences(row, target(row)[0])


def identity(row: Row) -> str:
    """Returns a text that two rows share if, and only if, they belong to the same arm of whatever study.

    What a preset stood for on the day counts, not what it stands for now.
    """
    found = settings(row)
    usual = {**NEUTRAL, **OLDER.get(str(found.get("method")), {})}
    told = {key: value for key, value in found.items() if key not in usual or usual[key] != value}
    return json.dumps([row["reduction"], told], sort_keys=True)


def before(row: Row) -> str:
    """Returns a text that rows of one training share which start from the same network: its step and its reduction."""
    found = settings(row)
    return json.dumps([found.get(key) for key in GIVEN])


def label(row: Row) -> str:
    """Returns the name of a row's arm: the one it carries, or the one made of what it differs in."""
    return str(row["arm"]) if row.get("arm") else called(row["reduction"], differences(row))


def called(name: str, changed: Mapping[str, Any]) -> str:
    """Returns the name of an arm: its preset, short forms of usual changes, the others in parentheses.

    Args:
        name: of the preset, or `FULL`.
        changed: the differences.
    """
    words, others = _told(changed)
    if name == FULL:
        name = AS_GIVEN if "of" in changed else UNPRUNED
    return " ".join([name, *words]) + (f" ({', '.join(others)})" if others else "")


def _told(changed: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns settings as words, and those that have no short form as text for the parentheses."""
    words, others = [], []
    for key, value in changed.items():
        if key == "finetune.epochs":
            words.append(f"+{value} epoch{'s' * (value != 1)}")
        elif isinstance(value, str | bool) and (key, value) in SHORT:
            words.append(SHORT[key, value])
        elif key == "calibration.sequences":
            others.append(f"{value} sequences")
        elif key == "calibration.task" and value:
            others.append(f"sequences of {value['name']}")
        elif key.startswith("refit_options."):
            others.append(f"refit {key.removeprefix('refit_options.')}={value}")
        else:
            others.append(f"{key} {value}" if key in ("by", "of") else f"{key}={value}")
    return words, others


def named(rows: Iterable[R]) -> list[R]:
    """Returns rows that are compared, each arm of them under one name and each name standing for one arm.

    Rows of one arm may carry different names, a setting having been a preset's own at one time and not at another: the
    newest counts. Arms of one name, made with the preset before and after a change, get the settings that they do not
    share added to it.
    """
    listed = list(rows)
    keys = [identity(row) for row in listed]
    newest: dict[str, R] = {}
    for key, row in zip(keys, listed, strict=True):
        if key not in newest or str(row.get("timestamp") or "") > str(newest[key].get("timestamp") or ""):
            newest[key] = row
    names = {key: label(row) for key, row in newest.items()}
    taken = Counter(names.values())
    for name in [name for name, count in taken.items() if count > 1]:
        alike = {key: settings(newest[key]) for key in names if names[key] == name}
        every = dict.fromkeys(setting for found in alike.values() for setting in found)
        apart = [one for one in every if len({json.dumps(found.get(one)) for found in alike.values()}) > 1]
        shared = [one for one in apart if all(one in found for found in alike.values())]
        if len({json.dumps([found[one] for one in shared]) for found in alike.values()}) == len(alike):
            apart = shared  # of two methods those that both have are enough, and None would stand for the others
        for key, found in alike.items():
            names[key] = _with(name, {setting: found.get(setting) for setting in apart})
    pairs = zip(keys, listed, strict=True)
    return [row if label(row) == names[key] else cast(R, {**row, "arm": names[key]}) for key, row in pairs]


def _with(name: str, changed: Mapping[str, Any]) -> str:
    """Returns the name of an arm with more settings in its parentheses."""
    front, opened, rest = name.partition(" (")
    added = ", ".join(part for parts in _told(changed) for part in parts)
    return f"{front} ({rest.removesuffix(')')}, {added})" if opened else f"{name} ({added})"


def target(row: Row) -> tuple[str, str]:
    """Returns the kind of a row's target (ratio, order, tolerance) and its label in the files beside the row."""
    kind, _, value = str(row.get("target") or "").partition(" ")
    if kind in ("", "ratio"):
        return "ratio", f"{float(value or row.get('ratio') or 0.0):g}"
    return kind, "-".join([kind, *(f"{float(number):g}" for number in re.findall(r"\d[\d.e+-]*", value))])


def asked(row: Row) -> str:
    """Returns what was asked for: the target, or the drop allowed, whose ratio differs from seed to seed."""
    return target(row)[1] if row.get("max_drop") is None else f"max_drop-{row['max_drop']:g}"


def on_test(row: Row) -> bool:
    """Returns whether a row's checkpoint was selected on the test split: `protocol=paper` where the papers do so."""
    return bool(row.get("protocol") == "paper" and row.get("selected_on", "test") != "validation")


def missed(row: Row) -> float | None:
    """Returns the share of states really removed where it is another than asked for, by a whole state or more.

    A state of every layer always stays, and unstable ones; less than a state is rounding.
    """
    asked_for, achieved, states = row.get("ratio"), row.get("ratio_achieved"), row.get("states_full")
    if row["reduction"] == FULL or asked_for is None or achieved is None or not states:
        return None
    return achieved if abs(achieved - asked_for) * states >= 1 - 1e-6 else None


def removed(row: Row) -> float:
    """Returns the share of states removed: the ratio asked for, or what became of it."""
    found = missed(row)
    return float(row["ratio"]) if found is None else found


def by_arm(rows: Iterable[R]) -> dict[str, list[R]]:
    """Returns the rows of every arm under its name, without those of the unpruned model."""
    grouped: dict[str, list[R]] = {}
    for row in named(row for row in rows if row["reduction"] != FULL):
        grouped.setdefault(label(row), []).append(row)
    return grouped


def best_first(arms: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the names of arms by their mean lead over the average arm at the same ratio, the largest first.

    The lead makes arms comparable that were not tested at the same ratios.

    Args:
        arms: averaged rows as `by_arm` groups them.
    """
    scored = {
        name: [(row["ratio"], metric_of(row).score(found)) for row in rows if (found := score(row)) is not None]
        for name, rows in arms.items()
    }
    at: dict[float, list[float]] = {}
    for ratio, accuracy in (pair for pairs in scored.values() for pair in pairs):
        at.setdefault(ratio, []).append(accuracy)

    def lead(name: str) -> float:
        leads = [accuracy - sum(at[ratio]) / len(at[ratio]) for ratio, accuracy in scored[name]]
        return sum(leads) / len(leads) if leads else float("-inf")

    return sorted(arms, key=lead, reverse=True)


def rank(row: Row) -> int:
    """Returns the place of a row's preset in the order of presentation."""
    name = row["reduction"]
    if name in FLOORS:
        return len(FIRST) + 2 + FLOORS.index(name)
    return {FULL: 0, **{first: 1 + i for i, first in enumerate(FIRST)}}.get(name, len(FIRST) + 1)
