"""A task as it is loaded for a job: its data, its splits, and what a network and a checkpoint must know of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from s5c import config as settings
from s5c import metric as metrics
from s5c.data.base import Dataset, Split, Splits, assign_splits
from s5c.errors import UserError
from s5c.metric import Metric
from s5c.model.inputs import InputSpec


def input_spec(dataset: Dataset) -> InputSpec:
    """Returns what the network must know of a task."""
    return InputSpec(dataset.features, dataset.classes, dataset.tokens, dataset.pairs, dataset.targets, dataset.scale)


def metric_of(dataset: Dataset) -> Metric:
    """Returns what networks are compared by on a task.

    Raises:
        UserError: the task names a metric of other answers.
    """
    return metrics.named(dataset.metric, targets=dataset.targets is not None)


def load_task(job: settings.TaskJob, protocol: str) -> tuple[Dataset, Splits]:
    """Loads a task and decides its splits.

    Raises:
        UserError: there is no data, or a sequence without a single step, whose mean over the steps is no number; or the
            task's metric says nothing of its targets.
    """
    dataset = job.task.load()
    metric = metric_of(dataset)
    if dataset.targets is not None and dataset.targets.per_step and dataset.pairs:
        raise UserError(f"{dataset.name}: an answer for every step of a pair of sequences is not possible.")
    for name, split in dataset.splits.items():
        without = np.zeros(len(split), bool) if split.lengths is None else split.lengths < 1
        empty = np.flatnonzero(without.reshape(len(split), -1).any(axis=1))
        if len(empty):
            raise UserError(
                f"{dataset.name}: example {empty[0]} of the {name} split has no step, {len(empty)} of {len(split)} "
                f"have none [source={dataset.source}]. Remove what is empty from the data."
            )
    keys = job.keys
    splits = assign_splits(
        dataset, protocol=protocol, validation_fraction=keys.validation_fraction, seed=keys.validation_seed
    )
    for name, split in (("validation", splits.selection), ("test", splits.test)):
        if metric.of_spread and not _varies(split):
            raise UserError(
                f"task.metric={metric.name} compares errors with how much the targets vary, and those of the {name} "
                f"split ({len(split)} examples) do not: give task.metric=rmse or mae, or a larger split."
            )
    return dataset, splits


def _varies(split: Split) -> bool:
    """Returns whether a split's targets differ, from example to example or from step to step."""
    if split.targets is None:
        return bool(np.ptp(split.labels, axis=0).any())
    ends = np.full(len(split), -1) if split.lengths is None else split.lengths
    seen: set[bytes] = set()
    for i, end in enumerate(ends.tolist()):
        values = split.answers(np.array([i]))[0, : None if end < 0 else end]
        seen.add(np.ascontiguousarray(values[0]).tobytes())
        if len(seen) > 1 or np.ptp(values, axis=0).any():
            return True
    return False


def own_data(dataset: Dataset) -> dict[str, Any]:
    """Returns what a checkpoint holds of data that no other place has: its schema and where it lay."""
    found: dict[str, Any] = {} if dataset.schema is None else {"data_schema": dataset.schema.to_dict()}
    found |= {} if dataset.targets is None else {"metric": dataset.metric}
    return found if dataset.place is None else {**found, "data_dir": dataset.place}
