"""What sequences of different lengths are padded to, `task.pad`: one length for all, or one of a few.

    full        all to the longest possible, as published
    bucket      to a quarter, half or all of max_length
    [l1, ...]   to the lengths given
    k           to k lengths, chosen so that the training split is padded to the fewest steps

Lengths count what is stored: tokens with <eos>, samples; of a pair the longer sequence counts. A sequence is padded to
the shortest that holds it, and the network is compiled once per length. It sees less padding then than the published
one: no layer masks it, a state that runs backwards starts in it, and batch normalisation counts it among its
statistics (unless `model.mask_padding` says otherwise). So a model is evaluated with the padding it was trained with.
In training the statistics are moreover those of batches of similar lengths, and the running ones those of the last such
batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from s5c.data.base import Split
from s5c.data.ragged import Ragged
from s5c.errors import UserError, unknown

FULL, BUCKET = "full", "bucket"

BLOCK = 128
"""Chosen lengths are multiples of this, or of a smaller power of two where max_length is under `PARTS` of them.

Whole blocks are what the operator runs through: on CPUs 128 steps, on GPUs tiles of 16; on TPUs blocks whose size
divides the length. Seven lengths to the step would pad IMDb and spoken digits to 0.2 %, ListOps to 0.8 % fewer steps.
"""
PARTS = 16

LENGTHS = "a number of lengths such as 7, or the lengths themselves, such as [512,1024,2048]."
GIVE = f"give full, bucket, {LENGTHS}"


def check(pad: Any, max_length: int) -> None:
    """Refuses a value of `task.pad` that is wrong whatever the data.

    Raises:
        UserError: it is.
    """
    if isinstance(pad, str):
        if pad not in (FULL, BUCKET):
            raise UserError(f"{unknown('value for task.pad', pad, (FULL, BUCKET))} Or give {LENGTHS}")
        return
    numbers = pad if isinstance(pad, list) else [pad]
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise UserError(f"task.pad={pad!r}: {GIVE}")
    if min(numbers) < 1:
        raise UserError(f"task.pad={pad}: lengths, and their number, are at least 1; {GIVE}")
    if not isinstance(pad, list):
        return
    if any(a >= b for a, b in pairwise(pad)):
        raise UserError(f"task.pad={pad}: the lengths must increase, as in task.pad={_list(sorted(set(pad)))}.")
    if pad[-1] > max_length:
        raise UserError(
            f"task.pad={pad}: sequences are cut to task.max_length={max_length}, so none needs {pad[-1]}. Make "
            f"{max_length} the longest, or raise task.max_length."
        )


def padded(splits: Mapping[str, Split], pad: Any, max_length: int) -> dict[str, Split]:
    """Returns the splits of a task with the lengths that `task.pad` asks for.

    Args:
        splits: `Ragged` inputs, "train" among them, padded to `max_length`.
        pad: a value that passes `check`.
        max_length: tokens or samples that sequences are cut to.

    Raises:
        UserError: the longest sequence does not fit, or there are fewer different lengths than asked for.
    """
    if pad == FULL:
        return dict(splits)
    longest = max(int(split.stored_lengths().max()) for split in splits.values())
    chosen = chosen_lengths(pad, max_length, splits["train"].stored_lengths(), longest)
    return {name: _with(split, chosen) for name, split in splits.items()}


def _with(split: Split, chosen: tuple[int, ...]) -> Split:
    assert not isinstance(split.inputs, np.ndarray)
    targets = split.targets
    if isinstance(targets, Ragged):
        targets = dataclasses.replace(targets, length=chosen[-1])
    inputs = dataclasses.replace(split.inputs, length=chosen[-1])
    return dataclasses.replace(split, inputs=inputs, buckets=chosen, targets=targets)


def chosen_lengths(pad: Any, max_length: int, train: np.ndarray, longest: int) -> tuple[int, ...]:
    """Returns the lengths that sequences are padded to, increasing; the last one holds all.

    Args:
        pad: a value that passes `check`, but not `full`.
        max_length: that sequences are cut to.
        train: lengths of the training sequences, (n,).
        longest: length of the longest sequence of all splits.

    Raises:
        UserError: as for `padded`.
    """
    if pad == BUCKET:
        return bucketed(max_length)
    if isinstance(pad, list):
        if pad[-1] < longest:
            raise UserError(
                f"task.pad={pad}: the longest sequence has {longest}. Add a length of at least that, up to "
                f"task.max_length={max_length}, or cut sequences with task.max_length={pad[-1]}."
            )
        return tuple(pad)
    multiple = multiple_of(max_length)
    ends, counts = np.unique(_up(np.append(train, longest), multiple, max_length), return_counts=True)
    counts[-1] -= 1  # `longest` is no training sequence
    if pad > len(ends):
        raise UserError(
            f"task.pad={pad}: the training sequences have {len(ends)} different lengths, rounded up to multiples of "
            f"{multiple}. Ask for at most {len(ends)}."
        )
    return tuple(int(ends[i]) for i in fewest(ends, counts, pad))


def bucketed(max_length: int) -> tuple[int, ...]:
    """Returns the lengths of `pad=bucket`: a quarter, half and all of `max_length`."""
    return tuple(sorted({-(-max_length // 4), -(-max_length // 2), max_length}))


def multiple_of(max_length: int) -> int:
    """Returns what chosen lengths are multiples of, a power of two; but the longest may be `max_length` itself."""
    return 1 << min(BLOCK.bit_length() - 1, max(max_length // PARTS, 1).bit_length() - 1)


def _up(n: np.ndarray, multiple: int, most: int) -> np.ndarray:
    return np.minimum(-(-n // multiple) * multiple, most)


def fewest(ends: np.ndarray, counts: np.ndarray, k: int) -> list[int]:
    """Returns which k of the possible lengths pad the fewest steps, the last always among them.

    With F_j(i) the fewest steps of all sequences up to length e_i in j buckets, the last of which is e_i,

        F_1(i) = e_i N_i,    F_j(i) = min_{h < i} F_{j-1}(h) + e_i (N_i - N_h),    N_i = n_0 + ... + n_i

    Args:
        ends: possible lengths e, (m,), increasing.
        counts: sequences n that each is the shortest for, (m,).
        k: at most as many as there are.

    Returns:
        k increasing places in `ends`; of equal sums that with the shorter lengths.
    """
    total = np.cumsum(counts)
    steps, before = ends * total, []
    for j in range(1, k):
        place = np.zeros(len(ends), int)
        better = steps.copy()
        for i in range(j, len(ends)):
            candidates = steps[j - 1 : i] + ends[i] * (total[i] - total[j - 1 : i])
            place[i] = j - 1 + candidates.argmin()
            better[i] = candidates.min()
        steps = better
        before.append(place)
    chosen = [len(ends) - 1]
    for place in reversed(before):
        chosen.append(int(place[chosen[-1]]))
    return chosen[::-1]


def named(source: str, pad: Any, train: Split) -> str:
    """Returns where data came from and, unless it is padded as published, what it is padded to."""
    if pad == FULL:
        return source
    return f"{source}, padded by bucket" if pad == BUCKET else f"{source}, padded to {_words(train.buckets)}"


def _words(chosen: tuple[int, ...]) -> str:
    *first, last = map(str, chosen)
    return f"{', '.join(first)} or {last}" if first else last


def _list(values: list[int]) -> str:
    return f"[{','.join(map(str, values))}]"
