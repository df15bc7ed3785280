"""Batches of fixed shape, reproducible from (seed, epoch, position) alone, so that any point can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from s5c.data.base import Split
from s5c.errors import UserError


class Batch(NamedTuple):
    """One batch. For pairs the rows are all first documents, then all second ones.

    Attributes:
        inputs: (rows, l) ids or (rows, l, features).
        labels: (b,), int32.
        lengths: (rows,) or None.
        weights: (b,), 1 for an example, 0 for the filling of a last, partial evaluation batch.
    """

    inputs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None
    weights: np.ndarray


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Returns the number of full batches; the rest of an epoch is dropped, as in the published code.

    Raises:
        UserError: the batch is larger than the split.
    """
    if not 1 <= batch_size <= len(split):
        raise UserError(
            f"train.batch_size={batch_size}: the training split has {len(split)} examples; choose a batch size "
            f"between 1 and {len(split)}."
        )
    return len(split) // batch_size


def train_batches(split: Split, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
    """Yields the shuffled batches of one epoch from number `start` on; the order depends on (seed, epoch) only."""
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    for i in range(start, steps_per_epoch(split, batch_size)):
        yield _collate(split, order[i * batch_size : (i + 1) * batch_size], batch_size)


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yields every example once and in order; the last batch is filled up with examples of weight 0."""
    for first in range(0, len(split), batch_size):
        yield _collate(split, np.arange(first, min(first + batch_size, len(split))), batch_size)


def _collate(split: Split, rows: np.ndarray, batch_size: int) -> Batch:
    weights = (np.arange(batch_size) < len(rows)).astype(np.float32)
    part = split.take(np.concatenate([rows, np.full(batch_size - len(rows), rows[0])]))
    inputs, lengths = part.inputs, part.lengths
    if lengths is not None and lengths.ndim == 2:
        inputs = np.concatenate([inputs[:, 0], inputs[:, 1]])
        lengths = np.concatenate([lengths[:, 0], lengths[:, 1]])
    if np.issubdtype(inputs.dtype, np.integer):
        inputs = inputs.astype(np.int32)
    return Batch(inputs, part.labels, lengths, weights)
