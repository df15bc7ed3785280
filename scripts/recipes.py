"""The recipes of the queue: which there are, how long they are, and how far their trainings have come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import hydra
from step_cost import PUBLISHED, Data

from s5c import config
from s5c.cli import register_resolvers
from s5c.errors import UserError, unknown
from s5c.locations import conf_dir
from s5c.pipeline import zoo
from s5c.pipeline.trained import TrainJob, described
from s5c.train import resolve
from s5c.training.finished import FINISHED

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
        job: its training.
    """

    name: str
    job: TrainJob

    @property
    def data(self) -> Data:
        """What is published of its task.

        Raises:
            UserError: that is not known here.
        """
        task = self.job.task.keys.name
        if task not in PUBLISHED:
            raise UserError(f"{self.name}: the size of task {task} is unknown. Add it to PUBLISHED in step_cost.py.")
        return PUBLISHED[task]

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        carved = not self.data.validation and self.job.protocol == "validation"
        held_out = round(self.job.task.keys.validation_fraction * self.data.train) if carved else 0
        return (self.data.train - held_out) // self.job.recipe.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.job.recipe.epochs * self.steps_per_epoch

    def folder(self) -> Path | None:
        """Returns the folder of its training, whatever data it was started with; the farthest if there are several."""
        wanted = described(self.job)
        found = []
        for path in self.job.folder.glob("*/identity.json"):
            try:
                identity = json.loads(path.read_text("utf-8"))
            except ValueError:  # damaged: the training itself writes it again
                continue
            if isinstance(identity, dict) and {key: identity.get(key) for key in wanted} == wanted:
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
        if self.name in zoo.names():
            return "in the zoo"
        if self.finished() is not None:
            return "finished"
        done = self.steps_done()
        return f"at epoch {done // self.steps_per_epoch} of {self.job.recipe.epochs}" if done else "not started"


def _newest(folder: Path) -> int:
    return max((int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit()), default=0)


def known() -> list[str]:
    """Returns the names of all recipes."""
    found = (conf_dir() / "experiment").glob("*.yaml")
    return sorted(path.stem for path in found if path.stem.rpartition("_")[2] in FAMILIES)


def queue(names: Sequence[str] = ()) -> list[Recipe]:
    """Returns the recipes in the order of training, all or those asked for: S5, short ones, then the other families.

    Raises:
        UserError: there is none of a name asked for.
    """
    for name in names:
        if name not in known():
            raise unknown("recipe", name, known())
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        recipes = []
        for name in names or known():
            values = config.plain(hydra.compose("train", [f"+experiment={name}"]))
            recipes.append(Recipe(name, resolve(values)[0]))
    place = {task: number for number, task in enumerate(ORDER)}

    def turn(recipe: Recipe) -> tuple[float, int, str]:
        if recipe.name in SHORT:
            return 0.5, SHORT.index(recipe.name), recipe.name
        task, family = recipe.job.task.keys.name, recipe.name.rpartition("_")[2]
        return FAMILIES.index(family), place.get(task, len(ORDER)), recipe.name

    return sorted(recipes, key=turn)
