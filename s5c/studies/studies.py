"""The studies of the queue: multiruns over trained models, each published as one folder under results/published.

A study has no state of its own but a file for every command that has ended: whatever is killed is given again, and its
trainings go on from their checkpoints. The name of that file is a checksum of the command, so a plan whose commands are
spelled otherwise is run again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from s5c import lookup
from s5c.locations import results_dir
from s5c.pipeline import shelf
from s5c.report.claims import SHORTER
from s5c.studies import composed, plans
from s5c.studies.modes import has_unstable_modes
from s5c.studies.plans import Plan
from s5c.studies.sizes import PUBLISHED

Command = tuple[str, ...]
"""A module of s5c and its arguments."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One entry of the queue.

    Attributes:
        name: of the run folders and of the published one.
        recipe: the training whose models it reduces.
        made: makes the commands, which may have to look into the model.
        epochs: trained on top of the recipe, all arms together.
        deploy: a step of its networks is timed for the report.
    """

    name: str
    recipe: str
    made: Callable[[], tuple[Command, ...]] = dataclasses.field(repr=False, compare=False)
    epochs: int
    deploy: bool = False

    @functools.cached_property
    def commands(self) -> tuple[Command, ...]:
        """What is run, in this order."""
        return self.made()

    @property
    def published(self) -> Path:
        """The folder the report goes to."""
        return results_dir() / "published" / self.name

    def left(self) -> list[Command]:
        """Returns the commands that have not ended yet."""
        return [command for command in self.commands if not self.mark(command).is_file()]

    def mark(self, command: Command) -> Path:
        """Returns the file that says a command has ended."""
        return results_dir() / self.name / f"{hashlib.sha256(' '.join(command).encode()).hexdigest()[:12]}.ended"

    def report(self) -> Command:
        """Returns the command that makes the published folder."""
        timed = ("deploy=true",) if self.deploy else ()
        return ("s5c.report", f"runs={results_dir() / self.name}", f"output={self.published}", *timed)

    def state(self) -> str:
        """Returns how far it is, in words."""
        started = "not started here"
        if any((results_dir() / self.name).glob("*.ended")):
            left, all_of = len(self.left()), len(self.commands)
            if left == 0:
                return "finished"
            started = f"{all_of - left} of {all_of} commands" if left < all_of else started
        return started + (", published before" if (self.published / "table.csv").is_file() else "")


def studies(recipes: set[str]) -> list[Study]:
    """Returns every study of some recipes, by name: what the plans make of each.

    Of a short recipe of another family it is the plans that take those, by that recipe's whole name.
    """
    found = []
    every = plans.plans()
    for recipe in sorted(recipes):
        task, _, family = recipe.rpartition("_")
        for plan in every:
            if plan.experiment:
                found += [study for study in _trained_again(plan, task) if study.recipe == recipe]
            elif family == "s5":
                found += [] if published_task(task) in plan.not_of else [of_model(plan, task, recipe)]
            elif published_task(task) != task and plan.other_families:
                found.append(of_model(plan, recipe, recipe))
    return sorted(found, key=lambda study: study.name)


def published_task(task: str) -> str:
    """Returns the task of a recipe, by the name without the family: `imdb_short` is `imdb` with fewer epochs."""
    return next((task.removesuffix(end) for end in SHORTER if task.endswith(end)), task)


# ---- of models as they are


def of_model(plan: Plan, task: str, recipe: str) -> Study:
    """Returns the study of a plan of the model of a recipe.

    Args:
        plan: what is compared.
        task: what its name begins with.
        recipe: whose model is reduced.
    """
    name = f"{task}_{plan.name}"

    def commands() -> tuple[Command, ...]:
        arms = [*plan.arms, *plan.arms_of_task.get(task, [])]
        arms += plan.arms_of_unstable if plan.arms_of_unstable and has_unstable_modes(recipe) else []
        left_out = () if recipe.endswith("_s5") else plan.not_per_channel
        overrides = [tuple(_without(word, left_out) for word in arm.split()) for arm in arms]
        more = ("s5c.train", "-m", f"+experiment={recipe}", f"seed={plan.more_seeds}", "reduction.seed=${seed}")
        starts: list[Command] = [_one(recipe), *([more] if plan.more_seeds and _small(task) else [])]
        common = _common(plan, name)
        return tuple((*start, *arm, *common) for start in starts for arm in overrides)

    return Study(name, recipe, commands, 0, plan.deploy)


def _without(word: str, presets: list[str] | tuple[str, ...]) -> str:
    """Returns an override without some of the presets that it names."""
    key, sign, value = word.partition("=")
    if key != "reduction":
        return word
    return f"{key}{sign}{','.join(name for name in value.split(',') if name not in presets)}"


def _one(recipe: str) -> Command:
    """Returns how a command about the model of a recipe begins: the one in the zoo, else the recipe's own training."""
    if recipe in shelf.names():
        return "s5c.reduce", "-m", f"checkpoint=zoo:{recipe}"
    return "s5c.train", "-m", f"+experiment={recipe}"


