"""Accuracy, size and speed of a checkpoint: `python -m s5c.evaluate checkpoint=PATH`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("evaluate")

from omegaconf import DictConfig

from s5c import config as settings
from s5c import programs
from s5c.cli import run
from s5c.keys import EvaluationKeys, WandbKeys
from s5c.pipeline.job import finish, folder_of, start
from s5c.pipeline.question import ask, of_checkpoint
from s5c.pipeline.restored import restore


def main(config: DictConfig) -> float:
    """Runs one job; returns the selection accuracy."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, ("checkpoint", "task", "weights", "evaluation", "wandb"))
    evaluation = settings.build(EvaluationKeys, values["evaluation"], "evaluation")
    wandb = settings.build(WandbKeys, values["wandb"], "wandb")
    trained = restore(values, which=str(values["weights"]))
    start(config, values, wandb)
    question = ask(str(values["name"]), of_checkpoint(trained), None, evaluation)
    with folder_of(question, config, values, checkpoint=trained) as folder:
        return finish(trained, None, evaluation, wandb, folder=folder, question=question, config=config)


if __name__ == "__main__":
    run(main, "evaluate")
