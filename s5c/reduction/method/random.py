"""`random`: states drawn at random, the floor of every comparison."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax

from s5c.errors import unknown
from s5c.reduction.layer import Layer
from s5c.reduction.unstable import guarded
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores states by independent uniform random numbers.

    Attributes:
        unstable: `formula`: unstable modes are drawn like others | `protect`: they score infinity.

    Source: "structured random" in LAST (arXiv 2411.02824), section 5.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset()
    draws_numbers: ClassVar[bool] = True

    unstable: str = "formula"

    def __post_init__(self) -> None:
        if self.unstable not in ("formula", "protect"):
            raise unknown("value for reduction.unstable", self.unstable, ("formula", "protect"))

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns uniform numbers in [0, 1), shape (p,)."""
        Delta = layer.system.Delta
        return guarded(jax.random.uniform(key, Delta.shape, dtype=Delta.dtype), layer.system, self.unstable)
