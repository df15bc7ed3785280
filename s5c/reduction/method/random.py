"""`random`: states drawn at random, the floor of every comparison."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from s5c.reduction.layer import Layer
from s5c.ssm.modal import log_poles
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores states by independent uniform random numbers; unstable modes score infinity, as in every method.

    Source: "structured random" in LAST (arXiv 2411.02824), section 5.
    """

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns uniform numbers in [0, 1), shape (p,)."""
        decay = log_poles(layer.system).real
        return jnp.where(decay < 0, jax.random.uniform(key, decay.shape, dtype=decay.dtype), jnp.inf)
