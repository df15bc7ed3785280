"""Arms: what distinguishes one curve of a comparison from another, and what it is called.

An arm is a preset and everything in which a row differs from that preset's yaml. A stored row may lack keys that were
added later; it counts as made with the preset's value.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from s5c.locations import conf_dir

Row = dict[str, Any]

FULL = "full"

# Order of presentation: the method under study, what it is compared with, the floors. Other presets come in between.
FIRST = ("last", "uniform_hinf", "global_hinf", "uniform_magnitude", "global_magnitude", "lamp")
FLOORS = ("random", "unstructured_random")

AXES = ("refit", "sequential", "norm", "readout", "layer_sensitivity", "rounds", "max_drop")
NESTED = {"calibration": ("sequences", "split", "seed", "task"), "finetune": ("epochs", "lr_scale", "rest", "distill")}
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


def differences(row: Row) -> dict[str, Any]:
    """Returns the settings of a row that are not its preset's, by key; nested keys have a dot."""
    preset = _preset(row["reduction"])
    found = {key: row[key] for key in (*(("method", "allocation") if preset else ()), *AXES) if key in row}
    found |= row.get("options") or {}
    found |= {f"refit_options.{key}": value for key, value in (row.get("refit_options") or {}).items()}
    for group, keys in NESTED.items():
        found |= {f"{group}.{key}": row[group][key] for key in keys if key in (row.get(group) or {})}
    usual = {**_preset("_base"), **preset}
    # None: averaged over rows of which some were stored before the key was added.
    found = {key: value for key, value in found.items() if value is not None or usual.get(key) is None}
    found = {key: value for key, value in found.items() if key not in usual or usual[key] != value}
    kind = target(row)[0]
    return {**found, "by": kind} if kind in ("order", "tolerance") else found


def identity(row: Row) -> str:
    """Returns a text that two rows share if, and only if, they belong to the same arm of whatever study."""
    return json.dumps([row["reduction"], differences(row)], sort_keys=True)


def label(row: Row) -> str:
    """Returns the name of a row's arm: its preset, short forms of usual changes, the others in parentheses."""
    if row["reduction"] == FULL:
        return "unpruned"
    words, others = [row["reduction"]], []
    for key, value in differences(row).items():
        if key == "finetune.epochs":
            words.append(f"+{value} epoch{'s' * (value != 1)}")
        elif isinstance(value, str | bool) and (key, value) in SHORT:
            words.append(SHORT[key, value])
        elif key == "calibration.sequences":
            others.append(f"{value} sequences")
        elif key == "calibration.task":
            others.append(f"sequences of {value['name']}")
        elif key.startswith("refit_options."):
            others.append(f"refit {key.removeprefix('refit_options.')}={value}")
        else:
            others.append(f"by {value}" if key == "by" else f"{key}={value}")
    return " ".join(words) + (f" ({', '.join(others)})" if others else "")


def target(row: Row) -> tuple[str, str]:
    """Returns the kind of a row's target (ratio, order, tolerance) and its label in the files beside the row."""
    kind, _, value = str(row.get("target") or "").partition(" ")
    if kind in ("", "ratio"):
        return "ratio", f"{row.get('ratio') or 0.0:g}"
    return kind, "-".join([kind, *(f"{float(number):g}" for number in re.findall(r"\d[\d.e+-]*", value))])


def asked(row: Row) -> str:
    """Returns what was asked for: the target, or the drop allowed, whose ratio differs from seed to seed."""
    return target(row)[1] if row.get("max_drop") is None else f"max_drop-{row['max_drop']:g}"


def by_arm(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Returns the rows of every arm under its name, without those of the unpruned model."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row["reduction"] != FULL:
            grouped.setdefault(label(row), []).append(row)
    return grouped


def best_first(arms: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the names of arms by their mean lead over the average arm at the same ratio, the largest first.

    The lead makes arms comparable that were not tested at the same ratios.

    Args:
        arms: averaged rows as `by_arm` groups them.
    """
    at: dict[float, list[float]] = {}
    for row in (row for rows in arms.values() for row in rows if row.get("test_accuracy") is not None):
        at.setdefault(row["ratio"], []).append(row["test_accuracy"])

    def lead(name: str) -> float:
        scored = [row for row in arms[name] if row.get("test_accuracy") is not None]
        leads = [row["test_accuracy"] - sum(at[row["ratio"]]) / len(at[row["ratio"]]) for row in scored]
        return sum(leads) / len(leads) if leads else float("-inf")

    return sorted(arms, key=lead, reverse=True)


def rank(row: Row) -> int:
    """Returns the place of a row's preset in the order of presentation."""
    name = row["reduction"]
    if name in FLOORS:
        return len(FIRST) + 2 + FLOORS.index(name)
    return {FULL: 0, **{first: 1 + i for i, first in enumerate(FIRST)}}.get(name, len(FIRST) + 1)


@functools.cache
def _preset(name: str) -> dict[str, Any]:
    """Returns the keys of a preset's yaml, nested ones with a dot; none for a preset that is no more."""
    path = conf_dir() / "reduction" / f"{name}.yaml"
    values = yaml.safe_load(path.read_text("utf-8")) if re.fullmatch(r"\w+", name) and path.is_file() else {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    known = flat if name == "_base" else {**_preset("_base"), **flat}
    referred = {key: re.fullmatch(r"\$\{reduction\.([\w.]+)\}", str(value)) for key, value in flat.items()}
    flat |= {key: known.get(match[1]) for key, match in referred.items() if match}
    return {key: _number(value) for key, value in flat.items()}


def _number(value: Any) -> Any:
    """Returns 1e-3, which YAML 1.1 takes for text, as the number that Hydra reads."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
