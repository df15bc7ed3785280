"""What is asked of a reduction, refused before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from s5c import axes
from s5c.data.base import Splits
from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.classifier import Classifier, shapes
from s5c.model.config import ModelConfig
from s5c.model.inputs import InputSpec
from s5c.pipeline.calibration import Calibration, calibration_split
from s5c.pipeline.parameters import bytes_after, stored_after
from s5c.pipeline.search import candidates, validates
from s5c.pipeline.stage import features, train
from s5c.pipeline.untasked import chosen
from s5c.reduction.stage import Ranking
from s5c.types import Params

SEARCHED = {"max_drop": "reduction.max_drop", "bytes": "reduction.bytes without reduction.bits"}
INSTEAD = {"max_drop": "reduction.ratio", "bytes": "reduction.bits=8"}
"""What is searched on validation data, and what needs no search, by the kind of a job's targets."""


def check(
    job: axes.ReductionJob,
    config: ModelConfig,
    state_dims: Sequence[int],
    splits: Splits,
    params: Callable[[], Params],
    spec: InputSpec,
) -> None:
    """Refuses what a network of this size on this data cannot be asked for.

    Args:
        job: the preset with its targets.
        config: configuration of the network.
        state_dims: stored states of every layer (of each of its channels).
        splits: splits of its data.
        params: returns its parameters, or their shapes.
        spec: what it reads.

    Raises:
        UserError: a target out of range or of a kind the method does not take, two targets of one name, too few
            calibration sequences, or a limit that nothing can be measured against.
    """
    axes.check_network(job, config)
    every = surgery.parameters(params(), config).total if job.kind == "params" else 0
    if (narrower := job.of(features.Stage)).features is not None:
        config = dataclasses.replace(config, d_model=narrower.left(config.d_model))
        params = partial(shapes, Classifier(config, spec, tuple(state_dims)))
    slots = [(config.d_model, p) if config.per_channel else (p,) for p in state_dims]
    blank, first = [np.zeros(shape) for shape in slots], [np.arange(math.prod(shape)) == 0 for shape in slots]
    priorities = [np.where(one, np.inf, 0).reshape(shape) for one, shape in zip(first, slots, strict=True)]
    ranking = Ranking(blank, priorities, np.argsort(~np.concatenate(first), kind="stable"))
    stored = dataclasses.replace(stored_after(job, params(), config), total=every) if job.kind == "params" else None
    least = None
    if job.kind == "bytes":  # of those that are tried the fewest bits
        least = bytes_after(job, params(), config, min(candidates(job)), tokens=spec.tokens)
    for target in job.targets:
        target.select(ranking, stored, least)
    for label, count in Counter(target.label for target in job.targets).items():
        if count > 1:
            raise UserError(
                f"reduction.{job.targets[0].kind} asks {count} times for {label}, to six digits, by which results are "
                "told apart: give every target once."
            )
    if validates(job) and splits.selected_on == "test":
        raise UserError(
            f"{SEARCHED[job.kind]} chooses by validation accuracy, but this model was selected on the test split "
            f"(protocol=paper). Train with protocol=validation, or give {INSTEAD[job.kind]}."
        )
    looked = job.of(Calibration)
    if not len(splits.train) and job.of(train.Stage).epochs:
        raise UserError(
            f"reduction.finetune.epochs={job.of(train.Stage).epochs} trains on labelled data, and the checkpoint "
            "belongs to no task: add +task=NAME and, for how, recipe=NAME of conf/experiment."
        )
    if validates(job) and not len(splits.selection):
        raise UserError(
            f"{SEARCHED[job.kind]} is measured on validation data, and the checkpoint belongs to no task: add "
            f"+task=NAME, or give {INSTEAD[job.kind]}."
        )
    if axes.looks_at_data(job) and looked.inputs is not None:
        chosen(looked, spec)
    elif axes.looks_at_data(job) and not looked.task:
        calibration_split(splits, sequences=looked.sequences, split=looked.split, seed=looked.seed)
