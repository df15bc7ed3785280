"""Continuous-time diagonal systems turned into discrete-time ones.

    x'(t) = Lambda x(t) + B u(t)      ->      x_k = Lambda_bar x_{k-1} + B_bar u_k

Source: S5 (arXiv 2208.04933), section 2 and appendix B; the current input enters the current state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from s5c.types import Array, Complex, Float

Discretised = tuple[Complex[Array, "*layers p"], Complex[Array, "*layers p h"]]


one_program: Any = partial(jax.jit, inline=True)
"""Makes one program of a function that is called by itself, in place of one per operation to compile and to run. Inside
of another program it is part of that. Not for what must be equal to the last bit: equal parts of one program may be
rounded differently."""


@one_program
def expm1(z: Complex[Array, "*dims"]) -> Complex[Array, "*dims"]:
    """Returns exp(z) - 1 to full relative accuracy for Re z <= 0, without cancellation near 2 pi i k either.

    expm1(x + i y) = expm1(x) cos y - 2 sin^2(y / 2) + i exp(x) sin y
    """
    x, y = z.real, z.imag
    return jax.lax.complex(jnp.expm1(x) * jnp.cos(y) - 2 * jnp.sin(y / 2) ** 2, jnp.exp(x) * jnp.sin(y))


@one_program
def zoh(
    Lambda: Complex[Array, "*layers p"], B: Complex[Array, "*layers p h"], Delta: Float[Array, "*layers p"]
) -> Discretised:
    """Zero-order hold: exact for inputs that are constant over a step.

        Lambda_bar = exp(Lambda Delta),    B_bar = (Lambda_bar - 1) / Lambda * B

    Args:
        Lambda: eigenvalues, 1/s.
        B: input matrix.
        Delta: step per state, s. Leading axes (channels, layers) are mapped over.

    Returns:
        `(Lambda_bar, B_bar)`, shapes (p,) and (p, h). At Lambda = 0 the limit B_bar = Delta B is taken.
    """
    exponent = Lambda * Delta
    Lambda_bar = jnp.exp(exponent)
    is_zero = Lambda == 0
    # In float32 the published quotient: it differs from expm1 by rounding / |Lambda Delta|, and trained weights have
    # adapted to it. In double precision, where systems are analysed, nothing has, and a slow mode keeps its digits.
    rate = expm1(exponent) if exponent.dtype == jnp.complex128 else Lambda_bar - 1
    gain = jnp.where(is_zero, Delta, rate / jnp.where(is_zero, 1, Lambda))
    return Lambda_bar, gain[..., None] * B


@one_program
def bilinear(
    Lambda: Complex[Array, "*layers p"], B: Complex[Array, "*layers p h"], Delta: Float[Array, "*layers p"]
) -> Discretised:
    """Bilinear (Tustin) transform: maps the open left half plane onto the open unit disc.

        Lambda_bar = (1 + Delta Lambda / 2) / (1 - Delta Lambda / 2),    B_bar = Delta / (1 - Delta Lambda / 2) * B

    Args and Returns as in `zoh`.
    """
    denominator = 1 - Delta * Lambda / 2
    return (1 + Delta * Lambda / 2) / denominator, (Delta / denominator)[..., None] * B


METHODS: dict[str, Callable[..., Discretised]] = {"zoh": zoh, "bilinear": bilinear}
