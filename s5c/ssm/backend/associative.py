"""Parallel prefix over time with `jax.lax.associative_scan`: O(log l) depth; the choice on accelerators."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from s5c.types import Array, Float

Element = tuple[Array, Array]


def scan(
    a: tuple[Float[Array, "p"], Float[Array, "p"]],
    b: tuple[Float[Array, "l b p"], Float[Array, "l b p"]],
    *,
    reverse: bool,
) -> tuple[Float[Array, "l b p"], Float[Array, "l b p"]]:
    """Combines (a, b) o (a', b') = (a' a, a' b + b') in a tree over time.

    Complex on purpose: split into four real arrays the same tree takes XLA several times longer to compile. The powers
    of `a` are shared by the batch.
    """
    elements = (
        jnp.broadcast_to(jax.lax.complex(*a), (b[0].shape[0], 1, a[0].shape[0])),
        jax.lax.complex(*b),
    )

    def combine(left: Element, right: Element) -> Element:
        return right[0] * left[0], right[0] * left[1] + right[1]

    x = jax.lax.associative_scan(combine, elements, reverse=reverse)[1]
    return jnp.real(x), jnp.imag(x)
