"""The studies of the queue: multiruns over trained models, each published as one folder under results/published.

A study has no state of its own but a file for every command that has ended: whatever is killed is given again, and its
trainings go on from their checkpoints.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import hydra
from step_cost import PUBLISHED

from s5c.cli import register_resolvers
from s5c.errors import UserError
from s5c.locations import conf_dir, results_dir
from s5c.model.config import from_dict
from s5c.model.surgery import unstable_modes
from s5c.pipeline import zoo
from s5c.report.claims import SHORTER

Command = tuple[str, ...]
"""A module of s5c and its arguments."""

RATIOS = "[0.3,0.5,0.6,0.7,0.8,0.9,0.95]"
EXAMPLES = 5000
"""Test examples that comparisons score, always the same ones; all where there are no more."""
FEW = ("digits", "fsdd", "listops", "listops_small")
"""Tasks that have no more: their comparisons are on the whole test split."""

REFITTED: Command = ("reduction.refit=calibrated", "reduction.sequential=refit", "reduction.readout=refit")
"""All that `calibrated` does with data, for a method that chooses the states in another way."""

ARMS: tuple[Command, ...] = (
    ("reduction=last,uniform_hinf,global_hinf,global_magnitude,lamp,random,aire,aire_greedy,bt,bt_tolerance,h2,lqo",),
    ("reduction=calibrated",),
    ("reduction=bt_empirical,h2_tolerance,lqo_curve,lqo_bound",),
    ("reduction=last,aire", "reduction.norm=recalibrate"),
    ("reduction=last,aire,bt_tolerance,lqo", "reduction.refit=h2"),  # the outputs of h2 are that already
    ("reduction=last,aire,bt_tolerance,h2,lqo", "reduction.refit=calibrated", "reduction.sequential=refit"),
    (
        *("reduction=last,aire", "reduction.refit=calibrated", "reduction.sequential=refit"),
        "reduction.norm=recalibrate",
    ),
    ("reduction=last,aire,bt_tolerance,h2,lqo", "reduction.readout=refit"),
    (
        *("reduction=last,aire,bt_tolerance,h2,lqo", "reduction.refit=calibrated", "reduction.sequential=refit"),
        "reduction.readout=refit",
    ),
    ("reduction=bt_empirical,h2_tolerance", *REFITTED),
    ("reduction=calibrated", "reduction.readout=keep"),
)
"""What a comparison compares: every method bare, with refits, with new norm statistics, with a new readout."""


PROTECTED: tuple[Command, ...] = (
    (
        "reduction=last,uniform_hinf,global_hinf,global_magnitude,lamp,random,aire,aire_greedy",
        "reduction.unstable=protect",
    ),
)
"""The same scores with unstable modes never removed, where the model has such modes."""

HEADLINE: tuple[Command, ...] = (
    ("reduction=last,aire,bt_tolerance,h2,lqo,calibrated",),
    ("reduction=bt_empirical,h2_tolerance,lqo_curve",),
    ("reduction=last,aire,bt_tolerance,h2,lqo,bt_empirical,h2_tolerance", *REFITTED),
)
"""What is scored on the test examples that no comparison has scored, of a task that has such: the methods as they are,
and with all that `calibrated` does with data."""
HEADLINE_PROTECTED: tuple[Command, ...] = (
    ("reduction=last,aire", "reduction.unstable=protect"),
    ("reduction=last,aire", "reduction.unstable=protect", *REFITTED),
)
"""What is scored besides where the model has unstable modes."""
SINGLE_INPUT: tuple[Command, ...] = tuple(
    (arms[0].replace(",lqo_curve", "").replace("lqo,", ""), *arms[1:]) for arms in HEADLINE
)
"""The same of models with one system per channel, which the LQO form does not fit."""

CALIBRATED = "reduction=calibrated"
KEPT = "reduction.readout=keep"
ABLATION: tuple[Command, ...] = (
    (CALIBRATED, "reduction.refit=none", "reduction.sequential=off", KEPT),
    (
        *(CALIBRATED, "reduction.sequential=off", KEPT),
        *("+reduction.refit_options.feedthrough=false", "+reduction.refit_options.constant=false"),
    ),
    (CALIBRATED, "reduction.sequential=off,refit,reselect", KEPT),
    (CALIBRATED, "reduction.norm=recalibrate", KEPT),
    (CALIBRATED, "reduction.allocation=uniform,normalised,greedy", KEPT),
    (CALIBRATED, "reduction.layer_sensitivity=gradient,measured", KEPT),
    (CALIBRATED, "reduction.calibration.sequences=8,16,64,256,1024"),
)
"""What the calibrated method is made of, step by step, and other ways of sharing out and of calibrating."""
STRANGERS = {"smnist_small": "image"}
"""Tasks whose sequences another task's model can be calibrated on."""


@dataclasses.dataclass(frozen=True)
class Study:
    """One entry of the queue.

    Attributes:
        name: of the run folders and of the published one.
        recipe: the training whose models it reduces.
        commands: what is run, in this order.
        epochs: trained on top of the recipe, all arms together.
    """

    name: str
    recipe: str
    commands: tuple[Command, ...]
    epochs: int

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
        return ("s5c.report", f"runs={results_dir() / self.name}", f"output={self.published}")

    def state(self) -> str:
        """Returns how far it is, in words."""
        left, all_of = len(self.left()), len(self.commands)
        if left == 0:
            return "finished"
        started = f"{all_of - left} of {all_of} commands" if left < all_of else "not started here"
        return started + (", published before" if (self.published / "table.csv").is_file() else "")


