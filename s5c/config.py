"""The configuration of a job: yaml checked against dataclasses, and turned into plain objects.

Nothing below the entry points sees a config object. Every group is checked against the dataclass of the code that it
configures: a task's against its `Task`, a method's against its `Method`, and so on; the keys that all tasks, all
reductions etc. share are the dataclasses of `s5c.keys`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s5c.data.base import Task, task_class
from s5c.data.origin import PLACE_KEYS
from s5c.errors import UserError, nearest_first, unknown
from s5c.keys import CalibrationKeys, FinetuneKeys, ReductionKeys, TaskKeys
from s5c.model.config import ModelConfig, load_family
from s5c.reduction.contract import Method, Refit, load_allocation, load_refit, method_class
from s5c.reduction.target import Target
from s5c.training.loop import Recipe

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TaskJob:
    """A task with its split rule.

    Attributes:
        keys: what all tasks have in common.
        task: loads the data.
        description: all keys but those that say where the data lies.
    """

    keys: TaskKeys
    task: Task
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ReductionJob:
    """One reduction preset with all its targets.

    Attributes:
        keys: what all presets have in common.
        method: what reduces.
        options: the method's own keys.
        targets: what is asked for; empty with `max_drop`.
        refit: solves the outputs of the reduced layers anew.
        calibration: which sequences are looked at.
        finetune: the training afterwards.
    """

    keys: ReductionKeys
    method: Method
    options: dict[str, Any]
    targets: tuple[Target, ...]
    refit: Refit
    calibration: CalibrationKeys
    finetune: FinetuneKeys


def build(schema: type[T], values: Mapping[str, Any], where: str) -> T:
    """Makes a dataclass from a group's values.

    Args:
        schema: a dataclass; its fields are the allowed keys.
        values: the group's values.
        where: the group's name, for messages.

    Raises:
        UserError: a key that does not exist, is missing or has the wrong type.
    """
    allowed = [field.name for field in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for key in values:
        if key not in allowed:
            raise unknown("key", f"{where}.{key}", [f"{where}.{name}" for name in allowed])
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, False)  # a frozen dataclass makes a read-only node
    for key, value in values.items():
        try:
            OmegaConf.update(node, key, value)
        except OmegaConfBaseException as error:
            expected = next(f.type for f in dataclasses.fields(schema) if f.name == key)  # type: ignore[arg-type]
            raise UserError(f"{where}.{key}={value!r} is not of type {expected}: give a value of that type.") from error
    missing = [key for key in allowed if OmegaConf.is_missing(node, key)]
    if missing:
        raise UserError(f"{where}.{missing[0]} is not set: add {where}.{missing[0]}=... to the command or the yaml.")
    return schema(**OmegaConf.to_container(node))  # type: ignore[arg-type]


def task_job(group: Mapping[str, Any]) -> TaskJob:
    """Resolves the `task` group."""
    for key in group:
        if key.endswith("seed"):
            seed_number(group[key], f"task.{key}")
    shared, own = _split(TaskKeys, group)
    keys = build(TaskKeys, shared, "task")
    task = build(task_class(keys.name), own, "task")
    described = {key: value for key, value in own.items() if key not in PLACE_KEYS}
    return TaskJob(keys, task, {**dataclasses.asdict(keys), **described})


def model_config(group: Mapping[str, Any]) -> ModelConfig:
    """Resolves the `model` group."""
    values = dict(group)
    return build(load_family(str(values.pop("name", ""))).Config, values, "model")


def recipe(group: Mapping[str, Any]) -> tuple[Recipe, float]:
    """Resolves the `train` group: the recipe, and the minutes between checkpoints, which do not change the result."""
    values = dict(group)
    minutes = values.pop("checkpoint_minutes", 10.0)
    return build(Recipe, values, "train"), _number(minutes, "train.checkpoint_minutes")


def reduction_job(group: Mapping[str, Any]) -> ReductionJob:
    """Resolves the `reduction` group.

    Raises:
        UserError: unknown method, allocation, refit or key, or a target out of range.
    """
    group = dict(group)
    calibration = build(CalibrationKeys, group.pop("calibration", None) or {}, "reduction.calibration")
    finetune = build(FinetuneKeys, group.pop("finetune", None) or {}, "reduction.finetune")
    shared, own = _split(ReductionKeys, group)
    keys = build(ReductionKeys, shared, "reduction")
    load_allocation(keys.allocation)
    refit = build(load_refit(keys.refit), keys.refit_options, "reduction.refit_options")
    method = build(method_class(keys.method), own, "reduction")
    if keys.rounds > 1 and not finetune.epochs:
        raise UserError(
            f"reduction.rounds={keys.rounds}: without training in between, rounds change nothing. Add "
            "reduction.finetune.epochs=1, or leave rounds at 1."
        )
    return ReductionJob(keys, method, own, _targets(keys), refit, calibration, finetune)


def _targets(keys: ReductionKeys) -> tuple[Target, ...]:
    given = [kind for kind in ("order", "tolerance", "max_drop") if getattr(keys, kind) is not None]
    if len(given) > 1:
        raise UserError(f"reduction.{given[0]} and reduction.{given[1]} are both set: choose one.")
    kind = given[0] if given else "ratio"
    if kind == "max_drop":
        return ()
    value = getattr(keys, kind)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"reduction.{kind}=[] is empty: give a number or a list such as reduction.ratio=[0.3,0.5].")
    if kind == "order":
        return tuple(Target(kind, tuple(_orders(value))) for value in values)
    return tuple(Target(kind, _number(value, f"reduction.{kind}")) for value in values)


def _orders(value: Any) -> list[int]:
    orders = value if isinstance(value, list) else [value]
    if not orders or any(isinstance(order, bool) or not isinstance(order, int) for order in orders):
        raise UserError(f"reduction.order={value!r}: give whole numbers, such as reduction.order=[8,4].")
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
    """Returns the absolute results folder."""
    return Path(config["results_dir"]).expanduser().absolute()


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
