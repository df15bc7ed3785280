"""What a network must know of a task; imports nothing, so that tasks can be described without a network."""

from __future__ import annotations

from typing import NamedTuple


class InputSpec(NamedTuple):
    """What the network must know of a task.

    Attributes:
        features: channels of a real input, or number of token ids.
        classes: number of classes.
        tokens: inputs are integer ids (b, l) rather than real vectors (b, l, features).
        pairs: two sequences per example (document matching); a batch of b examples has 2b rows, the first b of them
            the first documents.
    """

    features: int
    classes: int
    tokens: bool = False
    pairs: bool = False
