"""Networks that belong to no task of s5c, as those that were converted from other code: reduced without any data.

Their rows have no accuracies. Calibration sequences come from a file (`reduction.calibration.inputs`), and a task that
is given on the command line takes the place of the one that is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from s5c.data.base import Dataset, Split, Splits
from s5c.data.batching import Batch
from s5c.errors import UserError
from s5c.given import as_split
from s5c.locations import given_path
from s5c.model.inputs import InputSpec
from s5c.pipeline.calibration import Calibration
from s5c.pipeline.given_answers import INPUTS, LENGTHS, arrays_of
from s5c.pipeline.trained import TrainedModel, from_checkpoint
from s5c.training.checkpoint import Checkpoint

NAME, SOURCE = "none", "no data"
"""What rows of such networks say of their task."""


def without_data(checkpoint: Checkpoint) -> TrainedModel:
    """Returns a network with splits that hold no examples."""
    spec, steps = InputSpec(*checkpoint.metadata["input_spec"]), checkpoint.metadata.get("steps")
    rows = (0, *([2] * spec.pairs), steps or 0)
    none = Split(np.zeros(rows if spec.tokens else (*rows, spec.features), np.int32), np.zeros(0, np.int32))
    dataset = Dataset(
        NAME, SOURCE, none, none, spec.features, spec.classes, none, spec.tokens, spec.pairs, steps=steps,
        step_rescale=checkpoint.metadata["step_rescale"],
    )  # fmt: skip
    facts = checkpoint.metadata.replaced(data=dataset.fingerprint(), source=SOURCE)
    whole = dataclasses.replace(checkpoint, metadata=facts)
    return from_checkpoint(whole, dataset, Splits(none, none, none, "validation"))


def with_task(checkpoint: Checkpoint, description: dict[str, Any]) -> Checkpoint:
    """Returns a checkpoint that names a task.

    Args:
        checkpoint: one that names none.
        description: the task with its options.
    """
    return dataclasses.replace(checkpoint, metadata=checkpoint.metadata.replaced(task=description))


def has_data(trained: TrainedModel) -> bool:
    """Returns whether there are examples to be tested on."""
    return len(trained.splits.test) > 0


def random_batch(spec: InputSpec, length: int, size: int) -> Batch:
    """Returns random inputs, for times that do not depend on what they are.

    Args:
        spec: input specification of the network.
        length: steps per sequence.
        size: examples.
    """
    rng, rows = np.random.default_rng(0), size * (2 if spec.pairs else 1)
    inputs: np.ndarray = rng.integers(0, spec.features, (rows, length)).astype(np.int32)
    if not spec.tokens:
        inputs = rng.standard_normal((rows, length, spec.features)).astype(np.float32)
    lengths = np.full(rows, length, np.int32) if spec.tokens else None
    return Batch(inputs, np.zeros(size, np.int32), lengths, np.ones(size, np.float32))


def chosen(keys: Calibration, spec: InputSpec) -> Split:
    """Reads calibration sequences, whose labels nobody asks for.

    Args:
        keys: where they are, how many of them are taken, and which.
        spec: input specification of the network.

    Raises:
        UserError: there is no such file, it does not fit the network, or has fewer sequences.
    """
    path = given_path(keys.inputs, "reduction.calibration.inputs=")
    arrays = arrays_of(path, "reduction.calibration.inputs=")
    inputs, lengths = (next((arrays[name] for name in names if name in arrays), None) for names in (INPUTS, LENGTHS))
    if inputs is None:
        raise UserError(f"{path} has no array {INPUTS[0]!r}; it has {', '.join(sorted(arrays)[:10]) or 'nothing'}.")
    try:
        every = as_split(spec, inputs, lengths)
    except UserError as error:
        raise UserError(f"reduction.calibration.inputs={path}: {error}") from error
    if keys.sequences > len(every):
        raise UserError(
            f"reduction.calibration.sequences={keys.sequences}: {path} has {len(every)}; choose from 1 to {len(every)}."
        )
    return every.take(np.random.default_rng(keys.seed).permutation(len(every))[: keys.sequences])


def origin(facts: Mapping[str, Any]) -> str:
    """Returns what a network was trained on, in words.

    Args:
        facts: its metadata.
    """
    if facts["task"] is not None:
        return f"{facts['task']['name']} [source={facts['source']}]"
    made = facts.get("converted") or {"file": "other code"}
    return f"no task of s5c; converted from {made['file']}"
