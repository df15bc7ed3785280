"""The part of a test split that is scored: what is looked at on the way, and what is left for the end."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from s5c.errors import UserError


def scored(n: int, examples: int | None, skip: int) -> Int[np.ndarray, "m"] | None:
    """Returns which of n test examples are scored, ascending, chosen by these numbers alone; None for all of them.

    Args:
        n: number of examples in the test split.
        examples: at most; None for no limit.
        skip: left out before: those that `examples` of this number scores.

    Raises:
        UserError: nothing is left, or less than was asked for.
    """
    if skip >= n:
        raise UserError(f"evaluation.test_skip={skip:,} leaves nothing of the {n:,} test examples: give fewer, or 0.")
    if skip and examples is not None and skip + examples > n:
        raise UserError(
            f"evaluation.test_skip={skip:,} leaves {n - skip:,} of the {n:,} test examples, fewer than "
            f"evaluation.test_examples={examples:,}: give {n - skip} or less, or null for all of them."
        )
    if skip == 0 and (examples is None or examples >= n):
        return None
    return np.sort(np.random.default_rng(0).permutation(n)[skip:][:examples])
