"""A stage from outside of the package: output matrices rounded to short words, as a device may store them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from s5c.errors import bounded, unknown
from s5c.model import surgery
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Rounds the real and imaginary parts of C to `bits` bits and a sign, relative to the largest of a layer.

    Attributes:
        rounding: bits; None for none.
        rounding_to: nearest | zero: which of two neighbours is taken.
    """

    BEFORE: ClassVar[str] = "normalise"

    rounding: int | None = bounded(None, least=1, most=23)
    rounding_to: str = "nearest"

    def __post_init__(self) -> None:
        if self.rounding_to not in (allowed := ("nearest", "zero")):
            raise unknown("value for reduction.rounding_to", self.rounding_to, allowed)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network with rounded outputs."""
        if self.rounding is None:
            return network
        with jax.enable_x64(True):
            layers = surgery.systems(network.weights["params"], network.model.config)
            rounded = [dataclasses.replace(layer, C=self._rounded(layer.C)) for layer in layers]
            lost = max(float(jnp.max(jnp.abs(a.C - b.C))) for a, b in zip(layers, rounded, strict=True))
        network = network.written(context.trained, rounded)
        return dataclasses.replace(
            network, bounds=[None] * len(rounded), facts={**network.facts, "rounding_lost": lost}
        )

    def label(self, key: str, value: Any) -> str | None:
        """Returns how many bits there are."""
        return f"+{value} bits" if key == "rounding" else None

    def _rounded(self, values: jax.Array) -> jax.Array:
        parts = jnp.stack([values.real, values.imag])
        step = jnp.max(jnp.abs(parts)) / 2**self.rounding
        nearest = jnp.round if self.rounding_to == "nearest" else jnp.trunc
        return jax.lax.complex(*(nearest(parts / step) * step))
