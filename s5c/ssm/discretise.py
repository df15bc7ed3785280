"""Continuous-time diagonal systems turned into discrete-time ones.

    x'(t) = Lambda x(t) + B u(t)      ->      x_k = Lambda_bar x_{k-1} + B_bar u_k

Source: S5 (arXiv 2208.04933), section 2 and appendix B; the current input enters the current state.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from s5c.types import Array, Complex, Float

Discretised = tuple[Complex[Array, "*layers p"], Complex[Array, "*layers p h"]]


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
    Lambda_bar = jnp.exp(Lambda * Delta)
    is_zero = Lambda == 0
    # The published quotient, not expm1: in float32 the two differ by rounding / |Lambda Delta|, and trained weights
    # have adapted to the former.
    gain = jnp.where(is_zero, Delta, (Lambda_bar - 1) / jnp.where(is_zero, 1, Lambda))
    return Lambda_bar, gain[..., None] * B


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
