"""The stored states of a system as slots that are kept, silenced or added; the arrays stay rectangular."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool


def silenced(system: DiagonalSSM, keep: Bool[Array, "*channels p"]) -> DiagonalSSM:
    """Returns the system with the other states emptied, B = C = 0: the output of `kept`, in unchanged shapes."""
    C_backward = None if system.C_backward is None else jnp.where(keep[..., None, :], system.C_backward, 0)
    return dataclasses.replace(
        system,
        B=jnp.where(keep[..., None], system.B, 0),
        C=jnp.where(keep[..., None, :], system.C, 0),
        C_backward=C_backward,
    )


def kept(system: DiagonalSSM, keep: Bool[np.ndarray, "*channels p"]) -> DiagonalSSM:
    """Returns the system of the states that stay.

    Args:
        system: one layer, double precision.
        keep: which states stay. A channel that keeps fewer than the largest is filled up with empty slots, which come
            last.
    """
    width = max(int(keep.sum(-1).max()), 1)
    slots = np.argsort(~keep, axis=-1, kind="stable")[..., :width]
    filled = np.take_along_axis(keep, slots, axis=-1)

    def rows(x: Array) -> Array:
        return jnp.asarray(np.take_along_axis(np.asarray(x), slots, axis=-1))

    def columns(C: Array) -> Array:
        return jnp.asarray(np.take_along_axis(np.asarray(C), slots[..., None, :], axis=-1))

    gathered = dataclasses.replace(
        system,
        Lambda=rows(system.Lambda),
        B=jnp.asarray(np.take_along_axis(np.asarray(system.B), slots[..., None], axis=-2)),
        C=columns(system.C),
        Delta=rows(system.Delta),
        C_backward=None if system.C_backward is None else columns(system.C_backward),
    )
    return gathered if filled.all() else silenced(gathered, jnp.asarray(filled))


def padded(system: DiagonalSSM, slots: int) -> DiagonalSSM:
    """Returns the system with empty slots appended up to `slots`, so that one program serves all sizes."""
    missing = slots - system.state_dim
    if missing <= 0:
        return system

    def fill(x: Array, axis: int, value: float) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, missing)
        return jnp.asarray(np.pad(np.asarray(x), widths, constant_values=value))

    return dataclasses.replace(
        system,
        Lambda=fill(system.Lambda, -1, -1),
        B=fill(system.B, -2, 0),
        C=fill(system.C, -1, 0),
        Delta=fill(system.Delta, -1, 1),
        C_backward=None if system.C_backward is None else fill(system.C_backward, -1, 0),
    )
