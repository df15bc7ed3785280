"""One step after the other with `jax.lax.scan`: the least arithmetic and memory; the choice on CPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from s5c.types import Array, Float

Pair = tuple[Array, Array]


def scan(
    a: tuple[Float[Array, "p"], Float[Array, "p"]],
    b: tuple[Float[Array, "l b p"], Float[Array, "l b p"]],
    *,
    reverse: bool,
) -> tuple[Float[Array, "l b p"], Float[Array, "l b p"]]:
    """Runs the recurrence in time order, real and imaginary parts apart; O(l) steps, no extra memory."""
    a_re, a_im = a

    def step(x: Pair, b_k: Pair) -> tuple[Pair, Pair]:
        x_re, x_im = x
        x_next = (a_re * x_re - a_im * x_im + b_k[0], a_re * x_im + a_im * x_re + b_k[1])
        return x_next, x_next

    zero = jnp.zeros_like(b[0][0])
    return jax.lax.scan(step, (zero, zero), b, reverse=reverse)[1]
