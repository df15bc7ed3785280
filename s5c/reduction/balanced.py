"""Balanced realisations: the coordinates in which every leading block is a reduced system."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.ssm.gramian import factor, gramian_factor, gramian_factors
from s5c.ssm.modal import ModalSystem, expm1, real_outputs, real_rows, turned
from s5c.types import Float

CHUNK = 32
"""Systems balanced at once: enough to fill vectors, few enough for the caches."""


class Balanced(NamedTuple):
    """A real system in balanced coordinates, P = Q = diag(hsv); of order n = 2p.

    Attributes:
        generator: A - I in discrete time (A itself in continuous time). The poles crowd around 1, and 1 is what a sum
            with them would lose digits to.
        B: input matrix.
        C: output matrix.
        D: feedthrough.
        hsv: Hankel singular values, descending. What lies below rounding of the first is set to zero, with its rows
            and columns in the matrices.
    """

    generator: Float[Any, "*batch n n"]
    B: Float[Any, "*batch n inputs"]
    C: Float[Any, "*batch outputs n"]
    D: Float[Any, "*batch outputs inputs"]
    hsv: Float[Any, "*batch n"]


def balance(
    system: ModalSystem,
    covariance: Float[Any, "n n"] | None = None,
    *,
    horizon: int | None = None,
    time: str = "discrete",
) -> Balanced:
    """Returns the balanced realisation of one system by the square-root method.

        P = L_P L_P^T,  Q = L_Q L_Q^T,  L_Q^T L_P = U S V^T,    T = L_P V S^{-1/2},  W = L_Q U S^{-1/2},  W^T T = I
        A = W^T A T,  B = W^T B,  C = C T

    on the real system that runs, both halves of every pair included: the stored half has other Hankel singular values.
    Entry (i, j) needs the i-th and the j-th singular vectors alone, so the leading r x r blocks are the system of order
    r, whatever follows them. Pure; `jax.vmap` maps it over systems.

    Args:
        system: p slots, complex128. Assumes |a| < 1 on an infinite horizon.
        covariance: of the states where the input is not white, in the coordinates of `s5c.ssm.modal.real_form`; takes
            the place of P. Any leading block is stable still: W = Q T S^{-1}, and Q decays along every trajectory.
        horizon: number of steps the Gramians count, or None for infinitely many.
        time: "discrete", or "continuous" where `log_a` is the generator, per step.

    Returns:
        `Balanced`, n = 2p.

    Raises:
        UserError: unknown time.
        ValueError: the system is not in double precision.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 7.3; measured covariances: Lall,
    Marsden and Glavaski, Empirical model reduction of controlled nonlinear systems (1999).
    """
    # Factors of the Gramians, P P^T and Q Q^T: the Gramians themselves would square the condition.
    if covariance is None:
        P, Q = gramian_factors(system, horizon=horizon, time=time)
    else:
        P, Q = factor(covariance), gramian_factor(system, "observability", horizon=horizon, time=time)
    U, hsv, Vt = jnp.linalg.svd(Q.T @ P)
    # Balancing and its inverse, W^T T = I, for the singular values that stand out of rounding; others get zeros.
    above = hsv > len(hsv) * np.finfo(float).eps * hsv[0]
    scale = jnp.where(above, 1 / jnp.sqrt(jnp.where(above, hsv, 1)), 0)
    T, W = P @ Vt.T * scale, Q @ U * scale
    # The system in these coordinates; with A - I for A in discrete time, slow poles keep their digits.
    rate = expm1(system.log_a) if time == "discrete" else system.log_a
    return Balanced(
        W.T @ turned(rate, T),
        W.T @ real_rows(system.B),
        real_outputs(system.C) @ T,
        system.D,
        jnp.where(above, hsv, 0),
    )


@partial(jax.jit, static_argnames=("horizon", "time"))
def balance_all(
    systems: ModalSystem,
    covariances: Float[Any, "count n n"] | None = None,
    *,
    horizon: int | None = None,
    time: str = "discrete",
) -> Balanced:
    """Balances many systems of equal shape, along one leading axis, in one compiled call.

    Args and Raises as in `balance`; call inside `jax.enable_x64(True)`.
    """

    def one(given: tuple[ModalSystem, Float[Any, "n n"] | None]) -> Balanced:
        return balance(*given, horizon=horizon, time=time)

    count, every = systems.log_a.shape[0], (systems, covariances)
    return jax.vmap(one)(every) if count <= CHUNK else jax.lax.map(one, every, batch_size=CHUNK)


def error_bounds(hsv: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch orders"]:
    """Returns an upper bound of the H-infinity error of every order.

        ||G - G_r||_inf <= 2 sum_{k > r} sigma_k,    r = 0, ..., n

    It holds for truncation and for singular perturbation of what was balanced on an infinite horizon, not for
    time-limited Hankel singular values, and of a continuous-time system not for its discretisation.

    Args:
        hsv: Hankel singular values, descending.

    Returns:
        n + 1 bounds, descending to 0.

    Source: Antoulas (2005), section 7.2; perturbation: Liu and Anderson, Singular perturbation approximation of
    balanced systems (1989).
    """
    tails = np.cumsum(hsv[..., ::-1], axis=-1)[..., ::-1]
    return 2 * np.concatenate([tails, np.zeros_like(tails[..., :1])], axis=-1)
