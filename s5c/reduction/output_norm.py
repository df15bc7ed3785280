"""How much of a state reaches the output; shared by every score that multiplies ||C_i||."""

from __future__ import annotations

import jax.numpy as jnp

from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float


def output_norms(system: DiagonalSSM) -> Float[Array, "p"]:
    """Returns the column norms ||C_i||; for bidirectional layers their mean (||C1_i|| + ||C2_i||) / 2.

    Source: the mean is what the published LAST code means to take (papers call it one state with two output columns).
    """
    forward = jnp.linalg.norm(system.C, axis=0)
    if system.C_backward is None:
        return forward
    return (forward + jnp.linalg.norm(system.C_backward, axis=0)) / 2
