"""A model that a checkpoint holds, with the data it belongs to, if it belongs to any."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5c import config as settings
from s5c.errors import UserError
from s5c.locations import given_path
from s5c.pipeline import portable, recipe, zoo
from s5c.pipeline.trained import TrainedModel, from_checkpoint, load_task
from s5c.pipeline.untasked import with_task, without_data
from s5c.training.checkpoint import Checkpoint, load

log = logging.getLogger(__name__)


def restore(values: Mapping[str, Any], *, which: str) -> TrainedModel:
    """Loads `checkpoint`, a path or `zoo:NAME`, and its task.

    The task, with its options and split rule, is the one the checkpoint names. A `task` group on the command line
    (`+task=digits`) overrides its options, where the data lies for instance, but not which task it is; single keys
    (`+task.data_dir=FOLDER`) leave the others as they were. A checkpoint that names none, of a converted network, takes
    the one that is given, or does without data; `recipe=NAME` says how it is trained on.

    Raises:
        UserError: no intact checkpoint there, one of another task, or a choice of weights where there is none.
    """
    folder = given_path(values["checkpoint"], "checkpoint=")
    given = str(values["checkpoint"])
    in_zoo = given.startswith(zoo.PREFIX)
    if in_zoo:
        checkpoint = zoo.load(given.removeprefix(zoo.PREFIX))
    else:
        checkpoint = portable.read(folder) if portable.is_portable(folder) else load(folder, which=which)
    if which != "best" and (in_zoo or checkpoint.path == Path(given).expanduser().absolute()):
        raise UserError(
            f"weights={which} changes nothing: {given} is one checkpoint, not a training of several. Leave it at best."
        )
    checkpoint = _trainable(checkpoint, values.get("recipe"))
    facts = checkpoint.metadata
    asked = values.get("task")
    if facts["task"] is None:
        if asked is None:
            return without_data(checkpoint)
        checkpoint = with_task(checkpoint, settings.task_job(asked).description)
        facts = checkpoint.metadata
    if asked is not None and asked.get("name", facts["task"]["name"]) != facts["task"]["name"]:
        raise UserError(
            f"{checkpoint.path} was trained on task {facts['task']['name']!r}, not {asked.get('name')!r}. Leave the "
            "task out of the command, or give a checkpoint of that task."
        )
    known = {"data_dir": facts["data_dir"]} if "data_dir" in facts else {}
    dataset, splits = load_task(settings.task_job({**facts["task"], **known, **(asked or {})}), facts["protocol"])
    if facts["data"] is not None and dataset.fingerprint() != facts["data"]:
        log.warning("The data differs from what %s was trained on [source=%s].", checkpoint.path, facts["source"])
    return from_checkpoint(checkpoint, dataset, splits)


def _trainable(checkpoint: Checkpoint, named: object) -> Checkpoint:
    """Returns a checkpoint with the recipe of an experiment, where it has none of its own."""
    if named is None:
        return checkpoint
    if checkpoint.metadata["recipe"] is not None:
        raise UserError(
            f"recipe={named} changes nothing: {checkpoint.path} has the recipe of its own training. Leave it out."
        )
    return dataclasses.replace(checkpoint, metadata=checkpoint.metadata.replaced(recipe=recipe.training(str(named))))
