"""`Layer`: all that a reduction may know of one layer of a network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from s5c.reduction.gate import Gate
from s5c.reduction.moments import Moments
from s5c.ssm.system import DiagonalSSM


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer, double precision.

    Attributes:
        system: its system. With a leading axis it is a batch of single-input, single-output systems, one per channel
            (S4D, DSS); without, one system of many inputs and outputs (S5).
        horizon: steps of the sequences it runs on; None if unknown.
        gate: the nonlinearity behind it and the normalisation before it; None if unknown.
        moments: what was measured on calibration data; None unless the method or the refit asked for it.
    """

    system: DiagonalSSM
    horizon: int | None = None
    gate: Gate | None = None
    moments: Moments | None = None

    @property
    def channels(self) -> int | None:
        """Number of single-input systems, or None for one system of many inputs."""
        return self.system.Lambda.shape[0] if self.system.Lambda.ndim == 2 else None

    @property
    def slots(self) -> int:
        """Stored states of the whole layer, all channels together."""
        return self.system.Lambda.size


jax.tree_util.register_dataclass(Layer, data_fields=["system", "gate", "moments"], meta_fields=["horizon"])


def stack(layers: list[Layer]) -> Layer:
    """Stacks layers of equal shape along a new leading axis, for `jax.vmap`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