def studies(recipes: set[str]) -> list[Study]:
    """Returns every study of some recipes, by name: methods, parts and speed on S5, balanced truncation of others.

    Of a short recipe of another family it is the methods of most interest, by that recipe's whole name.
    """
    found = []
    for recipe in sorted(recipes):
        task, _, family = recipe.rpartition("_")
        if family == "s5":
            found += [comparison(task, recipe), ablation(task, recipe), latency(task, recipe)]
            found += [] if published_task(task) in FEW else [headline(task, recipe)]
        elif published_task(task) != task:
            found.append(headline(recipe, recipe))
        elif (conf_dir() / "experiment" / f"{task}_bt.yaml").is_file():
            study = initialisation(task)
            found += [study] if study.recipe == recipe else []
    return sorted(found, key=lambda study: study.name)


def published_task(task: str) -> str:
    """Returns the task of a recipe, by the name without the family: `imdb_short` is `imdb` with fewer epochs."""
    return next((task.removesuffix(end) for end in SHORTER if task.endswith(end)), task)


def comparison(task: str, recipe: str) -> Study:
    """Returns the comparison of all methods: three seeds of a task small enough for a CPU, else one."""
    arms = ARMS + (PROTECTED if has_unstable_modes(recipe) else ())
    return _of_seeds(f"{task}_comparison", task, recipe, arms, RATIOS, EXAMPLES)


def headline(task: str, recipe: str) -> Study:
    """Returns the methods of most interest, bare and refitted, at two ratios, on what comparisons leave out of the
    test split."""
    arms = HEADLINE if recipe.endswith("_s5") else SINGLE_INPUT
    arms += HEADLINE_PROTECTED if has_unstable_modes(recipe) else ()
    return _of_seeds(f"{task}_headline", task, recipe, arms, "[0.6,0.8]", skip=EXAMPLES)


def has_unstable_modes(recipe: str) -> bool:
    """Returns whether the model of a recipe has unstable modes; False for one that is not in the zoo yet.

    The queue exports a model before it runs its studies, and looks again.
    """
    if recipe not in zoo.names():
        return False
    try:
        model = zoo.load(recipe)
    except (UserError, OSError):
        return False  # the study's own commands say what is wrong with it
    return any(unstable_modes(model.weights["params"], from_dict(model.metadata["model"])))


def _of_seeds(
    name: str,
    task: str,
    recipe: str,
    arms: tuple[Command, ...],
    ratios: str,
    examples: int | None = None,
    skip: int = 0,
) -> Study:
    common = _common(name, ratios, examples, skip=skip)
    more = ("s5c.train", "-m", f"+experiment={recipe}", "seed=1,2", "reduction.seed=${seed}")
    starts = [_one(recipe), *([more] if _small(task) else [])]
    return Study(name, recipe, tuple((*start, *arm, *common) for start in starts for arm in arms), 0)


def ablation(task: str, recipe: str) -> Study:
    """Returns the study of what the calibrated method is made of, on one model."""
    name = f"{task}_ablation"
    arms = list(ABLATION)
    if task in STRANGERS:
        arms.append((CALIBRATED, f"+reduction.calibration.task.name={STRANGERS[task]}"))
    common = _common(name, RATIOS, EXAMPLES)
    return Study(name, recipe, tuple((*_one(recipe), *arm, *common) for arm in arms), 0)


def latency(task: str, recipe: str) -> Study:
    """Returns the study of speed and memory by ratio, of one model; the machine should have nothing else to do."""
    common = _common(f"{task}_latency", RATIOS, EXAMPLES, latency=True)
    return Study(f"{task}_latency", recipe, ((*_one(recipe), "reduction=last", *common),), 0)


def _one(recipe: str) -> Command:
    """Returns how a command about the model of a recipe begins: the one in the zoo, else the recipe's own training."""
    if recipe in zoo.names():
        return "s5c.reduce", "-m", f"checkpoint=zoo:{recipe}"
    return "s5c.train", "-m", f"+experiment={recipe}"


def _common(name: str, ratios: str, examples: int | None = None, *, skip: int = 0, latency: bool = False) -> Command:
    scored: Command = () if examples is None else (f"evaluation.test_examples={examples}",)
    scored += (f"evaluation.test_skip={skip}",) if skip else ()
    timed = f"evaluation.latency={str(latency).lower()}"
    return f"name={name}", f"reduction.ratio={ratios}", "reduction.save=false", timed, *scored


def initialisation(task: str) -> Study:
    """Returns the study of balanced truncation as a start for smaller models: three seeds where that is quick.

    Fresh layers are trained twice: as long as every other start, and as long as the original and the other starts
    together, which is what a small network that owes nothing to a large one may cost.
    """
    name = f"{task}_bt"
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = hydra.compose("train", [f"+experiment={name}"])
    seeds = "0,1,2" if task in ("digits", "listops_small") else "0"
    started = values.reduction.finetune.init_epochs
    whole = values.train.epochs + started
    extra = ("reduction.save=false", f"evaluation.test_examples={EXAMPLES}")
    command = ("s5c.train", "-m", f"+experiment={name}", f"seed={seeds}", *extra)
    budget = ("reduction=fresh_init", f"reduction.finetune.init_epochs={whole}")
    alone = ("reduction.finetune.rest=keep,reinitialise",)
    trained = len(values.reduction.order) * len(seeds.split(","))
    return Study(
        name,
        f"{task}_{values.model.name}",
        (command, (*command, *budget, *alone)),
        trained * (4 * started + 2 * whole),
    )


def _small(task: str) -> bool:
    return task == "digits" or (task.endswith("_small") and task in PUBLISHED)
