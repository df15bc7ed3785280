"""One system by itself: its Hankel singular values, and a smaller system in its place.

Both enter double precision by themselves; the systems may be in single precision.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, check_numbers
from s5c.reduction import stage
from s5c.reduction.analysis import checked
from s5c.reduction.contract import Projection, Selection, load_allocation, load_method
from s5c.reduction.layer import Layer
from s5c.reduction.slots import kept
from s5c.ssm import gramian
from s5c.ssm.modal import from_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float


def hankel_singular_values(system: DiagonalSSM) -> Float[np.ndarray, "*channels n"]:
    """Returns the Hankel singular values of a layer's system, of its stable modes where some are unstable.

        sigma = sqrt(eig(P Q)),    P, Q the Gramians of the discretised system with both halves of every pair

    Of a bidirectional layer they are those of the forward direction. The error of balanced truncation to order r is at
    most 2 sum_{k > r} sigma_k in the H-infinity norm.

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.

    Returns:
        n = 2p values, float64, descending.

    Raises:
        UserError: not a system, or a parameter is not finite.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 5.4.
    """
    with jax.enable_x64(True):
        system = checked(system)
        return np.asarray(_values(system))


def reduce_system(system: DiagonalSSM, *, order: int, method: str = "bt", **options: Any) -> DiagonalSSM:
    """Returns a smaller system in place of a larger one.

    Args:
        system: p stored states, any precision.
        order: stored states to keep, from 1 to p.
        method: file name in s5c/reduction/method; one that keeps states, or makes new systems.
        options: options of the method, such as `variant="perturbation"`.

    Returns:
        The system with `order` stored states, double precision.

    Raises:
        UserError: unknown method or option, an order out of range, or a method that needs more than the system.
    """
    with jax.enable_x64(True):
        system = checked(system)
    if system.Lambda.ndim != 1:
        raise UserError("reduce_system takes one system; of a layer with channels give them one by one.")
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or not 1 <= order <= system.state_dim:
        raise UserError(f"order={order}: choose from 1 to {system.state_dim}, the states that are there.")
    try:
        found = load_method(method, options)
    except TypeError as error:
        raise UserError(f"method={method}: {error}.") from error
    check_numbers(found, "options")
    if getattr(found, "needs_moments", False):
        raise UserError(f"method={method} looks at data, of which a system has none: take s5c.reduce on the network.")
    with jax.enable_x64(True):
        layer = Layer(system)
        if isinstance(found, Projection):
            return found.fit([layer], 0).reduce([np.asarray(order)])[0].system
        if not isinstance(found, Selection):
            raise UserError(f"method={method} does not make a system smaller.")
        ranking = stage.rank(found, load_allocation("normalised"), [layer], seed=0)
        return kept(layer.system, stage.select_orders(ranking, (order,)).keep[0])


@jax.jit
def _values(system: DiagonalSSM) -> Array:
    def one(system: DiagonalSSM) -> Array:
        modal = from_ssm(system)
        stable = modal.log_a.real < 0
        B = jnp.where(stable[:, None], modal.B, 0)
        return gramian.hankel_singular_values(modal._replace(log_a=jnp.where(stable, modal.log_a, -1), B=B))

    return jax.lax.map(one, system, batch_size=32) if system.Lambda.ndim == 2 else one(system)
