"""What a network must know of a task, and what must not tell a model from an older one; imports nothing heavy.

So tasks and trainings can be described without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from s5c.units import Scale, Targets

ADDED_LATER: dict[str, Any] = {"mask_padding": False, "gelu": "tanh", "layer_eps": 1e-6}
"""Keys of a model that older trainings do not know, with what they did: there they do not enter an identity."""


def without_later(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a model but those added later that change nothing."""
    return {key: value for key, value in model.items() if key not in ADDED_LATER or value != ADDED_LATER[key]}


class _Spec(NamedTuple):
    features: int
    classes: int
    tokens: bool
    pairs: bool
    targets: Targets | None
    scale: Scale | None


class InputSpec(_Spec):
    """What the network must know of a task.

    Attributes:
        features: channels of a real input, or number of token ids.
        classes: number of classes, or of targets.
        tokens: inputs are integer ids (b, l) rather than real vectors (b, l, features).
        pairs: two sequences per example (document matching); a batch of b examples has 2b rows, the first b of them
            the first documents.
        targets: the network answers with real numbers, in these units, rather than with log-probabilities of classes.
        scale: how real inputs are scaled before the first layer; None for not at all.
    """

    __slots__ = ()

    def __new__(
        cls,
        features: int,
        classes: int,
        tokens: bool = False,
        pairs: bool = False,
        targets: Any = None,
        scale: Any = None,
    ) -> InputSpec:
        """Takes lists in the place of tuples too, as JSON has them."""
        if targets is not None:
            targets = Targets(tuple(targets[0]), tuple(targets[1]), bool(targets[2]))
        if scale is not None:
            scale = Scale(tuple(scale[0]), tuple(scale[1]))
        return super().__new__(cls, features, classes, tokens, pairs, targets, scale)

    def stored(self) -> list[Any]:
        """Returns what a checkpoint holds of it, for `InputSpec(*...)`; what nobody has asked for is left out."""
        found = list(self)
        while len(found) > 4 and found[-1] is None:
            found.pop()
        return found

    def fits(self, other: InputSpec) -> bool:
        """Says whether a network for one takes inputs of the other and answers in its way, whatever their scales."""
        per_step = [None if one.targets is None else one.targets.per_step for one in (self, other)]
        return self[:4] == other[:4] and per_step[0] == per_step[1]
