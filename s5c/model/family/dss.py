"""DSS: diagonal state spaces whose channels share their poles (arXiv 2203.14343).

Parametrisation and initialisers are those of the published code (ag1988/dss); its W is called C here. With N complex
states that come without partners, y = Re(C x) = 2 Re(C/2 x). As with S4D, a bidirectional kernel here starts looking
ahead at the current step. The published block mixes the channels by one dense layer; the blocks here have gates.

    exp      K[k] = Re sum_n C_n (e^z - 1) / Lambda_n e^{k z},    z = Lambda_n Delta
    softmax  K[k] = Re sum_n C_n / Lambda_n e^{k z} / sum_{j < L} e^{j z}
                  = Re sum_n C_n / (e^{L z} - 1) (e^z - 1) / Lambda_n e^{k z}

So softmax is exp with outputs divided by e^{L z} - 1. It depends on the number of taps L and is a system where L is
fixed (`length`) only. Its poles may be unstable: a kernel of L taps may grow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.errors import UserError
from s5c.model.channels import (
    PARAMETERS,
    check_steps,
    complex_normal,
    folded,
    initial_log_step,
    macs_per_step,
    output_names,
    parameters_of,
    pole_parameters,
    run,
    scaled,
    stable_poles,
    system_of,
    with_feedthrough,
    with_one_step,
)
from s5c.model.config import ModelConfig, one_of
from s5c.ssm.convolution import convolve, ssm_kernel
from s5c.ssm.hippo import hippo_normal
from s5c.ssm.modal import expm1
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Features, Float

__all__ = ["PARAMETERS", "Config", "Layer", "accommodating", "from_system", "macs_per_step", "to_system"]

EPSILON = 1e-7
"""Keeps 1 / (Lambda (e^{L z} - 1)) finite, as in the published code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """DSS hyperparameters; the fields are the keys of conf/model/dss.yaml.

    Attributes:
        state_size: complex states N of every channel, without partners.
        variant: exp | softmax.
        length: taps L that softmax normalises over; None: those of the input at hand, as published.
        shared_poles: all channels of a layer have the same Lambda. A reduction gives every channel its own.
        separate_steps: two step sizes per channel, for the real and the imaginary parts of Lambda.
        dt_min: lower end of the log-uniform initial step, s.
        dt_max: upper end, s.
        bidirectional: second, backward direction with the same poles and steps and its own C.
    """

    family: ClassVar[str] = "dss"
    per_channel: ClassVar[bool] = True

    state_size: int
    variant: str = "exp"
    length: int | None = None
    shared_poles: bool = True
    separate_steps: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("variant", self.variant, ("exp", "softmax"))
        check_steps(self.dt_min, self.dt_max)
        if self.state_size < 1:
            raise UserError(f"model.state_size={self.state_size}: it must be at least 1.")
        if self.length is not None and (self.variant == "exp" or self.length < 1):
            raise UserError(
                f"model.length={self.length}: the taps that variant=softmax normalises over, at least 1; variant=exp "
                "has none (model.length=null)."
            )
        if self.variant == "softmax" and self.length is None and self.mask_padding:
            raise UserError(
                "model.mask_padding=true: variant=softmax with model.length=null normalises over all steps of its "
                "input, padding included. Give model.length=<steps of the task>, or model.variant=exp."
            )
        if self.variant == "softmax" and self.backend not in ("auto", "fft"):
            raise UserError(f"model.backend={self.backend}: variant=softmax runs as a convolution only, auto or fft.")

    @property
    def full_state_dim(self) -> int:
        return self.state_size

    @property
    def sees_padding(self) -> bool:
        return super().sees_padding or (self.variant == "softmax" and self.length is None)

    def unshared(self) -> Config:
        return dataclasses.replace(self, shared_poles=False)


# ---- parameters and systems


def to_system(params: Mapping[str, Array], config: Config) -> DiagonalSSM:
    """Reads one layer's parameters as one continuous-time system per channel, in the precision of the arrays.

    Args:
        params: the layer's parameters, real, complex numbers as a trailing axis of 2.
        config: the model's configuration.

    Raises:
        UserError: variant=softmax without a fixed length is no system.
    """
    system = _unnormalised(params, config)
    if config.variant == "exp":
        return system
    return scaled(system, _normalisation(system, _taps(config)))


def _taps(config: Config) -> int:
    if config.length is None:
        raise UserError(
            "model.variant=softmax with model.length=null normalises over whatever length its input has: no system "
            "behaves so, and there is none to reduce. Train with model.length=<steps of the task>, or with "
            "model.variant=exp."
        )
    return config.length


def _unnormalised(params: Mapping[str, Array], config: Config) -> DiagonalSSM:
    """Returns the systems of the exp variant. With two steps per channel the first is Delta, and the second turns into
    a factor on Im(Lambda), different in every channel."""
    stored = (
        stable_poles(params) if config.variant == "exp" else jax.lax.complex(params["Lambda_re"], params["Lambda_im"])
    )
    steps = jnp.exp(params["log_step"])
    stored = jnp.broadcast_to(stored, (len(steps), stored.shape[-1]))
    half = jnp.full(stored.shape, 0.5, steps.dtype)
    if not config.separate_steps:
        return scaled(system_of(params, stored, steps, bidirectional=config.bidirectional), half)
    Lambda = jax.lax.complex(stored.real, stored.imag * (steps[:, 1:] / steps[:, :1]))
    system = system_of(params, Lambda, steps[:, 0], bidirectional=config.bidirectional)
    return scaled(system, half * Lambda / stored)