def _common(plan: Plan, name: str) -> Command:
    scored: Command = () if plan.test_examples is None else (f"evaluation.test_examples={plan.test_examples}",)
    scored += (f"evaluation.test_skip={plan.test_skip}",) if plan.test_skip else ()
    timed = f"evaluation.latency={str(plan.latency).lower()}"
    return f"name={name}", plan.override_of_ratios(), f"reduction.save={str(plan.deploy).lower()}", timed, *scored


def _small(task: str) -> bool:
    return task == "digits" or (task.endswith("_small") and task in PUBLISHED)


# ---- of models that are trained again


def _trained_again(plan: Plan, task: str) -> list[Study]:
    there = f"{task}_{plan.experiment}" in lookup.presets(composed.EXPERIMENT)
    return [trained_again(plan, task)] if there else []


def trained_again(plan: Plan, task: str) -> Study:
    """Returns the study of a plan of the experiment of a task that trains reduced models again.

    `{original_and_start}` in an arm stands for the epochs of the original training and of a start together.

    Args:
        plan: what is compared.
        task: of the experiment.
    """
    name = f"{task}_{plan.experiment}"
    values = composed.experiment(name)
    seeds = plan.seeds.get(task, "0")
    started = values["reduction"]["finetune"]["init_epochs"]
    whole = values["train"]["epochs"] + started
    scored = () if plan.test_examples is None else (f"evaluation.test_examples={plan.test_examples}",)
    base = ("s5c.train", "-m", f"+experiment={name}", f"seed={seeds}", "reduction.save=false", *scored)
    arms = [tuple(arm.format(original_and_start=whole).split()) for arm in plan.arms]
    sweep = composed.read(lookup.yaml(composed.EXPERIMENT, name)).get("hydra", {}).get("sweeper", {}).get("params", {})
    usual = str(sweep.get("reduction", values["reduction"]["name"]))
    a_seed = len(values["reduction"]["order"]) * sum(_epochs(arm, usual, started) for arm in arms)
    return Study(
        name,
        f"{task}_{values['model']['name']}",
        lambda: tuple((*base, *arm) for arm in arms),
        len(seeds.split(",")) * a_seed,
    )


def _epochs(arm: Command, usual: str, started: int) -> int:
    """Returns the epochs that the jobs of an arm train at one order, all together.

    Args:
        arm: its overrides.
        usual: presets where it names none.
        started: epochs where it sets none.
    """
    given = dict(word.split("=", 1) for word in arm)
    presets = given.pop("reduction", usual).split(",")
    epochs = int(given.pop("reduction.finetune.init_epochs", started))
    jobs = math.prod(len(value.split(",")) for value in given.values())
    return epochs * jobs * sum(name.endswith("_init") for name in presets)
