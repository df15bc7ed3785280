"""`Layer`: all that a reduction may know of one layer of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
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


def check_finite(layers: Sequence[Layer]) -> None:
    """Raises `UserError`, naming the first, where a parameter is not finite or more than single precision holds.

    The step of an empty slot (B = 0 and C = 0) decides nothing and is not looked at.
    """
    for i, layer in enumerate(layers):
        for name in ("Lambda", "B", "C", "C_backward", "D", "Delta"):
            value = getattr(layer.system, name)
            if value is None:
                continue
            value = np.asarray(value)
            wrong = ~(np.maximum(np.abs(value.real), np.abs(value.imag)) <= np.finfo(np.float32).max)
            if name == "Delta":
                wrong &= np.any(np.asarray(layer.system.B), axis=-1) | np.any(np.asarray(layer.system.C), axis=-2)
            if wrong.any():
                first = np.argwhere(wrong)[0]
                raise UserError(
                    f"Layer {i}: {name}[{', '.join(map(str, first))}] is {value[tuple(first)]:.3g}; {int(wrong.sum())} "
                    f"of the {wrong.size} numbers in {name} are not finite or too large for single precision. There is "
                    "nothing to reduce in such a layer: take a checkpoint from before the training diverged."
                )


def check_steps(layers: Sequence[Layer]) -> None:
    """Raises `UserError`, naming the first, where a step is not a positive number: poles cannot be written with it."""
    for i, layer in enumerate(layers):
        Delta = np.asarray(layer.system.Delta)
        wrong = ~(Delta >= np.finfo(np.float32).tiny)
        if wrong.any():
            names = ("channel", "state")[-wrong.ndim :]
            place = " ".join(f"{name} {k}" for name, k in zip(names, np.argwhere(wrong)[0], strict=True))
            raise UserError(
                f"Layer {i}, {place}: the step Delta is {Delta[wrong][0]:.3g}, {int(wrong.sum())} of {wrong.size} "
                "steps are not positive in single precision. This method writes new poles with the layer's steps. A "
                "state of step 0 never sees its input: set its log_step to a finite number, such as -7, and try again."
            )
