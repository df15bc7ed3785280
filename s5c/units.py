"""The units of what goes into a network and comes out of it."""

from __future__ import annotations

from typing import NamedTuple


class Scale(NamedTuple):
    """How real channels are scaled before a network looks at them: (x - shift) / size, one number per channel."""

    shift: tuple[float, ...]
    size: tuple[float, ...]


class Targets(NamedTuple):
    """Real numbers that a network answers with: shift + size * output, one of each per target.

    Attributes:
        shift, size: of the training targets, in their units.
        per_step: there is an answer for every step, instead of one for a sequence.
    """

    shift: tuple[float, ...]
    size: tuple[float, ...]
    per_step: bool = False
