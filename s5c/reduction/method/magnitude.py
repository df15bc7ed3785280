"""`magnitude`: product of parameter magnitudes, the baseline of LAST's comparison."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from s5c.errors import bounded
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.reduction.unstable import check_treatment, guarded, treated
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by the size of its discretised parameters.

        score_i = (|a_i| ||B_bar_i|| ||C_i||)^power,    a = Lambda_bar

    Attributes:
        power: 1 for magnitude pruning; 2 with the `normalised` allocation is LAMP.
        unstable: `formula` | `protect` | `clip`: the score of an unstable mode (`s5c.reduction.unstable`); the formula
            has no denominator and knows no difference.

    Source: LAST (arXiv 2411.02824), section 5, baselines; the published code does not contain them.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset({"poles", "inputs", "outputs"})

    power: int = bounded(1, least=1)
    unstable: str = "formula"

    def __post_init__(self) -> None:
        check_treatment(self.unstable)

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns the scores, shape (p,)."""
        system = treated(layer.system, self.unstable)
        Lambda_bar, B_bar = system.discretise()
        size = jnp.abs(Lambda_bar) * jnp.linalg.norm(B_bar, axis=1) * output_norms(system)
        return guarded(size**self.power, layer.system, self.unstable)
