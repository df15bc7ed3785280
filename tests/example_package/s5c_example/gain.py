"""`gain`: how much of a constant input each mode passes on."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from s5c.reduction.layer import Layer
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by its gain at rest, |c_i| |b_i| / |1 - a_i|^power, with a and b in discrete time.

    Attributes:
        power: 1 for the gain; 0 for the first step alone.
    """

    power: float = 1.0

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns the gains, shape (p,)."""
        a, B = layer.system.discretise()
        size = jnp.linalg.norm(layer.system.C, axis=0) * jnp.linalg.norm(B, axis=1)
        return size / jnp.abs(1 - a) ** self.power
