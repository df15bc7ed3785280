"""Rows written before rows carried their own settings (schema 2): what the presets stood for then.

Such a row holds its preset's name and some settings, and counts as made with the preset's value where it lacks one. The
tables are the presets as they were when rows got a schema. They are history: editing a yaml changes nothing here, and
presets that came later are in no table, since their rows have a schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s5c.report.row import Row

SCHEMA = 1
"""Of a row whose settings were added to it afterwards, from these tables."""

AXES = ("refit", "sequential", "norm", "readout", "layer_sensitivity", "rounds", "max_drop")
NESTED = {"calibration": ("sequences", "split", "seed", "task"), "finetune": ("epochs", "lr_scale", "rest", "distill")}

BASE: dict[str, Any] = {
    **{"refit": "none", "sequential": "off", "norm": "keep", "readout": "keep", "layer_sensitivity": "none"},
    **{"rounds": 1, "max_drop": None},
    **{f"calibration.{key}": value for key, value in (("sequences", 256), ("split", "train"), ("seed", 0))},
    **{"calibration.task": {}, "finetune.epochs": 0, "finetune.lr_scale": 1.0, "finetune.rest": "keep"},
    "finetune.distill": False,
}

_HINF: dict[str, Any] = {"method": "hinf", "score": "paper", "eps": 0.0}
_AIRE: dict[str, Any] = {"method": "aire", "variant": "modes", "score": "paper", "eps": 0.0, "horizon": "infinite"}
_BT: dict[str, Any] = {
    **{"method": "bt", "balance": "discrete", "horizon": "infinite", "gramian": "white", "variant": "truncation"},
    **{"unstable": "keep", "limit": 1e6},
}
_H2: dict[str, Any] = {
    **{"method": "h2", "horizon": "infinite", "optimiser": "lbfgs", "steps": 500, "learning_rate": 0.01},
    **{"feedthrough": True, "unstable": "keep"},
}
_LQO: dict[str, Any] = {
    **{"method": "lqo", "coefficients": "statistical", "quadratic": 1.0, "horizon": "sequence"},
    **{"layer_weights": "none", "sensitivity": None, "optimiser": "lbfgs", "steps": 300},
}
_CALIBRATED: dict[str, Any] = {"refit": "calibrated", "sequential": "reselect", "readout": "refit", "ridge": 1e-4}
_TRAINED: dict[str, Any] = {"finetune.epochs": 5}

PRESETS: dict[str, dict[str, Any]] = {
    "aire": {**_AIRE, "allocation": "normalised"},
    "aire_greedy": {**_AIRE, "allocation": "greedy", "variant": "gram"},
    "bt": {**_BT, "allocation": "equal"},
    "bt_empirical": {**_BT, "allocation": "tolerance", "gramian": "empirical"},
    "bt_init": {**_BT, "allocation": "equal", **_TRAINED},
    "bt_tolerance": {**_BT, "allocation": "tolerance"},
    "calibrated": {"method": "calibrated", "allocation": "global", **_CALIBRATED},
    "fresh": {"method": "fresh", "allocation": "equal"},
    "fresh_init": {"method": "fresh", "allocation": "equal", **_TRAINED},
    "global_aire": {**_AIRE, "allocation": "global"},
    "global_hinf": {**_HINF, "allocation": "global"},
    "global_magnitude": {"method": "magnitude", "allocation": "global", "power": 1},
    "h2": {**_H2, "allocation": "equal"},
    "lamp": {"method": "magnitude", "allocation": "normalised", "power": 2},
    "last": {**_HINF, "allocation": "normalised"},
    "last_init": {**_HINF, "allocation": "equal", **_TRAINED},
    "lqo": {**_LQO, "allocation": "normalised"},
    "none": {"method": "none", "allocation": "global"},
    "random": {"method": "random", "allocation": "global"},
    "random_init": {"method": "random", "allocation": "equal", **_TRAINED},
    "uniform_aire": {**_AIRE, "allocation": "uniform"},
    "uniform_hinf": {**_HINF, "allocation": "uniform"},
    "uniform_magnitude": {"method": "magnitude", "allocation": "uniform", "power": 1},
    "unstructured_random": {"method": "unstructured_random", "allocation": "global"},
}

REFITS: dict[str, dict[str, Any]] = {
    "h2": {"horizon": "infinite", "feedthrough": True},
    "covariance": {"horizon": "infinite", "feedthrough": True},
    "calibrated": {"ridge": 1e-4, "feedthrough": True, "constant": True},
}
"""Options of the refits; a row holds those that were given on the command line."""


FORMULA: dict[str, Any] = {"unstable": "formula"}
LATER = dict.fromkeys(("hinf", "aire", "magnitude", "random"), FORMULA)
"""Options of methods that are younger than the tables, at the value that every preset has given them: a row that holds
it differs in nothing, and one that lacks the option says nothing of it (`s5c.report.collect`)."""

IGNORED = dict.fromkeys(("unstructured_random", "fresh"), ("refit", "sequential", "norm", "readout", "calibration."))
"""Settings that methods passed over without a word, and their rows hold all the same."""


def differences(row: Row, kind: str) -> dict[str, Any]:
    """Returns the settings of a row that were not its preset's, by key; nested keys have a dot.

    Args:
        row: without a schema.
        kind: of its target.
    """
    preset = PRESETS.get(row["reduction"], {})
    usual = {**LATER.get(str(row.get("method") or preset.get("method")), {}), **BASE, **preset}
    # None: averaged over rows of which some were stored before the key was added.
    found = {key: value for key, value in _held(row).items() if value is not None or usual.get(key) is None}
    own = () if preset else ("method", "allocation")
    ignored = IGNORED.get(str(row.get("method") or preset.get("method")), ())
    found = {key: value for key, value in found.items() if key not in own and not key.startswith(ignored)}
    found = {key: value for key, value in found.items() if key not in usual or usual[key] != value}
    return {**found, "by": kind} if kind in ("order", "tolerance") else found


def settings(row: Row, kind: str) -> dict[str, Any]:
    """Returns every setting that decided a row, in the form in which rows carry them today.

    Args:
        row: without a schema.
        kind: of its target.
    """
    changed = differences(row, kind)
    held = {key: value for key, value in _held(row).items() if value is not None}
    ignored = IGNORED.get(str(held.get("method")), ())
    held = {key: value for key, value in held.items() if not key.startswith(ignored)}
    found = {**BASE, **PRESETS.get(row["reduction"], {}), **held}
    found |= {f"refit_options.{key}": value for key, value in REFITS.get(found["refit"], {}).items()}
    found |= {key: value for key, value in held.items() if key.startswith("refit_options.")}
    unused = [] if _saw_data(found) else ["calibration."]
    unused += [] if found["finetune.epochs"] else ["finetune."]
    unused += ["allocation", "layer_sensitivity"] if "by" in changed else []
    return {key: value for key, value in found.items() if not key.startswith(tuple(unused))} | changed


def _held(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: row[key] for key in ("method", "allocation", *AXES) if key in row}
    found |= row.get("options") or {}
    found |= {f"refit_options.{key}": value for key, value in (row.get("refit_options") or {}).items()}
    for group, keys in NESTED.items():
        found |= {f"{group}.{key}": row[group][key] for key in keys if key in (row.get(group) or {})}
    return found


def _saw_data(found: Mapping[str, Any]) -> bool:
    return (
        found.get("method") == "calibrated"
        or found.get("gramian") == "empirical"
        or found["refit"] in ("calibrated", "covariance")
        or (found["norm"], found["readout"], found["layer_sensitivity"]) != ("keep", "keep", "none")
    )
