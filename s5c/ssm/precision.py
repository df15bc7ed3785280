"""The precision of matrix products, and of nothing else: states, powers and sums stay in float32."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from s5c.types import Array

PRECISIONS = ("float32", "tf32", "bfloat16")
"""float32: exact products. tf32: ten-bit products where the device has them (NVIDIA), three bfloat16 passes on a TPU,
no change on a CPU. bfloat16: both factors rounded to eight bits. Sums are float32 in all three."""


def dot_general(x: Array, y: Array, dimension_numbers: Any, *, precision: str = "float32", **_: Any) -> Array:
    """Multiplies as `jax.lax.dot_general` does, in one of `PRECISIONS`; the result has the wider of the two dtypes.

    Fits the `dot_general` of Flax's layers, whose `precision` is then one of these names; other keywords are not used.
    """
    result = jnp.promote_types(x.dtype, y.dtype)
    narrow = jnp.bfloat16 if precision == "bfloat16" else min(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
    x, y = _rounded(x, narrow, result), _rounded(y, narrow, result)
    passes = jax.lax.Precision.HIGH if precision == "tf32" else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(x, y, dimension_numbers, passes, preferred_element_type=result)


def _rounded(x: Array, narrow: Any, result: Any) -> Array:
    """Returns `x` in the narrow type; on a CPU its rounded values in the wide one, which has all products there.

    `reduce_precision`, since XLA may drop a conversion and its inverse.
    """
    if jax.default_backend() != "cpu":
        return x.astype(narrow)
    if x.dtype != narrow:
        info = jnp.finfo(narrow)
        x = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    return x.astype(result)
