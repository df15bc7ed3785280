"""Compress an existing checkpoint, without training: `python -m s5c.reduce checkpoint=PATH reduction=last`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("reduce")

import importlib
import sys
import types
from typing import Any

from omegaconf import DictConfig

from s5c import config as settings
from s5c import programs
from s5c.cli import run
from s5c.keys import EvaluationKeys, WandbKeys
from s5c.pipeline.job import finish, folder_of, start
from s5c.pipeline.question import ask, of_checkpoint
from s5c.pipeline.restored import restore
from s5c.pipeline.stage.train import check_recipe
from s5c.pipeline.targets import check
from s5c.presets import chosen


def main(config: DictConfig) -> float:
    """Runs one job; returns the selection accuracy of the last row."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, ("checkpoint", "task", "recipe", "reduction", "evaluation", "wandb"))
    reduction = settings.reduction_job(values["reduction"], chosen(config))
    evaluation = settings.build(EvaluationKeys, values["evaluation"], "evaluation")
    wandb = settings.build(WandbKeys, values["wandb"], "wandb")
    trained = restore(values, which=reduction.keys.weights)
    model = trained.model
    check(reduction, model.config, model.state_dims, trained.splits, lambda: trained.weights["params"], model.spec)
    check_recipe(reduction, trained.metadata)
    start(config, values, wandb)
    question = ask(str(values["name"]), of_checkpoint(trained), reduction, evaluation)
    with folder_of(question, config, values, checkpoint=trained) as folder:
        return finish(trained, reduction, evaluation, wandb, folder=folder, question=question, config=config)


class _Callable(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("s5c.api").reduce(*arguments, **options)


if __name__ == "__main__":
    run(main, "reduce")
else:
    # Importing this module hides the function of its name in s5c; so it does what that does.
    sys.modules[__name__].__class__ = _Callable
