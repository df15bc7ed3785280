"""What is asked of a reduction: refused before anything is computed, searched for where a limit is given."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s5c import axes
from s5c import config as settings
from s5c.data.base import Splits
from s5c.errors import UserError
from s5c.model.classifier import Classifier
from s5c.model.config import ModelConfig
from s5c.pipeline.calibration import calibration_split
from s5c.pipeline.parameters import stored_after
from s5c.pipeline.provenance import read_json, write_json
from s5c.pipeline.reduction import Reduction
from s5c.pipeline.trained import TrainedModel, checksum
from s5c.reduction.stage import Ranking
from s5c.reduction.target import Target
from s5c.types import Params

log = logging.getLogger(__name__)

Validate = Callable[[Classifier, Mapping[str, Any]], float | None]
"""Validation accuracy of a network, in [0, 1]; None if some of its answers are not finite."""

SEARCH_STEPS = 6
"""Halvings of the interval in which the largest ratio is searched: to 1/64 of all states."""


def check(
    job: settings.ReductionJob,
    config: ModelConfig,
    state_dims: Sequence[int],
    splits: Splits,
    params: Callable[[], Params],
) -> None:
    """Refuses what a network of this size on this data cannot be asked for.

    Args:
        job: the preset with its targets.
        config: of the network.
        state_dims: stored states of every layer (of each of its channels).
        splits: of its data.
        params: returns its parameters, or their shapes.

    Raises:
        UserError: a target out of range or of a kind the method does not take, two targets of one name, too few
            calibration sequences, or a limit that nothing can be measured against.
    """
    keys = job.keys
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
    if keys.max_drop is not None and splits.selected_on == "test":
        raise UserError(
            "reduction.max_drop chooses by validation accuracy, but this model was selected on the test split "
            "(protocol=paper). Train with protocol=validation, or give reduction.ratio."
        )
    if axes.looks_at_data(job) and not job.calibration.task:
        calibration_split(
            splits, sequences=job.calibration.sequences, split=job.calibration.split, seed=job.calibration.seed
        )


class Memory:
    """The validation accuracies that a search has found, each kept as it is found.

    Args:
        file: JSON.
        identity: of what is searched; accuracies of another are not used.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self._file, self._identity = file, identity
        found = read_json(file)
        whole = found.pop("checksum", None) == checksum(found) and found.get("identity") == identity
        self._known: dict[str, float | None] = dict(found["validation_accuracy"]) if whole else {}

    def recall(self, ratio: float, measure: Callable[[], float | None]) -> float | None:
        """Returns the accuracy at a ratio, measured unless it is known."""
        if (key := str(ratio)) not in self._known:
            self._known[key] = measure()
            facts = {"identity": self._identity, "validation_accuracy": self._known}
            write_json(self._file, {**facts, "checksum": checksum(facts)})
        return self._known[key]


def largest_ratio(
    trained: TrainedModel, job: settings.ReductionJob, folder: Path, validate: Validate, memory: Memory
) -> Target:
    """Returns the largest ratio found whose validation accuracy is at most `max_drop` points below the full model's.

    Bisection, which takes the drop for monotone in the ratio. The test split is not looked at.

    Args:
        trained: the model to reduce.
        job: the preset, with `max_drop`.
        folder: trainings after the reduction live below.
        validate: accuracy on the validation split.
        memory: of an earlier search, which this one goes on with.
    """
    allowed = job.keys.max_drop
    assert allowed is not None and allowed >= 0, "checked before"
    reduction = functools.cache(lambda: Reduction(trained, job, folder))

    def accuracy(ratio: float) -> float | None:
        found = reduction().apply(Target("ratio", ratio))
        return validate(found.model, found.weights)

    full = memory.recall(0.0, lambda: validate(trained.model, trained.weights))
    assert full is not None, "the full model was checked before"
    low, high = 0.0, 1.0
    for _ in range(SEARCH_STEPS):
        ratio = (low + high) / 2
        found = memory.recall(ratio, functools.partial(accuracy, ratio))
        drop = math.inf if found is None else 100 * (full - found)
        log.info("%s: %.4g of the states removed costs %.2f points of validation accuracy.", job.keys.name, ratio, drop)
        low, high = (ratio, high) if drop <= allowed + 1e-9 else (low, ratio)
    return Target("ratio", low)
