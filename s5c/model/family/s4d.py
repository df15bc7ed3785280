"""S4D: one diagonal single-input, single-output system per channel (arXiv 2206.11893).

Parametrisation and initialisers are those of the published code (state-spaces/s4). Two things differ. Its block mixes
the channels by one dense layer of 2h outputs and a gated linear unit; `activation: full_glu` is the same map as two
dense layers. Its bidirectional kernel starts looking ahead at the next step, ours at the current one, as S5's does:
both directions see u_k, which a change of D undoes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

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
    stable_poles,
    system_of,
    with_one_step,
)
from s5c.model.config import ModelConfig, one_of
from s5c.model.parameters import to_pairs
from s5c.ssm.discretise import METHODS
from s5c.ssm.hippo import hippo_normal
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Features

__all__ = ["PARAMETERS", "Config", "Layer", "accommodating", "from_system", "macs_per_step", "to_system"]

INITS: dict[str, Callable[[int], np.ndarray]] = {
    "lin": lambda n: math.pi * np.arange(n // 2),
    "inv": lambda n: n / math.pi * (n / (2 * np.arange(n // 2) + 1) - 1),
    "legs": lambda n: -hippo_normal(n).Lambda.imag,
}
"""Imaginary parts of the initial poles of a system of n real states; the real parts are -1/2."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """S4D hyperparameters; the fields are the keys of conf/model/s4d.yaml.

    Attributes:
        state_size: real states N of every channel; N/2 complex ones are stored.
        init: lin (S4D-Lin) | inv (S4D-Inv) | legs (S4D-LegS): initial poles.
        B: folded (into C) | free: a parameter of its own.
        discretisation: zoh | bilinear.
        dt_min: lower end of the log-uniform initial step, s.
        dt_max: upper end, s.
        bidirectional: second, backward direction with the same poles, steps and B and its own C.
    """

    family: ClassVar[str] = "s4d"
    per_channel: ClassVar[bool] = True

    state_size: int
    init: str = "legs"
    B: str = "folded"
    discretisation: str = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("init", self.init, tuple(INITS))
        one_of("B", self.B, ("folded", "free"))
        one_of("discretisation", self.discretisation, tuple(METHODS))
        check_steps(self.dt_min, self.dt_max)
        if self.state_size < 2 or self.state_size % 2:
            raise UserError(
                f"model.state_size={self.state_size}: one of each conjugate pair is stored. Choose an even number >= 2."
            )

    @property
    def full_state_dim(self) -> int:
        return self.state_size // 2


def to_system(params: Mapping[str, Array], config: Config) -> DiagonalSSM:
    """Reads one layer's parameters as one continuous-time system per channel, in the precision of the arrays.

    Args:
        params: the layer's parameters, real, complex numbers as a trailing axis of 2.
        config: the model's configuration.
    """
    return system_of(
        params,
        stable_poles(params),
        jnp.exp(params["log_step"]),
        bidirectional=config.bidirectional,
        discretisation=config.discretisation,
    )


def from_system(system: DiagonalSSM, config: Config) -> dict[str, Array]:
    """Writes systems back as float32 layer parameters; the inverse of `to_system` up to rounding.

    Raises:
        UserError: a pole is not stable.
    """
    system = with_one_step(system)
    B = {"B": to_pairs(system.B[..., 0])} if config.B == "free" else {}
    system = system if B else folded(system)
    params = {**pole_parameters(system.Lambda), **parameters_of(system), **B}
    return {name: value.astype(jnp.float32) for name, value in params.items()}


def accommodating(config: Config, systems: Sequence[DiagonalSSM]) -> Config:
    """Returns the configuration whose parameters can hold these systems: the same, S4D's hold any stable ones."""
    return config


class Layer(nn.Module):
    """The S4D sequence layer: every channel runs y = 2 Re(C x) + D u with x_k = Lambda_bar x_{k-1} + B_bar u_k.

    `state_dim` alone decides shapes and initial poles: a small layer starts as a small model does.
    """

    config: Config
    state_dim: int

    @nn.compact
    def __call__(self, u: Features, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h); `step_rescale` multiplies Delta (2 runs the layer at half the sample rate)."""
        config, shape = self.config, (self.config.d_model, self.state_dim)
        imaginary = jnp.asarray(INITS[config.init](2 * self.state_dim), jnp.float32)
        params = {
            "Lambda_log_neg_re": self.param("Lambda_log_neg_re", lambda _: jnp.full(shape, math.log(0.5))),
            "Lambda_im": self.param("Lambda_im", lambda _: jnp.broadcast_to(imaginary, shape)),
            **{n: self.param(n, complex_normal(math.sqrt(0.5)), shape) for n in output_names(config.bidirectional)},
            "D": self.param("D", nn.initializers.normal(stddev=1.0), shape[:1]),
            "log_step": self.param("log_step", initial_log_step(config.dt_min, config.dt_max), shape[:1]),
        }
        if config.B == "free":
            params["B"] = self.param("B", lambda _: to_pairs(jnp.ones(shape, jnp.complex64)))
        if self.has_variable("params", "bias"):  # never drawn; a calibrated refit adds it
            params["bias"] = self.get_variable("params", "bias")
        system = to_system(params, config)
        return run(dataclasses.replace(system, Delta=step_rescale * system.Delta), u, config.backend)
