"""Train a model, or reuse it, and reduce it: `python -m s5c.train +experiment=digits_last`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("train")

from functools import partial
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from s5c import config as settings
from s5c import programs
from s5c.cli import run
from s5c.errors import unknown
from s5c.keys import EvaluationKeys, WandbKeys
from s5c.model.classifier import Classifier, shapes
from s5c.pipeline.job import finish, folder_of, start
from s5c.pipeline.question import ask, of_training
from s5c.pipeline.targets import check
from s5c.pipeline.trained import TrainJob, input_spec, obtain, prepare
from s5c.presets import chosen
from s5c.training.finished import RESUME


def main(config: DictConfig) -> float:
    """Runs one job; returns the test-independent figure of merit, the selection accuracy of the last row."""
    programs.keep()
    values = settings.plain(config)
    job, reduction, evaluation, wandb = resolve(values, chosen(config))
    start(config, values, wandb)
    ready = prepare(job)
    dims = (job.model.full_state_dim,) * job.model.n_layers
    check(
        reduction,
        job.model,
        dims,
        ready.splits,
        partial(shapes, Classifier(job.model, input_spec(ready.dataset), dims)),
        input_spec(ready.dataset),
    )
    question = ask(str(values["name"]), of_training(ready, reduction.keys.weights), reduction, evaluation)
    with folder_of(question, config, values) as folder:
        trained = obtain(job, Console(stderr=True), which=reduction.keys.weights, prepared=ready)
        return finish(trained, reduction, evaluation, wandb, folder=folder, question=question, config=config)


def resolve(
    values: dict[str, Any], preset: tuple[str, dict[str, Any]] | None = None
) -> tuple[TrainJob, settings.ReductionJob, EvaluationKeys, WandbKeys]:
    """Checks the whole configuration before anything is done.

    Args:
        values: the configuration.
        preset: the preset of the reduction, as it is by itself (`s5c.presets.chosen`).
    """
    groups = ("task", "model", "train", "reduction", "evaluation", "wandb")
    settings.check_keys(values, (*groups, "seed", "protocol", "resume"))
    if values["resume"] not in RESUME:
        raise unknown("value for resume", str(values["resume"]), RESUME)
    recipe, minutes = settings.recipe(values["train"])
    wandb = settings.build(WandbKeys, values["wandb"], "wandb")
    job = TrainJob(
        task=settings.task_job(values["task"]),
        model=settings.model_config(values["model"]),
        recipe=recipe,
        seed=settings.seed_number(values["seed"], "seed"),
        protocol=str(values["protocol"]),
        checkpoint_minutes=minutes,
        wandb=wandb,
        group=str(values["name"]),
        folder=settings.results_folder(values) / "trained",
        resume=values["resume"],
    )
    evaluation = settings.build(EvaluationKeys, values["evaluation"], "evaluation")
    return job, settings.reduction_job(values["reduction"], preset), evaluation, wandb


if __name__ == "__main__":
    run(main, "train")
