"""One system by itself: its Hankel singular values, norm and answers, and a smaller system in its place.

What needs double precision enters it; the systems may be in single precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, check_numbers
from s5c.reduction import energy, stage
from s5c.reduction.contract import Projection, Selection, load_allocation, load_method
from s5c.reduction.layer import Layer, check_finite
from s5c.reduction.slots import kept
from s5c.ssm import gramian, norms, response
from s5c.ssm.modal import from_ssm, log_poles
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
        return np.asarray(_values(_checked(system)))


def h2_norm(system: DiagonalSSM, *, horizon: int | None = None) -> Float[np.ndarray, "*channels"]:
    """Returns the H2 norm of a layer's system: the root energy of its impulse response.

        ||G||^2 = sum_{k < L} ||h_k||_F^2        (L infinite)

    White noise of unit variance at every input makes an output of that deviation, all outputs together. Both directions
    of a bidirectional layer count, and see the current input together.

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.
        horizon: number of taps L >= 1, or None for infinitely many.

    Returns:
        A number, float64, one per channel; infinite on an infinite horizon where a mode is unstable.

    Raises:
        UserError: not a system, a parameter is not finite, or a horizon below 1.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 5.5.
    """
    if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1):
        raise UserError(f"horizon={horizon}: give the number of taps, at least 1, or None for infinitely many.")
    with jax.enable_x64(True):
        system = _checked(system)
        found = np.asarray(_norms(system, None if horizon is None else int(horizon)))
        return found if horizon is not None else np.where(_unstable(system), np.inf, found)


def dc_gain(system: DiagonalSSM) -> Float[np.ndarray, "*channels outputs inputs"]:
    """Returns what a layer's system answers to a constant input once it has settled: the sum of all taps.

        G(1) = D + 2 Re(C (1 - a)^{-1} B),    of both directions where there are two

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.

    Returns:
        A matrix, float64, one per channel.

    Raises:
        UserError: not a system, a parameter is not finite, or a mode is unstable: the answer does not settle.
    """
    with jax.enable_x64(True):
        system = _checked(system)
        if _unstable(system).any():
            raise UserError("A mode is unstable (|Lambda_bar| >= 1): the answer to a constant never settles.")
        return np.asarray(_constant_answers(system))


def impulse_response(system: DiagonalSSM, length: int) -> Float[np.ndarray, "*channels l outputs inputs"]:
    """Returns the taps of a layer's system, those of the forward direction where there are two.

        h_k = 2 Re(C a^k B),    h_0 = 2 Re(C B) + D

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.
        length: number of taps l >= 1.

    Returns:
        Real matrices, float64, by lag.

    Raises:
        UserError: not a system, a parameter is not finite, or a length below 1.
    """
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
        raise UserError(f"length={length}: give the number of taps, at least 1.")
    with jax.enable_x64(True):
        return np.asarray(_taps(dataclasses.replace(_checked(system), C_backward=None), int(length)))


def reduce_system(system: DiagonalSSM, *, order: int, method: str = "bt", **options: Any) -> DiagonalSSM:
    """Returns a smaller system in place of a larger one.

    Args:
        system: p stored states, any precision.
        order: stored states to keep, from 1 to p.
        method: file name in s5c/reduction/method; one that keeps states, or makes new systems.
        options: of the method, such as `variant="perturbation"`.

    Returns:
        The system with `order` stored states, double precision.

    Raises:
        UserError: unknown method or option, an order out of range, or a method that needs more than the system.
    """
    _check(system)
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
        layer = Layer(_double(system))
        if isinstance(found, Projection):
            return found.fit([layer], 0).reduce([np.asarray(order)])[0].system
        if not isinstance(found, Selection):
            raise UserError(f"method={method} does not make a system smaller.")
        ranking = stage.rank(found, load_allocation("normalised"), [layer], seed=0)
        return kept(layer.system, stage.select_orders(ranking, (order,)).keep[0])


def _check(system: Any) -> None:
    if not isinstance(system, DiagonalSSM):
        raise UserError(f"This takes a s5c.DiagonalSSM, such as model.systems()[0], not {system!r:.80}.")


def _checked(system: Any) -> DiagonalSSM:
    """Returns a system in double precision whose parameters are finite; call inside `jax.enable_x64(True)`."""
    _check(system)
    double = _double(system)
    check_finite([Layer(double)])
    return double


def _unstable(system: DiagonalSSM) -> np.ndarray:
    return np.asarray((log_poles(system).real >= 0).any(axis=-1))


def _double(system: DiagonalSSM) -> DiagonalSSM:
    def one(x: Any) -> Array:
        x = np.asarray(x)
        return jnp.asarray(x, complex if np.iscomplexobj(x) else float)

    return jax.tree.map(one, system)


def _each(function: Callable[[DiagonalSSM], Array], system: DiagonalSSM) -> Array:
    """Returns what a function says of one system, or of every channel's."""
    return jax.lax.map(function, system, batch_size=32) if system.Lambda.ndim == 2 else function(system)


@partial(jax.jit, static_argnames="horizon")
def _norms(system: DiagonalSSM, horizon: int | None) -> Array:
    def one(system: DiagonalSSM) -> Array:
        if system.C_backward is None:
            return norms.h2_norm(from_ssm(system), horizon=horizon)
        return jnp.sqrt(energy.squared_norm(energy.parts_of(system, every=True), horizon=horizon))

    return _each(one, system)


@jax.jit
def _constant_answers(system: DiagonalSSM) -> Array:
    def one(system: DiagonalSSM) -> Array:
        gain = response.dc_gain(from_ssm(system))
        return gain if system.C_backward is None else jnp.add(*jnp.split(gain, 2))

    return _each(one, system)


@partial(jax.jit, static_argnames="length")
def _taps(system: DiagonalSSM, length: int) -> Array:
    return _each(lambda one: response.impulse_response(from_ssm(one), length), system)


@jax.jit
def _values(system: DiagonalSSM) -> Array:
    def one(system: DiagonalSSM) -> Array:
        modal = from_ssm(system)
        stable = modal.log_a.real < 0
        B = jnp.where(stable[:, None], modal.B, 0)
        return gramian.hankel_singular_values(modal._replace(log_a=jnp.where(stable, modal.log_a, -1), B=B))

    return _each(one, system)
