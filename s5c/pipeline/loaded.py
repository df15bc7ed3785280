"""A task as it is loaded for a job: its data, its splits, and what a network and a checkpoint must know of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from s5c import config as settings
from s5c import metric as metrics
from s5c.data.base import Dataset, Splits, assign_splits
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
        UserError: there is no data, or a sequence without a single step, whose mean over the steps is no number.
    """
    dataset = job.task.load()
    metric_of(dataset)
    for name, split in dataset.splits.items():
        without = np.zeros(len(split), bool) if split.lengths is None else split.lengths < 1
        empty = np.flatnonzero(without.reshape(len(split), -1).any(axis=1))
        if len(empty):
            raise UserError(
                f"{dataset.name}: example {empty[0]} of the {name} split has no step, {len(empty)} of {len(split)} "
                f"have none [source={dataset.source}]. Remove what is empty from the data."
            )
    keys = job.keys
    return dataset, assign_splits(
        dataset, protocol=protocol, validation_fraction=keys.validation_fraction, seed=keys.validation_seed
    )


def own_data(dataset: Dataset) -> dict[str, Any]:
    """Returns what a checkpoint holds of data that no other place has: its schema and where it lay."""
    found: dict[str, Any] = {} if dataset.schema is None else {"data_schema": dataset.schema.to_dict()}
    found |= {} if dataset.targets is None else {"metric": dataset.metric}
    return found if dataset.place is None else {**found, "data_dir": dataset.place}
