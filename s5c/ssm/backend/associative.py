"""Parallel prefix over time, O(log l) deep, as in S5's own code: the fallback on accelerators."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from s5c.ssm import materialised
from s5c.ssm.call import Pair, times
from s5c.types import Array, Float

Element = tuple[Array, Array]


def scan(a: Pair, b: Float[Array, "l b twop"], x0: Float[Array, "b twop"], reverse: bool) -> Float[Array, "l b twop"]:
    """Combines (a, b) o (a', b') = (a' a, a' b + b') in a tree over time.

    Complex on purpose: split into four real arrays the same tree takes XLA several times longer to compile. The powers
    of `a` are shared by the batch.
    """
    p = a[0].shape[0]
    b = b.at[-1 if reverse else 0].add(times(a, x0))
    elements = (
        jnp.broadcast_to(jax.lax.complex(*a), (b.shape[0], 1, p)),
        jax.lax.complex(b[..., :p], b[..., p:]),
    )

    def combine(left: Element, right: Element) -> Element:
        return right[0] * left[0], right[0] * left[1] + right[1]

    x = jax.lax.associative_scan(combine, elements, reverse=reverse)[1]
    return jnp.concatenate([x.real, x.imag], axis=-1)


forward = partial(materialised.forward, scan)
backward = partial(materialised.backward, scan)
