"""`magnitude`: product of parameter magnitudes, the baseline of LAST's comparison."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from s5c.errors import bounded
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by the size of its discretised parameters.

        score_i = (|a_i| ||B_bar_i|| ||C_i||)^power,    a = Lambda_bar

    An unstable mode (|a_i| >= 1) scores infinity, as in every method.

    Attributes:
        power: 1 for magnitude pruning; 2 with the `normalised` allocation is LAMP.

    Source: LAST (arXiv 2411.02824), section 5, baselines; the published code does not contain them.
    """

    power: int = bounded(1, least=1)

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns the scores, shape (p,)."""
        Lambda_bar, B_bar = layer.system.discretise()
        radius = jnp.abs(Lambda_bar)
        size = radius * jnp.linalg.norm(B_bar, axis=1) * output_norms(layer.system)
        return jnp.where(radius < 1, size**self.power, jnp.inf)
