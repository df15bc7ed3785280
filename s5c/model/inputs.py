"""What a network must know of a task, and what must not tell a model from an older one; imports nothing heavy.

So tasks and trainings can be described without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ADDED_LATER: dict[str, Any] = {"gelu": "tanh", "layer_eps": 1e-6}
"""Keys of a model that older trainings do not know, with what they did: there they do not enter an identity."""


def without_later(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a model but those added later that change nothing."""
    return {key: value for key, value in model.items() if key not in ADDED_LATER or value != ADDED_LATER[key]}


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
