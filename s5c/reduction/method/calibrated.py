"""`calibrated`: states whose loss the others cannot make up, by exact elimination on measured second moments."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from s5c.errors import UserError
from s5c.reduction.layer import Layer
from s5c.reduction.removal import scores_of
from s5c.reduction.subset import eliminate
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by what its removal costs after all cheaper ones, the output matrix solved again each time.

        e(k) = min_C E|y - D u - C x - c|^2 over the k states left,    score = (e(k) - e(k + 1)) / E|y|^2

    in the order of a greedy backward elimination (`s5c.reduction.subset`), never falling along it. Scores are
    shares of the layer's output energy, comparable between layers: use the allocation `global`. Choosing states this
    way only pays together with refit=calibrated, which the costs take for granted.

    Attributes:
        ridge: pull towards the present C, relative to the energy of each state.

    Ours.
    """

    needs_moments: ClassVar[bool] = True
    eliminates: ClassVar[bool] = True
    invariant: ClassVar[bool] = False  # the ridge pulls at every coefficient of a state alike
    protects_unstable: ClassVar[bool] = True

    ridge: float = 1e-4

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise UserError(f"reduction.ridge={self.ridge:g}: it must not be negative; 0 turns it off, 1e-4 is usual.")

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns shares of the output energy, (p,); infinite for unstable modes."""
        assert layer.moments is not None, "reduction=calibrated needs moments"
        order, costs = eliminate(layer.system, layer.moments, float(self.ridge))
        energy = layer.moments.energy
        return scores_of(order, costs / jnp.where(energy > 0, energy, 1))
