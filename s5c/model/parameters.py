"""How complex numbers are kept as parameters: a trailing axis of two, since optimisers treat each part by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from s5c.ssm.discretise import one_program
from s5c.types import Array, Complex, Float


@one_program
def from_pairs(x: Float[Array, "*dims 2"]) -> Complex[Array, "*dims"]:
    """Returns the complex numbers whose parts lie on the last axis."""
    return jax.lax.complex(x[..., 0], x[..., 1])


@one_program
def to_pairs(x: Complex[Array, "*dims"]) -> Float[Array, "*dims 2"]:
    """Returns the parts on a new last axis."""
    return jnp.stack([x.real, x.imag], axis=-1)
