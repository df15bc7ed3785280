"""What a person says about a network of other code: its options, and perhaps its task and its training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5c import config as settings
from s5c import lookup
from s5c.data.base import task_class
from s5c.errors import UserError, unknown
from s5c.model.config import families
from s5c.pipeline.given_answers import arrays_of
from s5c.studies import composed
from s5c.training.loop import Recipe
from s5c.upstream import options

OF_S5C = (
    "backend",
    "precision",
    "remat",
    "mask_padding",
    "init",
    "variant",
    "shared_poles",
    "separate_steps",
    "family",
)
"""Keys of a model of s5c that are not of its weights."""
ARRAYS, TEXTS = ".npz", (".yaml", ".yml", ".json", ".sh", ".txt")
LARGEST = 2**20

TRAINING = {
    **{"epochs": "epochs", "bsz": "batch_size", "ssm_lr_base": "ssm_lr", "lr_factor": "lr_factor", "lr_min": "lr_min"},
    **{
        "weight_decay": "weight_decay",
        "warmup_end": "warmup_epochs",
        "opt_config": "grouping",
        "dt_global": "dt_global",
    },
}
"""Options of upstream's trainings, as a recipe of s5c calls them."""
UNSAID: Mapping[str, Any] = {"lr_factor": 1.0, "weight_decay": 0.05, "warmup_epochs": 1}
"""What upstream takes for options that are not given, where s5c takes something else."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What was said.

    Attributes:
        options: of the network, in whatever words.
        incidental: those of them that are not held against a layout that does not understand them, by s5c's names.
        task: task of s5c with its options; None if it was not said.
        training: recipe of s5c; None if it was not said.
        family: family of s5c; None if it was not said.
    """

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    incidental: frozenset[str] = frozenset()
    task: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    family: str | None = None


def read(given: object) -> Given:
    """Returns what a recipe says.

    Args:
        given: None; options; a name in conf/experiment; the path of a yaml or JSON file of options, of an `.npz` with
            `config`, or of a script with an argument line; or such a line.

    Raises:
        UserError: there is no such name or file, or it holds something else.
    """
    if given is None:
        return Given()
    if isinstance(given, Mapping):
        return _of_mapping(given, "recipe=")
    text = str(given).strip()
    if options.is_line(text):
        return _of_line(text)
    path = Path(text).expanduser()
    if path.is_file():
        return _of_file(path)
    if path.suffix in (ARRAYS, *TEXTS) or "/" in text:
        raise UserError(f"recipe={text}: there is no such file.")
    names = lookup.presets(composed.EXPERIMENT)
    if text not in names:
        raise unknown("recipe", text, names)
    return _of_mapping(composed.experiment(text), f"recipe={text}")


def training(name: str) -> dict[str, Any]:
    """Returns the recipe of an experiment's training.

    Args:
        name: file name in conf/experiment.

    Raises:
        UserError: there is none of that name.
    """
    found = read(name)
    if found.training is None:
        raise UserError(f"recipe={name} says nothing about a training: give the name of an experiment.")
    return found.training


def _of_line(text: str) -> Given:
    found = options.of_line(text)
    said = {ours: found[theirs] for theirs, ours in TRAINING.items() if found.get(theirs) is not None}
    training = None
    if {"epochs", "batch_size"} <= said.keys():
        training = dataclasses.asdict(settings.build(Recipe, {**UNSAID, **said}, "recipe"))
    return Given(found, frozenset(options.OPTIONS), training=training)


def _of_file(path: Path) -> Given:
    if path.suffix == ARRAYS:
        arrays = arrays_of(path, "recipe=")
        if "config" not in arrays:
            raise UserError(f"recipe={path} has no entry 'config' with the options of a network.")
        return _of_mapping(_parsed(str(arrays["config"]), path), f"recipe={path}")
    if path.stat().st_size > LARGEST:
        raise UserError(f"recipe={path} is too large for a file of options.")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"recipe={path} is no text: give a yaml or JSON file of options.") from error
    # A comment of a yaml file may have an option of a command line in it.
    if options.is_line("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))):
        return _of_line(text)
    if text.lstrip().startswith("{"):
        return _of_mapping(_parsed(text, path), f"recipe={path}")
    return _of_mapping(composed.read(path), f"recipe={path}")


def _parsed(text: str, path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"recipe={path} cannot be read: {' '.join(str(error).split())[:150]}.") from error
    if not isinstance(found, Mapping):
        raise UserError(f"recipe={path} holds no options: write one KEY: VALUE a line, or upstream's argument line.")
    return found


def _of_mapping(found: Mapping[Any, Any], where: str) -> Given:
    model, task, train = (found.get(key) for key in ("model", "task", "train"))
    if isinstance(model, Mapping):  # a whole experiment, or config.resolved.yaml of a run
        recipe = None
        if isinstance(train, Mapping):
            recipe = {key: value for key, value in train.items() if key != "checkpoint_minutes"}
        whole = _of_mapping(model, where)
        told = dict(task) if isinstance(task, Mapping) else None
        if told is not None and getattr(task_class(str(told.get("name"))), "reads_tokens", False):
            whole = dataclasses.replace(whole, options={"tokens": True, **whole.options})
        family = str(model["name"]) if model.get("name") in families() else None
        return dataclasses.replace(
            whole, task=told, training=recipe, family=family, incidental=frozenset(options.OPTIONS)
        )
    for key, value in found.items():
        if not isinstance(key, str):
            raise UserError(f"{where}: {key!r} is no name of an option.")
        if isinstance(value, Mapping | list):
            raise UserError(f"{where}: {key} is a group or a list: options are single values.")
    return Given({key: value for key, value in found.items() if key not in OF_S5C})
