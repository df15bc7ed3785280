"""`none`: removes nothing, whatever ratio is asked for; the unpruned model as a row of a comparison."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from s5c.reduction.layer import Layer
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Protects every state: all scores are infinite. Ours, so that "no reduction" is a choice like any other."""

    depends_on: ClassVar[frozenset[str]] = frozenset()
    keeps_all: ClassVar[bool] = True

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns infinity for every state."""
        return jnp.full(layer.system.Delta.shape, jnp.inf)
