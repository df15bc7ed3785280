"""The recurrence written out, step by step without a loop, where sequences are short; a loop where they are not."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp

from s5c.ssm import materialised
from s5c.ssm.call import Pair, step_by_step, times
from s5c.types import Array, Float

LONGEST = 32
"""Steps that are written out at most: XLA compiles each of them."""


def written_out(
    a: Pair, b: Float[Array, "l b twop"], x0: Float[Array, "b twop"], reverse: bool
) -> Float[Array, "l b twop"]:
    """Runs x_k = a x_{k-1} + b_k; returns all states."""
    if len(b) > LONGEST:
        return step_by_step(a, b, x0, reverse)
    states, x = [], x0
    for b_k in b[::-1] if reverse else b:
        x = times(a, x) + b_k
        states.append(x)
    return jnp.stack(states[::-1] if reverse else states)


forward = partial(materialised.forward, written_out)
backward = partial(materialised.backward, written_out)
