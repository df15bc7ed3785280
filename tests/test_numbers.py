"""Every number of every configuration is finite and within its bounds, or refused before anything is done."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import jobs
import pytest

from s5c import axes
from s5c import config as settings
from s5c.data.base import names, task_class
from s5c.errors import UserError, bounded, check_numbers
from s5c.keys import EvaluationKeys, ReductionKeys, TaskKeys
from s5c.model.config import families, load_family
from s5c.reduction.contract import load_refit, method_class, method_names, refit_names
from s5c.train import resolve
from s5c.training.loop import Recipe

SCHEMAS: dict[str, type] = {
    "evaluation": EvaluationKeys,
    "reduction": ReductionKeys,
    **{f"reduction.{axis.GROUP}" if axis.GROUP else f"axis:{axis.__module__}": axis for axis in axes.find()},
    "task": TaskKeys,
    "train": Recipe,
    **{f"model:{name}": load_family(name).Config for name in families()},
    **{f"method:{name}": method_class(name) for name in method_names()},
    **{f"refit:{name}": load_refit(name) for name in refit_names()},
    **{f"task:{name}": task_class(name) for name in names()},
}

LATER = {("train", "batch_size")}
"""Compared with the data when they are there."""


def numbers() -> Iterator[Any]:
    """Yields where, which field, and whether it is an integer or a list, for every number of every schema."""
    for where, schema in SCHEMAS.items():
        hints = typing.get_type_hints(schema)
        for field in dataclasses.fields(schema):
            kinds = {hints[field.name], *typing.get_args(hints[field.name])}
            if kinds & {int, float} and bool not in kinds:
                yield pytest.param(where, field.name, id=f"{where}.{field.name}")


def given(where: str, schema: type) -> dict[str, Any]:
    """Returns values that a schema cannot do without."""
    if where.startswith("model:"):
        preset = jobs.compose("train", f"model={where.partition(':')[2]}")["model"]
        required = {field.name for field in dataclasses.fields(schema) if field.default is dataclasses.MISSING}
        return {key: value for key, value in preset.items() if key in required}
    names = {"reduction": {"name": "x", "method": "hinf", "allocation": "global"}, "task": {"name": "digits"}}
    return names.get(where, {"epochs": 3, "batch_size": 2} if where == "train" else {})


@pytest.mark.parametrize(("where", "field"), numbers())
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan"), True, "x", -1, -1.5])
def test_a_number_that_is_none_is_refused(where: str, field: str, value: Any) -> None:
    schema = SCHEMAS[where]
    default = next(f.default for f in dataclasses.fields(schema) if f.name == field)
    listed = isinstance(default, list) or str(typing.get_type_hints(schema)[field]).startswith(("list", "tuple"))
    if (where, field) in LATER and value == -1:
        return
    with pytest.raises(UserError, match=field):
        settings.build(schema, {**given(where, schema), field: [value] * 3 if listed else value}, where)


GROUPS = ("model", "train", "evaluation", "reduction", "task")


@pytest.mark.parametrize("group", GROUPS)
def test_every_number_of_a_command_is_checked(group: str) -> None:
    """Of the groups as they are composed, those within `calibration` and `finetune` and the seeds among them."""
    values = jobs.compose("train")
    checked = 0
    for path in list(_paths(values[group])):
        for bad in (float("nan"), -7):
            changed = copy.deepcopy(values)
            place = changed[group]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = bad
            if path == ("batch_size",) and group == "train" and bad == -7:
                continue
            with pytest.raises(UserError):
                resolve(changed)
            checked += 1
    assert checked > 2


def _paths(group: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in group.items():
        if isinstance(value, dict):
            yield from _paths(value, (*before, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*before, key)


@dataclasses.dataclass(frozen=True)
class Stranger:
    """A method from outside, without checks of its own.

    Attributes:
        eps: anything finite.
        power: bounded.
        noise_seed: of what it draws.
        several: positive.
        on: yes or no.
    """

    eps: float = 0.0
    power: float = bounded(1.0, above=0, most=2)
    noise_seed: int = 0
    several: tuple[float, ...] | None = bounded(None, above=0)
    on: bool = False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eps": float("nan")}, r"reduction.eps=nan: give a finite number\."),
        ({"power": 0}, r"reduction.power=0.0: give a finite number above 0 and of at most 2\."),
        ({"power": 2.5}, "reduction.power=2.5"),
        (
            {"noise_seed": -1},
            "reduction.noise_seed=-1: .*at least 0 and of at most 4294967295",
        ),
        ({"several": [1.0, -1.0]}, r"reduction.several=.*above 0"),
        ({"several": [float("inf")]}, "reduction.several"),
        ({"on": 3}, "reduction.on=3 is not of type bool"),
    ],
)
def test_a_method_from_outside_is_checked_by_its_annotations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.build(Stranger, values, "reduction")


def test_numbers_within_bounds_pass() -> None:
    made = settings.build(Stranger, {"eps": -3, "power": 2, "noise_seed": 2**32 - 1, "on": True}, "reduction")
    assert (made.eps, made.power, made.noise_seed, made.on) == (-3.0, 2.0, 2**32 - 1, True)
    check_numbers(made, "reduction")
    for minutes in (float("nan"), -1, float("inf")):
        with pytest.raises(UserError, match=r"train\.checkpoint_minutes"):
            settings.recipe({"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "checkpoint_minutes": minutes})
