"""What is asked of a reduction, refused before anything is computed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from s5c import axes
from s5c.data.base import Splits
from s5c.errors import UserError
from s5c.model.config import ModelConfig
from s5c.model.inputs import InputSpec
from s5c.pipeline.calibration import Calibration, calibration_split
from s5c.pipeline.parameters import stored_after
from s5c.pipeline.search import Search
from s5c.pipeline.stage import train
from s5c.pipeline.untasked import chosen
from s5c.reduction.stage import Ranking
from s5c.types import Params


def check(
    job: axes.ReductionJob,
    config: ModelConfig,
    state_dims: Sequence[int],
    splits: Splits,
    params: Callable[[], Params],
    spec: InputSpec | None = None,
) -> None:
    """Refuses what a network of this size on this data cannot be asked for.

    Args:
        job: the preset with its targets.
        config: configuration of the network.
        state_dims: stored states of every layer (of each of its channels).
        splits: splits of its data.
        params: returns its parameters, or their shapes.
        spec: what it reads, for calibration sequences from a file.

    Raises:
        UserError: a target out of range or of a kind the method does not take, two targets of one name, too few
            calibration sequences, or a limit that nothing can be measured against.
    """
    shapes = [(config.d_model, p) if config.per_channel else (p,) for p in state_dims]
    blank, first = [np.zeros(shape) for shape in shapes], [np.arange(math.prod(shape)) == 0 for shape in shapes]
    priorities = [np.where(one, np.inf, 0).reshape(shape) for one, shape in zip(first, shapes, strict=True)]
    ranking = Ranking(blank, priorities, np.argsort(~np.concatenate(first), kind="stable"))
    axes.check_network(job, config)
    stored = stored_after(job, params(), config) if job.kind == "params" else None
    for target in job.targets:
        target.select(ranking, stored)
    for label, count in Counter(target.label for target in job.targets).items():
        if count > 1:
            raise UserError(
                f"reduction.{job.targets[0].kind} asks {count} times for {label}, to six digits, by which results are "
                "told apart: give every target once."
            )
    if job.of(Search).max_drop is not None and splits.selected_on == "test":
        raise UserError(
            "reduction.max_drop chooses by validation accuracy, but this model was selected on the test split "
            "(protocol=paper). Train with protocol=validation, or give reduction.ratio."
        )
    looked = job.of(Calibration)
    if not len(splits.train) and job.of(train.Stage).epochs:
        raise UserError(
            f"reduction.finetune.epochs={job.of(train.Stage).epochs} trains on labelled data, and the checkpoint "
            "belongs to no task: add +task=NAME and, for how, recipe=NAME of conf/experiment."
        )
    if job.of(Search).max_drop is not None and not len(splits.selection):
        raise UserError(
            "reduction.max_drop is measured on validation data, and the checkpoint belongs to no task: add +task=NAME, "
            "or give reduction.ratio."
        )
    if axes.looks_at_data(job) and looked.inputs is not None:
        if spec is not None:
            chosen(looked, spec)
    elif axes.looks_at_data(job) and not looked.task:
        calibration_split(splits, sequences=looked.sequences, split=looked.split, seed=looked.seed)
