"""What a system answers, and how large it is: frequency response and norms, in one call.

The norm of a difference is an error: `h2_norm(system - small)`. All enter double precision by themselves; systems may
be in single precision, and have a leading axis of channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.reduction import energy
from s5c.reduction.layer import Layer, check_finite
from s5c.ssm import norms, response
from s5c.ssm.modal import from_ssm, log_poles
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Float


def frequency_response(system: DiagonalSSM, angles: Any) -> Complex[np.ndarray, "*channels f outputs inputs"]:
    """Returns the transfer function on the unit circle, z = exp(i angle), both halves of every pair counted.

        G(z) = D + C (1 - a / z)^{-1} B + conj(C) (1 - conj(a) / z)^{-1} conj(B)

    The current input is in the current output. A backward direction adds the conjugate of its own response.

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.
        angles: real, (f,), radians per step.

    Returns:
        complex128, one matrix per angle; infinite at a pole on the circle.

    Raises:
        UserError: not a system, or a number is not finite.
    """
    with jax.enable_x64(True):
        at = jnp.asarray(np.asarray(angles, float).ravel())
        return np.asarray(_responses(checked(system), at))


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
        system = checked(system)
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
        system = checked(system)
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
        return np.asarray(_taps(dataclasses.replace(checked(system), C_backward=None), int(length)))


def hinf_norm(system: DiagonalSSM) -> Float[np.ndarray, "*channels"]:
    """Returns the H-infinity norm of a layer's system: the largest gain over all tones.

        ||G||_inf = max_angle sigma_max(G(exp(i angle)))

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.

    Returns:
        A number, float64, one per channel: a gain that is attained, right to 1e-6 and better; infinite where a mode is
        unstable.

    Raises:
        UserError: not a system, or a parameter is not finite.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 5.3.
    """
    with jax.enable_x64(True):
        system = checked(system)
        return np.where(_unstable(system), np.inf, np.asarray(_peaks(system)))


def checked(system: Any) -> DiagonalSSM:
    """Returns a system in double precision; the caller has entered it.

    Raises:
        UserError: it is none, or a number is not finite.
    """
    if not isinstance(system, DiagonalSSM):
        raise UserError(f"This takes a s5c.DiagonalSSM, such as model.systems()[0], not {system!r:.80}.")

    def double(x: Any) -> Array:
        x = np.asarray(x)
        return jnp.asarray(x, complex if np.iscomplexobj(x) else float)

    system = jax.tree.map(double, system)
    check_finite([Layer(system)])
    return system


def _unstable(system: DiagonalSSM) -> np.ndarray:
    return np.asarray((log_poles(system).real >= 0).any(axis=-1))


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
def _responses(system: DiagonalSSM, angles: Float[Array, "f"]) -> Array:
    def one(system: DiagonalSSM) -> Array:
        return response.frequency_response(from_ssm(system), angles, bidirectional=system.C_backward is not None)

    return _each(one, system)


@jax.jit
def _peaks(system: DiagonalSSM) -> Array:
    def one(system: DiagonalSSM) -> Array:
        return norms.hinf_norm(from_ssm(system), bidirectional=system.C_backward is not None).gain

    return _each(one, system)
