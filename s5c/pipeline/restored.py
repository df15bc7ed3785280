"""A model that a checkpoint holds, with the data it belongs to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5c import config as settings
from s5c.errors import UserError
from s5c.locations import given_path
from s5c.pipeline import portable, zoo
from s5c.pipeline.trained import TrainedModel, from_checkpoint, load_task
from s5c.training.checkpoint import load

log = logging.getLogger(__name__)


def restore(values: Mapping[str, Any], *, which: str) -> TrainedModel:
    """Loads `checkpoint`, a path or `zoo:NAME`, and its task.

    The task, with its options and split rule, is the one the checkpoint names. A `task` group on the command line
    (`+task=digits`) overrides its options, where the data lies for instance, but not which task it is; single keys
    (`+task.data_dir=FOLDER`) leave the others as they were.

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
    facts = checkpoint.metadata
    asked = values.get("task")
    if asked is not None and asked.get("name", facts["task"]["name"]) != facts["task"]["name"]:
        raise UserError(
            f"{checkpoint.path} was trained on task {facts['task']['name']!r}, not {asked.get('name')!r}. Leave the "
            "task out of the command, or give a checkpoint of that task."
        )
    known = {"data_dir": facts["data_dir"]} if "data_dir" in facts else {}
    dataset, splits = load_task(settings.task_job({**facts["task"], **known, **(asked or {})}), facts["protocol"])
    if dataset.fingerprint() != facts["data"]:
        log.warning("The data differs from what %s was trained on [source=%s].", checkpoint.path, facts["source"])
    return from_checkpoint(checkpoint, dataset, splits)
