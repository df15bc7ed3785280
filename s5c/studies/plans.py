"""The plans of studies, conf/study/*.yaml: which arms a study compares, at which ratios, of which recipes.

A plan is found by its file name, also in the folders of `S5C_PLUGINS`: `conf/study/mine.yaml` is the study TASK_mine of
every recipe TASK_s5.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from s5c import lookup
from s5c.errors import UserError, unknown
from s5c.studies import composed

GROUP = "study"
RATIOS = "ratios"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A kind of study; the fields are the keys of its yaml.

    Attributes:
        name: of the file.
        arms: multiruns, each the overrides of one command, separated by spaces.
        arms_of_unstable: further ones of models with unstable modes.
        arms_of_task: further ones of some tasks, by task.
        ratios: a file of conf/ratios, or the ratios themselves.
        test_examples: test examples that are scored, always the same ones; all if None.
        test_skip: leave out what `test_examples` of this number scores.
        latency: measure speed and memory.
        deploy: keep the networks, and time a step of each where it is reported.
        more_seeds: of trainings besides the recipe's own, of tasks that are small; "" for none.
        not_of: tasks that have no such study.
        other_families: short recipes of other families have it, too.
        not_per_channel: presets that are left out of arms where every channel has a system of its own.
        experiment: end of the name of the experiments whose models it trains again; "" to reduce those of recipes.
        seeds: of the trainings of such experiments, by task; 0 where none are given.
    """

    name: str
    arms: list[str]
    arms_of_unstable: list[str] = dataclasses.field(default_factory=list)
    arms_of_task: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    ratios: str | list[float] = "wide"
    test_examples: int | None = None
    test_skip: int = 0
    latency: bool = False
    deploy: bool = False
    more_seeds: str = ""
    not_of: list[str] = dataclasses.field(default_factory=list)
    other_families: bool = False
    not_per_channel: list[str] = dataclasses.field(default_factory=list)
    experiment: str = ""
    seeds: dict[str, str] = dataclasses.field(default_factory=dict)

    def override_of_ratios(self) -> str:
        """Returns the override that sets the ratios, written out: the name of a run must not depend on a file."""
        values = self.ratios
        if isinstance(values, str):
            values = composed.read(lookup.yaml(RATIOS, values))["ratio"]
        return f"reduction.ratio=[{','.join(f'{value:g}' for value in values)}]"


def plans() -> list[Plan]:
    """Returns all plans, by name."""
    return [read(name) for name in lookup.presets(GROUP)]


def read(name: str) -> Plan:
    """Returns a plan.

    Args:
        name: file name in conf/study.

    Raises:
        UserError: there is none of that name, or a key of it does not exist, is missing or of another type.
    """
    path = lookup.yaml(GROUP, name)
    values = composed.read(path)
    types_of = typing.get_type_hints(Plan)
    allowed = [key for key in types_of if key != "name"]
    for key, value in values.items():
        if key not in allowed:
            raise unknown(f"key of {path}:", key, allowed)
        if not _fits(value, types_of[key]):
            raise UserError(f"{path}: {key}: {value!r} is not of type {_shown(types_of[key])}. Mend the file.")
    if not values.get("arms"):
        raise UserError(f"{path} has no arms: list the overrides of each multirun below `arms:`.")
    if isinstance(values.get(RATIOS), str) and values[RATIOS] not in lookup.presets(RATIOS):
        raise _named(path, unknown("file of conf/ratios", values[RATIOS], lookup.presets(RATIOS)))
    return Plan(name=name, **values)


def _named(path: Path, error: UserError) -> UserError:
    return UserError(f"{path}: {error}")


def _fits(value: Any, kind: Any) -> bool:
    """Returns whether a value of a yaml is of the type of a field; a whole number passes for a float."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _shown(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
