"""The recipes of the queue: which there are, how long they are, and how far their trainings have come."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s5c import lookup
from s5c.errors import UserError, unknown
from s5c.model.inputs import without_later
from s5c.pipeline import shelf
from s5c.studies import composed
from s5c.studies.sizes import PUBLISHED, Data
from s5c.training.folder import CHECKPOINTS, FINISHED, IDENTITY, IDENTITY_VERSION

if TYPE_CHECKING:
    from s5c.pipeline.trained import TrainJob

FAMILIES = ("s5", "s4d", "dss")
"""Models a task has recipes of, in the order of training."""

ORDER = (
    *("imdb", "smnist", "listops", "fashion", "image", "fsdd", "pathfinder", "psmnist", "same_movie"),
    *("retrieval", "scifar", "speech35", "pathx"),
)
"""Tasks in the order in which they are trained; others, the small ones, come last."""

SHORT = (
    *("imdb_short_s5", "imdb_short_s4d", "listops_short_s5", "fsdd_short_s5", "image_short_s5", "smnist_medium_s5"),
    *("smnist_short_s5", "fashion_short_s5"),
)
"""Recipes of fewer epochs, in this order after those of S5: what a machine without GPU trains at the published size."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe of the queue.

    Attributes:
        name: of the experiment, and of the model in the zoo.
        values: its configuration. How far a training is, and how long, is read off this: at once.
    """

    name: str
    values: Mapping[str, Any] = dataclasses.field(repr=False)

    @functools.cached_property
    def job(self) -> TrainJob:
        """Its training; imports JAX."""
        from s5c.train import resolve

        return resolve(dict(self.values))[0]

    @property
    def data(self) -> Data:
        """What is published of its task.

        Raises:
            UserError: that is not known here.
        """
        if self.task not in PUBLISHED:
            raise UserError(
                f"{self.name}: the size of task {self.task} is unknown. Add it to PUBLISHED in s5c/studies/sizes.py."
            )
        return PUBLISHED[self.task]

    @property
    def task(self) -> str:
        """Name of its task."""
        return str(self.values["task"]["name"])

    @property
    def epochs(self) -> int:
        """Epochs of its training."""
        return int(self.values["train"]["epochs"])

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        carved = not self.data.validation and self.values["protocol"] == "validation"
        held_out = round(self.values["task"]["validation_fraction"] * self.data.train) if carved else 0
        return (self.data.train - held_out) // int(self.values["train"]["batch_size"])

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def place(self) -> Path:
        """The folder that its training, and others of the same results folder, lie in."""
        return Path(self.values["results_dir"]).expanduser().absolute() / "trained"

    def folder(self) -> Path | None:
        """Returns the folder of its training, whatever data it was started with; the farthest if there are several."""
        found = []
        for path in self.place.glob(f"*/{IDENTITY}"):
            try:
                identity = json.loads(path.read_text("utf-8"))
            except ValueError:  # damaged: the training itself writes it again
                continue
            if isinstance(identity, dict) and _is_of(identity, self.values):
                found.append(path.parent)
        return max(found, key=lambda folder: ((folder / FINISHED).is_file(), _newest(folder)), default=None)

    def finished(self) -> Path | None:
        """Returns the folder of its training if that is finished."""
        folder = self.folder()
        return folder if folder is not None and (folder / FINISHED).is_file() else None

    def steps_done(self) -> int:
        """Returns how many steps are behind its newest checkpoint."""
        folder = self.folder()
        return 0 if folder is None else _newest(folder)

    def state(self) -> str:
        """Returns how far it is, in words."""
        if self.name in shelf.names():
            return "in the zoo"
        if self.finished() is not None:
            return "finished"
        done = self.steps_done()
        return f"at epoch {done // self.steps_per_epoch} of {self.epochs}" if done else "not started"


def _newest(folder: Path) -> int:
    return max((int(path.name) for path in folder.glob(f"{CHECKPOINTS}/*") if path.name.isdigit()), default=0)


def _is_of(identity: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Returns whether what a training wrote down is the training of a configuration, the data left open."""
    if identity.get("version") != IDENTITY_VERSION or not isinstance(task := identity.get("task"), dict):
        return False
    if task.get("name") != values["task"]["name"]:
        return False  # most are told apart here, without the import of the task
    wanted = described(values)
    return {key: identity.get(key) for key in wanted} == wanted


def described(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `s5c.pipeline.trained.described` does, from the configuration alone: everything that decides the
    result of a training but the data. Imports the task's file, and no JAX."""
    from s5c.data.base import ADDED_LATER, task_class
    from s5c.data.origin import PLACE_KEYS

    fields = dataclasses.fields(task_class(values["task"]["name"]))
    silent = {field.name: field.default for field in fields if field.metadata == ADDED_LATER}
    task = {
        key: value
        for key, value in values["task"].items()
        if key not in (*PLACE_KEYS, "source") and not (key in silent and value == silent[key])
    }
    recipe = {key: value for key, value in values["train"].items() if key != "checkpoint_minutes" and value is not None}
    return {
        "version": IDENTITY_VERSION,
        "task": task,
        "model": without_later(values["model"]),
        "recipe": recipe,
        "seed": values["seed"],
        "protocol": values["protocol"],
    }


def known() -> list[str]:
    """Returns the names of all recipes."""
    return [name for name in lookup.presets(composed.EXPERIMENT) if name.rpartition("_")[2] in FAMILIES]


def queue(names: Sequence[str] = ()) -> list[Recipe]:
    """Returns the recipes in the order of training, all or those asked for: S5, short ones, then the other families.

    Raises:
        UserError: there is none of a name asked for.
    """
    there = known()
    for name in names:
        if name not in there:
            raise unknown("recipe", name, there)
    place = {task: number for number, task in enumerate(ORDER)}

    def turn(recipe: Recipe) -> tuple[float, int, str]:
        if recipe.name in SHORT:
            return 0.5, SHORT.index(recipe.name), recipe.name
        family = recipe.name.rpartition("_")[2]
        return FAMILIES.index(family), place.get(recipe.task, len(ORDER)), recipe.name

    return sorted((Recipe(name, composed.experiment(name)) for name in names or there), key=turn)
