"""LRU: one diagonal system in discrete time with poles in polar form (arXiv 2303.06349).

    a = exp(-exp(nu_log) + i exp(theta_log)),    x_k = a x_{k-1} + exp(gamma_log) B u_k,    y_k = 2 Re(C x_k) + D u_k

As continuous-time system it has Lambda = log a and Delta = 1, so that a = exp(Lambda Delta); the inputs are such that
their zero-order hold is exp(gamma_log) B.
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
from s5c.model.config import ModelConfig
from s5c.model.parameters import from_pairs, to_pairs
from s5c.model.roles import Parameter
from s5c.ssm.modal import expm1
from s5c.ssm.operator import diagonal_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Features, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """LRU hyperparameters; the fields are the keys of its yaml.

    Attributes:
        state_size: complex states.
        r_min: least modulus of an initial pole.
        r_max: largest.
        max_phase: largest initial angle.
        bidirectional: second, backward direction with the same poles and inputs and its own C.
    """

    family: ClassVar[str] = "lru"

    state_size: int
    r_min: float = 0.9
    r_max: float = 0.999
    max_phase: float = 6.28
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state_size < 1:
            raise UserError(f"model.state_size={self.state_size}: it must be at least 1.")
        if not 0 <= self.r_min < self.r_max < 1:
            raise UserError(f"model.r_min={self.r_min}, model.r_max={self.r_max}: 0 <= r_min < r_max < 1 is needed.")
        if not 0 < self.max_phase < math.inf:
            raise UserError(f"model.max_phase={self.max_phase}: give an angle above 0.")

    @property
    def full_state_dim(self) -> int:
        return self.state_size


PARAMETERS = {
    **dict.fromkeys(("nu_log", "theta_log"), Parameter("pole", 0)),
    "B": Parameter("input", 0),
    **dict.fromkeys(("C", "C1", "C2"), Parameter("output", 1)),
    "gamma_log": Parameter("step", 0),
    "D": Parameter("feedthrough"),
    "bias": Parameter("constant"),
}


def to_system(params: Mapping[str, Array], config: Config) -> DiagonalSSM:
    """Reads one layer's parameters as a continuous-time system of step 1."""
    Lambda = jax.lax.complex(-jnp.exp(params["nu_log"]), jnp.exp(params["theta_log"]))
    B = jnp.exp(params["gamma_log"])[:, None] * from_pairs(params["B"])
    return DiagonalSSM(
        Lambda=Lambda,
        B=B / _held(Lambda)[:, None],
        C=from_pairs(params["C1" if config.bidirectional else "C"]),
        D=params["D"],
        Delta=jnp.ones_like(params["nu_log"]),
        C_backward=from_pairs(params["C2"]) if config.bidirectional else None,
        bias=params.get("bias"),
    )


def _held(Lambda: Complex[Array, "p"]) -> Complex[Array, "p"]:
    """Returns (exp(Lambda) - 1) / Lambda, what a hold over one step makes of an input."""
    return expm1(Lambda) / Lambda


def from_system(system: DiagonalSSM, config: Config) -> dict[str, Array]:
    """Writes a system back as float32 layer parameters, gamma being 1 / sqrt(1 - |a|^2) times what B has more.

    Raises:
        UserError: a pole is not stable; an LRU has none such.
    """
    z = system.Lambda * system.Delta
    if not bool(jnp.all(z.real < 0)):
        raise UserError("A pole with |a| >= 1 is no LRU's. Take reduction.unstable=clip, or another family.")
    angle = jnp.mod(z.imag, 2 * jnp.pi)  # of a pole in discrete time only the angle counts
    gain = jnp.sqrt(-jnp.expm1(2 * z.real))
    params = {
        "nu_log": jnp.log(-z.real),
        "theta_log": jnp.log(jnp.maximum(angle, jnp.finfo(jnp.float32).tiny)),
        "gamma_log": jnp.log(gain),
        "B": to_pairs(system.discretise()[1] / gain[:, None]),
        "D": system.D,
    }
    if system.C_backward is None:
        params["C"] = to_pairs(system.C)
    else:
        params |= {"C1": to_pairs(system.C), "C2": to_pairs(system.C_backward)}
    if system.bias is not None:
        params["bias"] = system.bias
    return {name: value.astype(jnp.float32) for name, value in params.items()}


def accommodating(config: Config, systems: Sequence[DiagonalSSM]) -> Config:
    """Returns the configuration whose parameters can hold these systems: the same."""
    return config


class Layer(nn.Module):
    """The LRU sequence layer; poles start uniformly on the ring from r_min to r_max, inputs with gain sqrt(1 - |a|^2).

    A small layer starts with as many poles as it has, on the same ring.
    """

    config: Config
    state_dim: int

    @nn.compact
    def __call__(self, u: Features, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h); `step_rescale` multiplies the step (2: half the sample rate)."""
        config, p, h = self.config, self.state_dim, self.config.d_model
        nu_log = self.param("nu_log", _nu_log, p, config)
        outputs = ("C1", "C2") if config.bidirectional else ("C",)
        params = {
            "nu_log": nu_log,
            "theta_log": self.param("theta_log", _theta_log, p, config),
            "gamma_log": self.param("gamma_log", lambda _: 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu_log)))),
            "B": self.param("B", nn.initializers.normal(math.sqrt(0.5 / h)), (p, h, 2)),
            **{name: self.param(name, nn.initializers.normal(math.sqrt(0.5 / p)), (h, p, 2)) for name in outputs},
            "D": self.param("D", nn.initializers.normal(stddev=1.0), (h,)),
        }
        if self.has_variable("params", "bias"):  # never drawn; a calibrated refit adds it
            params["bias"] = self.get_variable("params", "bias")
        system = to_system(params, config)
        system = dataclasses.replace(system, Delta=step_rescale * system.Delta)
        matrices = (*system.discretise(), system.C, system.C_backward)
        y = diagonal_ssm(u, *matrices, backend=config.backend, precision=config.precision) + system.D * u
        return y if system.bias is None else y + system.bias


def _nu_log(key: Array, p: int, config: Config) -> Float[Array, "p"]:
    squares = jax.random.uniform(key, (p,), minval=config.r_min**2, maxval=config.r_max**2)
    return jnp.log(-0.5 * jnp.log(jnp.maximum(squares, 1e-6)))


def _theta_log(key: Array, p: int, config: Config) -> Float[Array, "p"]:
    return jnp.log(config.max_phase * jax.random.uniform(key, (p,), minval=1e-3))


def macs_per_step(config: Config, state_dim: int) -> int:
    """Returns the real multiply-accumulates of one layer per time step, as for S5."""
    h, p, directions = config.d_model, state_dim, 2 if config.bidirectional else 1
    return 2 * h * p + directions * (4 * p + 2 * h * p) + h
