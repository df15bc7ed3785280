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
        labels: classes (b,), int32, or targets (b, k) or, one a step, (b, l, k), float32.
        lengths: (rows,) or None.
        weights: (b,), 1 for an example, 0 for the filling of a last, partial evaluation batch.
        places: (b,), of the examples in their split; None if they come from none.
    """

    inputs: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray | None
    weights: np.ndarray
    places: np.ndarray | None = None


class Plan(NamedTuple):
    """Which examples make a batch, and what their sequences are padded to; None for the full length."""

    rows: np.ndarray
    pad_to: int | None


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
    for plan in _planned(split, batch_size, seed=seed, epoch=epoch)[start:]:
        yield _collate(split, batch_size, plan)


def padding_saved(split: Split, batch_size: int, *, seed: int) -> str:
    """Returns in words what padding to several lengths spares in the first epoch; nothing if there is one length."""
    if not split.buckets:
        return ""
    plans = _planned(split, batch_size, seed=seed, epoch=0)
    mean, longest = float(np.mean([plan.pad_to for plan in plans])), split.buckets[-1]
    return (
        f"Padding to {', '.join(map(str, split.buckets))}: {mean:,.0f} on average instead of {longest:,}, "
        f"{mean / longest:.1%} of an epoch's steps."
    )


def _planned(split: Split, batch_size: int, *, seed: int, epoch: int) -> list[Plan]:
    """Returns the batches of one epoch."""
    steps = steps_per_epoch(split, batch_size)
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(split))[: steps * batch_size]
    if split.buckets:
        return _bucketed(split, order, batch_size, rng)
    return [Plan(rows, None) for rows in order.reshape(steps, batch_size)]


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yields every example once; the last batch of each length is filled up with examples of weight 0.

    Examples keep their order, or, with buckets, come in the order of their buckets; `Batch.places` says which they are.
    Each is padded to its own one, so that the result does not depend on the size of the batches.
    """
    groups: list[Plan] = [Plan(np.arange(len(split)), None)]
    if split.buckets:
        bucket = _buckets_of(split)
        groups = [Plan(np.flatnonzero(bucket == i), length) for i, length in enumerate(split.buckets)]
    plans = (
        Plan(rows[first : first + batch_size], length)
        for rows, length in groups
        for first in range(0, len(rows), batch_size)
    )
    for plan in plans:
        yield _collate(split, batch_size, plan)


def _buckets_of(split: Split) -> np.ndarray:
    """Returns for each example the number of the shortest bucket that holds it."""
    return np.searchsorted(split.buckets, split.stored_lengths())


def _bucketed(split: Split, order: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[Plan]:
    """Returns as many batches as without buckets: what does not fill a batch of its bucket moves up to the next.

    Batches hold sequences of similar lengths, and the share of padding in one depends on its bucket: with batch
    normalisation, which counts padding, their statistics differ more from batch to batch than without buckets.
    """
    bucket = _buckets_of(split)[order]
    plans, left = [], order[:0]
    for number, length in enumerate(split.buckets):
        rows = np.concatenate([left, order[bucket == number]])
        full = len(rows) // batch_size
        plans += [Plan(part, length) for part in rows[: full * batch_size].reshape(full, batch_size)]
        left = rows[full * batch_size :]
    return [plans[i] for i in rng.permutation(len(plans))]


def _collate(split: Split, batch_size: int, plan: Plan) -> Batch:
    filling = np.full(batch_size - len(plan.rows), plan.rows[0])
    rows = np.concatenate([plan.rows, filling])
    weights = (np.arange(batch_size) < len(plan.rows)).astype(np.float32)
    inputs = split.read(rows, pad_to=plan.pad_to)
    lengths = None if split.lengths is None else split.lengths[rows]
    if lengths is not None and lengths.ndim == 2:
        inputs = np.concatenate([inputs[:, 0], inputs[:, 1]])
        lengths = np.concatenate([lengths[:, 0], lengths[:, 1]])
    if np.issubdtype(inputs.dtype, np.integer):
        inputs = inputs.astype(np.int32)
    return Batch(inputs, split.answers(rows, pad_to=plan.pad_to), lengths, weights, rows)
