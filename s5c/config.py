"""The configuration of a job: yaml checked against dataclasses, and turned into plain objects.

Nothing below the entry points sees a config object. Every group is checked against the dataclass of the code that it
configures: a task's against its `Task`, a method's against its `Method`, those of an axis against the `Axis` that they
set, and so on; the keys that all tasks, all reductions etc. share are the dataclasses of `s5c.keys`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from s5c import axes
from s5c.axes import ReductionJob
from s5c.data.base import ADDED_LATER, Task, task_class
from s5c.data.origin import PLACE_KEYS
from s5c.errors import UserError, check_numbers, nearest_first, unknown
from s5c.keys import AUTO, RATIO, ReductionKeys, TaskKeys
from s5c.locations import chosen_results, for_checkpoints
from s5c.model.config import ModelConfig, load_family
from s5c.reduction.contract import load_allocation, load_refit, method_class
from s5c.reduction.size import number_of_bytes
from s5c.reduction.target import Target
from s5c.training.loop import Recipe

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TaskJob:
    """A task with its split rule.

    Attributes:
        keys: what all tasks have in common.
        task: loads the data.
        description: all keys but those that say where the data lies, and those added later at their default.
    """

    keys: TaskKeys
    task: Task
    description: dict[str, Any]


WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Types of keys as people call them."""


def _in_words(expected: str) -> str:
    """Returns what a key of a type takes; the type itself if there is no word for it."""
    kind = expected.removesuffix(" | None")
    return WORDS.get(kind, "a value of that type") + (" or null" if kind != expected else "")


def _of_several(key: str, value: Any, expected: str) -> str:
    """Returns what to write where a list was given for one value."""
    if not isinstance(value, list | dict):
        return ""
    if isinstance(value, list) and value and expected.partition(" ")[0] in ("int", "float", "bool"):
        return f" Several are tried one after the other: -m {key}={','.join(map(str, value))}"
    return f" Text is quoted twice: '{key}=\"[x]\"'."


def build(schema: type[T], values: Mapping[str, Any], where: str) -> T:
    """Makes a dataclass from a group's values.

    Args:
        schema: a dataclass; its fields are the allowed keys.
        values: the group's values.
        where: the group's name, for messages.

    Raises:
        UserError: no group, a key that does not exist, is missing or has the wrong type, or a number out of bounds.
    """
    allowed = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise UserError(f"{where}={values!r} is no group of keys: its keys are {', '.join(allowed) or '(none)'}.")
    for key in values:
        if key not in allowed:
            raise unknown("key", f"{where}.{key}", [f"{where}.{name}" for name in allowed])
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, False)  # a frozen dataclass makes a read-only node
    for key, value in values.items():
        expected = next(f.type for f in dataclasses.fields(schema) if f.name == key)  # type: ignore[arg-type]
        try:
            if expected == "bool" and not isinstance(value, str) and value not in (True, False):
                raise ValidationError("a number for a yes or no")  # OmegaConf takes any number for true
            OmegaConf.update(node, key, value)
        except OmegaConfBaseException as error:
            told = f"{where}.{key}={value!r} is not of type {expected}: give {_in_words(str(expected))}."
            raise UserError(told + _of_several(f"{where}.{key}", value, str(expected))) from error
    missing = [key for key in allowed if OmegaConf.is_missing(node, key)]
    if missing:
        raise UserError(f"{where}.{missing[0]} is not set: add {where}.{missing[0]}=... to the command or the yaml.")
    made = schema(**OmegaConf.to_container(node))  # type: ignore[arg-type]
    check_numbers(made, where)
    return made


def task_job(group: Mapping[str, Any]) -> TaskJob:
    """Resolves the `task` group."""
    for key in group:
        if key.endswith("seed"):
            seed_number(group[key], f"task.{key}")
    shared, own = _split(TaskKeys, group)
    keys = build(TaskKeys, shared, "task")
    schema = task_class(keys.name)
    both = {field.name for field in dataclasses.fields(schema)} & {field.name for field in dataclasses.fields(TaskKeys)}
    task = build(schema, {**own, **{key: getattr(keys, key) for key in both}}, "task")
    silent = {field.name: field.default for field in dataclasses.fields(schema) if field.metadata == ADDED_LATER}
    described = {
        key: value
        for key, value in own.items()
        if key not in PLACE_KEYS and not (key in silent and value == silent[key])
    }
    return TaskJob(keys, task, {**dataclasses.asdict(keys), **described})


def model_config(group: Mapping[str, Any]) -> ModelConfig:
    """Resolves the `model` group."""
    values = dict(group)
    return build(load_family(str(values.pop("name", ""))).Config, values, "model")


def recipe(group: Mapping[str, Any]) -> tuple[Recipe, float]:
    """Resolves the `train` group: the recipe, and the minutes between checkpoints, which do not change the result."""
    values = dict(group)
    minutes = values.pop("checkpoint_minutes", 10.0)
    return build(Recipe, values, "train"), _minutes(minutes)


def reduction_job(group: Mapping[str, Any], preset: tuple[str, Mapping[str, Any]] | None = None) -> ReductionJob:
    """Resolves the `reduction` group.

    Args:
        group: its keys.
        preset: name and keys of the preset as it is without the command line and the experiment
            (`s5c.presets.chosen`), which says what is a difference; None if it is not known.

    Raises:
        UserError: unknown method, allocation, refit or key, a target out of range, or a setting that changes nothing.
    """
    job = _unchecked(group)
    if preset is not None:
        try:
            usual = axes.flat(_unchecked(preset[1]))
        except UserError:  # a preset that is complete on this command line only
            usual = None
        job = dataclasses.replace(job, preset=preset[0], usual=usual)
    axes.check(job)
    return job


