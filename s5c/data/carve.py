"""Splits carved from a training split, reproducibly."""

from __future__ import annotations

import numpy as np

from s5c.data.base import Split
from s5c.errors import UserError


def carved(split: Split, name: str, fraction: float, seed: int) -> tuple[Split, Split]:
    """Returns what stays of a split, and the part that is carved from it: as large a share of every class.

    Args:
        split: of which it is carved.
        name: of the new split.
        fraction: its share.
        seed: seeds the choice.

    Raises:
        UserError: nothing would be left, or carved.
    """
    n = len(split)
    order = np.random.default_rng(seed).permutation(n)
    if split.labels.dtype.kind in "iu" and split.targets is None:
        # Of every class in turn, so that any first share of the order has its share of every class.
        own = split.labels[order]
        place = np.empty(n)
        for label in np.unique(own):
            where = np.flatnonzero(own == label)
            place[where] = (np.arange(len(where)) + 0.5) / len(where)
        order = order[np.argsort(place, kind="stable")]
    count = round(fraction * n)
    if not 0 < count < n:
        raise UserError(
            f"There is no {name} split, and task.{name}_fraction={fraction} carves {count} of {n} examples: give a "
            f"fraction that leaves both parts some, or a {name} split of your own."
        )
    return split.take(np.sort(order[count:])), split.take(np.sort(order[:count]))
