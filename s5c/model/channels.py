"""Layers that run one single-input, single-output system per channel: what the families S4D and DSS have in common.

A layer of h channels with p stored states each has the parameters

    Lambda_im and Lambda_log_neg_re  poles Lambda = -exp(Lambda_log_neg_re) + i Lambda_im, (h, p), or (p,) if shared
    log_step                         log Delta, one per channel, (h,)
    C, or C1 and C2                  output of the forward, and of the backward direction, (h, p, 2)
    D                                feedthrough, (h,)
    bias                             (h,), only after a calibrated refit

Only the products C B reach the output of such a system, so B = 1 loses nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from s5c.errors import UserError
from s5c.model.config import ModelConfig
from s5c.model.parameters import from_pairs, to_pairs
from s5c.model.roles import Parameter
from s5c.ssm.convolution import diagonal_siso_ssm
from s5c.ssm.discretise import one_program
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Features, Float

PARAMETERS = {
    **dict.fromkeys(("Lambda_im", "Lambda_re", "Lambda_log_neg_re"), Parameter("pole", -1)),
    "B": Parameter("input", 1),
    **dict.fromkeys(("C", "C1", "C2"), Parameter("output", 1)),
    "log_step": Parameter("step"),
    "D": Parameter("feedthrough"),
    "bias": Parameter("constant"),
}

SMALLEST = 1e-30
"""Decay rate stored for a pole on the imaginary axis, of which there is no logarithm."""


# ---- parameters and systems


def output_names(bidirectional: bool) -> tuple[str, ...]:
    """Returns the names of the output parameters, forward direction first."""
    return ("C1", "C2") if bidirectional else ("C",)


def stable_poles(params: Mapping[str, Array]) -> Complex[Array, "*channels p"]:
    """Returns Lambda, in the left half plane whatever the parameters are."""
    return jax.lax.complex(-jnp.exp(params["Lambda_log_neg_re"]), params["Lambda_im"])


def pole_parameters(Lambda: Complex[Array, "*channels p"]) -> dict[str, Array]:
    """Returns the parameters of poles; the inverse of `stable_poles`.

    Raises:
        UserError: a pole has a positive real part, for which there is no parameter.
    """
    if (Lambda.real > 0).any():
        raise UserError(
            f"{int((Lambda.real > 0).sum())} poles have a positive real part, at most {float(Lambda.real.max()):g}; "
            "this model holds stable ones only. Reduce to another order or by another method."
        )
    return {"Lambda_log_neg_re": jnp.log(jnp.maximum(-Lambda.real, SMALLEST)), "Lambda_im": Lambda.imag}


def system_of(
    params: Mapping[str, Array],
    Lambda: Complex[Array, "h p"],
    Delta: Float[Array, "h"],
    *,
    bidirectional: bool,
    discretisation: str = "zoh",
) -> DiagonalSSM:
    """Returns the layer's systems, B = 1 unless it is a parameter."""
    C, *backward = (from_pairs(params[name])[:, None] for name in output_names(bidirectional))
    B = from_pairs(params["B"]) if "B" in params else jnp.ones_like(Lambda)
    return DiagonalSSM(
        Lambda,
        B[..., None],
        C,
        params["D"][:, None],
        jnp.broadcast_to(Delta[:, None], Lambda.shape),
        backward[0] if backward else None,
        discretisation,
        params["bias"][:, None] if "bias" in params else None,
    )


@one_program
def parameters_of(system: DiagonalSSM) -> dict[str, Array]:
    """Returns the parameters of everything but the poles and B, of a system with one step size per channel."""
    outputs = [system.C] if system.C_backward is None else [system.C, system.C_backward]
    params = {n: to_pairs(C[:, 0]) for n, C in zip(output_names(len(outputs) == 2), outputs, strict=True)}
    params |= {"D": system.D[:, 0], "log_step": jnp.log(system.Delta[:, 0])}
    return params if system.bias is None else {**params, "bias": system.bias[:, 0]}


def with_one_step(system: DiagonalSSM) -> DiagonalSSM:
    """Returns the same systems with the step size of each channel's first state: Lambda Delta and B Delta decide."""
    Delta = jnp.broadcast_to(system.Delta[:, :1], system.Delta.shape)
    ratio = system.Delta / Delta
    return dataclasses.replace(system, Lambda=system.Lambda * ratio, B=system.B * ratio[..., None], Delta=Delta)


def scaled(system: DiagonalSSM, factor: Complex[Array, "h p"] | Float[Array, "h p"]) -> DiagonalSSM:
    """Returns the systems with the outputs of every state multiplied."""
    back = system.C_backward
    return dataclasses.replace(
        system, C=system.C * factor[:, None], C_backward=None if back is None else back * factor[:, None]
    )


@one_program
def folded(system: DiagonalSSM) -> DiagonalSSM:
    """Returns the same systems with B = 1, multiplied into the outputs."""
    return dataclasses.replace(scaled(system, system.B[..., 0]), B=jnp.ones_like(system.B))


# ---- the layer


def run(system: DiagonalSSM, u: Features, backend: str) -> Features:
    """Applies a layer's systems, feedthrough and bias included."""
    Lambda_bar, B_bar = system.discretise()
    back = None if system.C_backward is None else system.C_backward[:, 0]
    return with_feedthrough(
        system, u, diagonal_siso_ssm(u, Lambda_bar, B_bar[..., 0], system.C[:, 0], back, backend=backend)
    )


def with_feedthrough(system: DiagonalSSM, u: Features, y: Features) -> Features:
    """Returns y + D u + bias."""
    y = y + system.D[:, 0] * u
    return y if system.bias is None else y + system.bias[:, 0]


def initial_log_step(dt_min: float, dt_max: float) -> Callable[..., Float[Array, "..."]]:
    """Returns an initialiser of step sizes, log-uniform."""

    def init(key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, shape, minval=math.log(dt_min), maxval=math.log(dt_max))

    return init


def complex_normal(deviation: float) -> Callable[..., Float[Array, "h p 2"]]:
    """Returns an initialiser of complex numbers whose parts have this standard deviation."""

    def init(key: Array, shape: tuple[int, ...]) -> Array:
        return deviation * jax.random.normal(key, (*shape, 2))

    return init


def check_steps(dt_min: float, dt_max: float) -> None:
    """Raises `UserError` unless 0 < dt_min < dt_max."""
    if not 0 < dt_min < dt_max:
        raise UserError(
            f"model.dt_min={dt_min}, model.dt_max={dt_max}: 0 < dt_min < dt_max is needed, for instance dt_min=0.001 "
            "dt_max=0.1."
        )


def macs_per_step(config: ModelConfig, state_dim: int) -> int:
    """Returns the multiply-accumulates of one layer per time step, run as a recurrence, real ones.

    In each of h channels 2p for B u (shared by both directions), 4p for the complex recurrence and 2p for Re(C x) per
    direction, 1 for D u. The `fft` backend costs about as many as 5 log2 of the length per channel and direction, and
    the kernel once for a batch, whatever p.
    """
    directions = 2 if getattr(config, "bidirectional", False) else 1
    return config.d_model * (2 * state_dim + directions * 6 * state_dim + 1)