def _unchecked(group: Mapping[str, Any]) -> ReductionJob:
    found, rest = [], dict(group)
    for schema in axes.find():
        if schema.GROUP:
            keys = rest.pop(schema.GROUP, None)
            found.append(build(schema, {} if keys is None else keys, f"reduction.{schema.GROUP}"))
        else:
            mine, rest = _split(schema, rest)
            found.append(build(schema, mine, "reduction"))
    shared, own = _split(ReductionKeys, rest)
    keys = build(ReductionKeys, shared, "reduction")
    allocation = load_allocation(keys.allocation)
    asked = {key: value for axis in found if not axis.GROUP for key, value in dataclasses.asdict(axis).items()}
    refit = build(load_refit(asked["refit"]), asked["refit_options"], "reduction.refit_options")
    of_method = method_class(keys.method)
    known = [field.name for schema in (of_method, ReductionKeys) for field in dataclasses.fields(schema)]
    for key in own:
        if key not in known:
            raise unknown("key", f"reduction.{key}", [f"reduction.{name}" for name in (*known, *asked)])
    targets = _targets({**dataclasses.asdict(keys), **asked})
    return ReductionJob(keys, build(of_method, own, "reduction"), own, targets, refit, allocation, tuple(found))


LISTS = {"ratio": "[0.3,0.5]", "params": "[0.3,0.5]", "bytes": "[20k,32k]", "order": "[8,4]", "tolerance": "[0.01,0.1]"}
"""Targets of every kind, as they may be given."""


def _targets(keys: Mapping[str, Any]) -> tuple[Target, ...]:
    given = [kind for kind in ("params", "bytes", "order", "tolerance", "max_drop") if keys[kind] is not None]
    if given and keys["ratio"] not in (None, AUTO):
        given.append("ratio")
    if len(given) > 1:
        raise UserError(
            f"{' and '.join(f'reduction.{kind}={keys[kind]}' for kind in given[:2])} are both set: choose one "
            f"and leave the other at {AUTO if given[1] == 'ratio' else 'null'}."
        )
    kind = given[0] if given else "ratio"
    if kind == "max_drop":
        return ()
    value = RATIO if keys[kind] == AUTO else keys[kind]
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(
            f"reduction.{kind}=[] is empty: give a number or a list such as reduction.{kind}={LISTS[kind]}."
        )
    if kind == "order":
        targets = tuple(Target(kind, tuple(_orders(value))) for value in values)
    elif kind == "bytes":
        targets = tuple(Target(kind, number_of_bytes(value)) for value in values)
    else:
        targets = tuple(Target(kind, _number(value, f"reduction.{kind}")) for value in values)
    for label, count in Counter(target.label for target in targets).items():
        if count > 1:
            raise UserError(
                f"reduction.{kind}={value} asks {count} times for {label.removeprefix(f'{kind}-')}, to six digits, by "
                "which results are told apart: give every target once."
            )
    return targets


def _orders(value: Any) -> list[int]:
    orders = value if isinstance(value, list) else [value]
    if not orders or any(isinstance(order, bool) or not isinstance(order, int) or order < 1 for order in orders):
        raise UserError(f"reduction.order={value!r}: give whole numbers from 1 on, such as reduction.order=[8,4].")
    return orders


def plain(config: DictConfig) -> dict[str, Any]:
    """Returns the composed configuration with all interpolations resolved, as plain containers.

    Raises:
        UserError: a key that every command must set is not set.
    """
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} is not set: add {missing[0]}=... to the command.")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def check_keys(values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raises `UserError` for a top-level key that the entry point does not have (Hydra lets `+key=` add any)."""
    for key in values:
        if key not in ("results_dir", "name", *allowed):
            raise unknown("key", key, ["results_dir", "name", *allowed])


def results_folder(config: Mapping[str, Any]) -> Path:
    """Returns the absolute results folder; raises `UserError` if it is none, or stores no checkpoints."""
    folder = chosen_results(config["results_dir"])
    for_checkpoints(folder / str(config.get("name") or ""))
    return folder


def jsonable(value: Any) -> Any:
    """Returns `value` as JSON would read it back."""
    return json.loads(json.dumps(value, default=str))


def _split(schema: type, group: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    shared = {field.name for field in dataclasses.fields(schema)}
    return (
        {key: value for key, value in group.items() if key in shared},
        {key: value for key, value in group.items() if key not in shared},
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}={value!r} is not a number: write for instance {where}=0.5.")
    return float(value)


def _minutes(value: Any) -> float:
    minutes = _number(value, "train.checkpoint_minutes")
    if not 0 <= minutes < math.inf:
        raise UserError(f"train.checkpoint_minutes={value}: give a finite number of at least 0.")
    return minutes


def suggest_key(config: DictConfig, path: str) -> str:
    """Returns a sentence naming the keys that exist where `path` was looked for, nearest first."""
    *parents, last = path.split(".")
    node: Any = config
    known: list[str] = []
    for name in parents:
        if not OmegaConf.is_dict(node) or name not in node:
            last = name
            break
        known.append(name)
        node = node[name]
    keys = nearest_first(last, [str(key) for key in node]) if OmegaConf.is_dict(node) else []
    return f"Keys{' of ' + '.'.join(known) if known else ''}, nearest first: {', '.join(keys)}."


def seed_number(value: Any, where: str) -> int:
    """Returns `value`, or raises `UserError` unless it is an integer that random generators accept."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise UserError(f"{where}={value!r} is not an integer from 0 to 2**32 - 1: write for instance {where}=0.")
    return value