def _reciprocals(system: DiagonalSSM, taps: float) -> Complex[Array, "h p"]:
    """Returns 1 / (e^{L z} - 1), of growing modes 1 / (e^{-L z} - 1), which cannot overflow."""
    span = system.Lambda * system.Delta * taps
    x = system.Lambda * expm1(jnp.where(span.real > 0, -span, span))
    return system.Lambda * x.conj() / (jnp.abs(x) ** 2 + EPSILON)


def _normalisation(system: DiagonalSSM, taps: float) -> Complex[Array, "h p"]:
    """Returns 1 / (e^{L z} - 1) = -e^{-L z} / (e^{-L z} - 1)."""
    span = system.Lambda * system.Delta * taps
    growing = span.real > 0
    return _reciprocals(system, taps) * jnp.where(growing, -jnp.exp(-jnp.where(growing, span, 0)), 1)


def from_system(system: DiagonalSSM, config: Config) -> dict[str, Array]:
    """Writes systems back as float32 layer parameters; the inverse of `to_system` up to rounding.

    Raises:
        UserError: a pole is not stable (variant=exp).
    """
    system = folded(with_one_step(system))
    if config.variant == "softmax":
        # By the poles that will be read back: what rounding does to z it does L times over to e^{L z}.
        system = scaled(system, 1 / _normalisation(_rounded(system), _taps(config)))
    system = scaled(system, jnp.full(system.Lambda.shape, 2.0))
    Lambda = system.Lambda[0] if config.shared_poles else system.Lambda
    softmax = config.variant == "softmax"
    poles = {"Lambda_re": Lambda.real, "Lambda_im": Lambda.imag} if softmax else pole_parameters(Lambda)
    params = {**poles, **parameters_of(system)}
    if config.separate_steps:
        params["log_step"] = jnp.stack([params["log_step"]] * 2, axis=1)
    return {name: value.astype(jnp.float32) for name, value in params.items()}


def _rounded(system: DiagonalSSM) -> DiagonalSSM:
    """Returns the systems with poles and steps as single precision holds them."""

    def single(x: Array) -> Array:
        return x.astype(jnp.float32).astype(x.dtype)

    Lambda = jax.lax.complex(single(system.Lambda.real), single(system.Lambda.imag))
    return dataclasses.replace(system, Lambda=Lambda, Delta=jnp.exp(single(jnp.log(system.Delta))))


def accommodating(config: Config, systems: Sequence[DiagonalSSM]) -> Config:
    """Returns the configuration whose parameters can hold these systems: poles differ between channels, or do not."""
    poles = [with_one_step(system).Lambda for system in systems]
    return config if all(bool((Lambda == Lambda[:1]).all()) for Lambda in poles) else config.unshared()


# ---- the layer


class Layer(nn.Module):
    """The DSS sequence layer: every channel runs y = Re(C x) + D u with x_k = e^z x_{k-1} + (e^z - 1) / Lambda u_k.

    Lambda starts as Skew-HiPPO: the half with positive imaginary part of the eigenvalues of HiPPO's skew part, of order
    twice the number of states, minus 1/2. `state_dim` alone decides: a small layer starts as a small model does.
    """

    config: Config
    state_dim: int

    @nn.compact
    def __call__(self, u: Features, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h); `step_rescale` multiplies Delta (2 runs the layer at half the sample rate)."""
        config, shape = self.config, (self.config.d_model, self.state_dim)
        poles = shape[1:] if config.shared_poles else shape
        imaginary = jnp.broadcast_to(jnp.asarray(-hippo_normal(2 * self.state_dim).Lambda.imag, jnp.float32), poles)
        real, start = ("Lambda_log_neg_re", math.log(0.5)) if config.variant == "exp" else ("Lambda_re", -0.5)
        params = {
            real: self.param(real, lambda _: jnp.full(poles, start)),
            "Lambda_im": self.param("Lambda_im", lambda _: imaginary),
            **{n: self.param(n, complex_normal(1.0), shape) for n in output_names(config.bidirectional)},
            "D": self.param("D", nn.initializers.normal(stddev=1.0), shape[:1]),
            "log_step": self.param("log_step", _log_step, config, shape[0]),
        }
        if self.has_variable("params", "bias"):  # never drawn; a calibrated refit adds it
            params["bias"] = self.get_variable("params", "bias")
        system = _unnormalised(params, config)
        faster = dataclasses.replace(system, Delta=step_rescale * system.Delta)
        if config.variant == "exp":
            return run(faster, u, config.backend)
        taps = config.length / step_rescale if config.length else u.shape[1]
        return _run_softmax(faster, u, taps)


def _log_step(key: Array, config: Config, channels: int) -> Float[Array, "h ..."]:
    log_step = initial_log_step(config.dt_min, config.dt_max)(key, (channels,))
    return jnp.stack([log_step] * 2, axis=1) if config.separate_steps else log_step


def _run_softmax(system: DiagonalSSM, u: Features, taps: float) -> Features:
    """Applies the normalised systems. Growing modes are summed from the last tap backwards: no power exceeds 1.

    e^{k z} / (e^{L z} - 1) = -e^{(l-1-L) z} e^{-(l-1-k) z} / (e^{-L z} - 1),    l steps of input
    """
    length, z = u.shape[1], system.Lambda * system.Delta
    growing = z.real > 0
    away = jnp.where(growing, -1, 1) * z
    gain = system.discretise()[1][..., 0] * _reciprocals(system, taps)
    last = jnp.where(growing, -jnp.exp((taps - length + 1) * jnp.where(growing, away, 0)), 0)
    kernels = []
    for C in (system.C, system.C_backward):
        if C is not None:
            W = C[:, 0] * gain
            decaying = ssm_kernel(jnp.exp(away), jnp.where(growing, 0, W), length)
            kernels.append(decaying + ssm_kernel(jnp.exp(away), W * last, length)[:, ::-1])
    return with_feedthrough(system, u, convolve(u, *kernels).astype(u.dtype))
