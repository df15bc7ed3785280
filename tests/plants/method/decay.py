"""`decay`: the time constant of each mode, whatever goes in and comes out."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from s5c.reduction.layer import Layer
from s5c.ssm.modal import log_poles
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by how many steps it takes to fall to 1/e.

        tau_i = -1 / Re log a_i,    a = Lambda_bar;    infinity where the mode does not fall

    Ours: a method from outside of s5c, which knows of no options.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset({"poles"})
    protects_unstable: ClassVar[bool] = True

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns tau in steps, shape (p,)."""
        decay = log_poles(layer.system).real
        return jnp.where(decay < 0, -1 / jnp.where(decay < 0, decay, -1), jnp.inf)
