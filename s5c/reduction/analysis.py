"""What a system answers, and how large it is: frequency response and norms, in one call.

The norm of a difference is an error: `h2_norm(system - small)`. All enter double precision by themselves; systems may
be in single precision, and have a leading axis of channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.reduction.energy import parts_of, squared_norm
from s5c.reduction.layer import Layer, check_finite
from s5c.reduction.unstable import count
from s5c.ssm import norms, response
from s5c.ssm.modal import from_ssm
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
        return np.asarray(_mapped(partial(_responses, angles=at), checked(system)))


def h2_norm(system: DiagonalSSM) -> float:
    """Returns the H2 norm: the root of the impulse response's energy, all channels and both directions together.

        ||G||^2 = sum_k ||h_k||_F^2

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.

    Returns:
        Infinity if a mode is unstable (|Lambda_bar| >= 1).

    Raises:
        UserError: not a system, or a number is not finite.

    Source: Antoulas, Approximation of Large-Scale Dynamical Systems (2005), section 5.5.
    """
    with jax.enable_x64(True):
        system = checked(system)
        return float(np.inf if count(system) else np.sqrt(np.sum(_mapped(_squared, system))))


def hinf_norm(system: DiagonalSSM) -> float:
    """Returns the H-infinity norm: the largest gain over all tones, of channels the largest.

        ||G||_inf = max_angle sigma_max(G(exp(i angle)))

    Args:
        system: p stored states, any precision; with a leading axis one system per channel.

    Returns:
        A gain that is attained, right to 1e-6 and better; infinity if a mode is unstable (|Lambda_bar| >= 1).

    Raises:
        UserError: not a system, or a number is not finite.

    Source: Antoulas (2005), section 5.3.
    """
    with jax.enable_x64(True):
        system = checked(system)
        return float(np.inf if count(system) else np.max(_mapped(_peak, system)))


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


def _mapped(function: Any, system: DiagonalSSM) -> Array:
    mapped = partial(jax.lax.map, function) if system.Lambda.ndim == 2 else function
    return jax.jit(mapped)(system)


def _responses(system: DiagonalSSM, angles: Float[Array, "f"]) -> Array:
    return response.frequency_response(from_ssm(system), angles, bidirectional=system.C_backward is not None)


def _squared(system: DiagonalSSM) -> Array:
    return squared_norm(parts_of(system))


def _peak(system: DiagonalSSM) -> Array:
    return norms.hinf_norm(from_ssm(system), bidirectional=system.C_backward is not None).gain
