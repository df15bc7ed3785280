"""Axis glossary and array types shared by the whole package.

Axes, in the order in which they appear:

    b   batch
    l   sequence length (time)
    h   features (`d_model`)
    p   stored complex states of a layer (`state_dim`); under conjugate symmetry a real system of order 2p
    n   real states, n = 2p
    c   classes

An underscore before a letter (`_p`) marks a size that differs within a list: the layers of a reduced network.
Public functions are annotated with these letters; the test run checks every annotation at every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax import Array
from jaxtyping import Bool, Complex, Float, Int, Num

Params = Mapping[str, Any]
"""Nested dictionary of arrays, as Flax makes it."""

Features = Float[Array, "b l h"]
"""Real activations of a sequence layer."""

__all__ = ["Array", "Bool", "Complex", "Features", "Float", "Int", "Num", "Params"]
