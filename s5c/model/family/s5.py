"""S5: one multi-input multi-output diagonal system per layer (arXiv 2208.04933).

Parameter names, shapes and initialisers are those of the published code, so its checkpoints are interchangeable with
ours. One layout differs: the output matrices of a bidirectional `complex_normal` layer are two parameters C1, C2, not
one concatenated C (`s5c.model.published` splits it).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.model.config import ModelConfig, one_of
from s5c.model.parameters import from_pairs, to_pairs
from s5c.model.roles import Parameter
from s5c.ssm.discretise import METHODS, one_program
from s5c.ssm.hippo import block_diagonal_hippo
from s5c.ssm.operator import diagonal_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Features, Float

C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    """S5 hyperparameters; the fields are the keys of conf/model/s5.yaml.

    Attributes:
        state_size: real states P of a layer; P/2 complex ones are stored.
        blocks: HiPPO blocks J; 2J divides P.
        C_init: trunc_standard_normal | lecun_normal | complex_normal.
        discretisation: zoh | bilinear.
        dt_min: lower end of the log-uniform initial step, s.
        dt_max: upper end, s.
        clip_eigs: clip Re(Lambda) to at most -1e-4 where it is used. Otherwise nothing keeps a mode stable.
        bidirectional: second, backward direction with the same Lambda and B and its own C.
    """

    family: ClassVar[str] = "s5"

    state_size: int
    blocks: int
    C_init: str = "trunc_standard_normal"
    discretisation: str = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    clip_eigs: bool = False
    bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("C_init", self.C_init, C_INITS)
        one_of("discretisation", self.discretisation, tuple(METHODS))
        if self.blocks < 1:
            raise UserError(f"model.blocks={self.blocks}: the state matrix starts as at least one HiPPO block.")
        if self.state_size < 2 or self.state_size % (2 * self.blocks):
            raise UserError(
                f"model.state_size={self.state_size} is not divisible by 2 * model.blocks={2 * self.blocks}: every "
                f"HiPPO block keeps one of each conjugate pair. Choose a multiple of {2 * self.blocks}."
            )
        if not 0 < self.dt_min < self.dt_max:
            raise UserError(
                f"model.dt_min={self.dt_min}, model.dt_max={self.dt_max}: 0 < dt_min < dt_max is needed, for instance "
                "dt_min=0.001 dt_max=0.1."
            )

    @property
    def full_state_dim(self) -> int:
        return self.state_size // 2


@partial(one_program, static_argnames="config")
def to_system(params: Mapping[str, Array], config: Config) -> DiagonalSSM:
    """Reads one layer's parameters as a continuous-time system, in the precision of the arrays.

    Args:
        params: the layer's parameters, real, complex numbers as a trailing axis of 2.
        config: the model's configuration.
    """
    system = DiagonalSSM(
        Lambda=jax.lax.complex(params["Lambda_re"], params["Lambda_im"]),
        B=from_pairs(params["B"]),
        C=from_pairs(params["C1" if config.bidirectional else "C"]),
        D=params["D"],
        Delta=jnp.exp(params["log_step"][:, 0]),
        C_backward=from_pairs(params["C2"]) if config.bidirectional else None,
        discretisation=config.discretisation,
        bias=params.get("bias"),
    )
    return system.clipped() if config.clip_eigs else system


@partial(one_program, static_argnames="config")
def from_system(system: DiagonalSSM, config: Config) -> dict[str, Array]:
    """Writes a system back as float32 layer parameters; the inverse of `to_system` up to rounding."""
    params = {
        "Lambda_re": system.Lambda.real,
        "Lambda_im": system.Lambda.imag,
        "B": to_pairs(system.B),
        "D": system.D,
        "log_step": jnp.log(system.Delta)[:, None],
    }
    if system.C_backward is None:
        params["C"] = to_pairs(system.C)
    else:
        params |= {"C1": to_pairs(system.C), "C2": to_pairs(system.C_backward)}
    if system.bias is not None:
        params["bias"] = system.bias
    return {name: value.astype(jnp.float32) for name, value in params.items()}


def accommodating(config: Config, systems: Sequence[DiagonalSSM]) -> Config:
    """Returns the configuration whose parameters can hold these systems: the same, S5's hold any."""
    return config


PARAMETERS = {
    **dict.fromkeys(("Lambda_re", "Lambda_im"), Parameter("pole", 0)),
    "B": Parameter("input", 0),
    **dict.fromkeys(("C", "C1", "C2"), Parameter("output", 1)),
    "log_step": Parameter("step", 0),
    "D": Parameter("feedthrough"),
    "bias": Parameter("constant"),
}


class Layer(nn.Module):
    """The S5 sequence layer: y = 2 Re(C x) + D u with x_k = Lambda_bar x_{k-1} + B_bar u_k.

    `state_dim` alone decides the shapes, so a reduced network is the same module with smaller numbers. Padding is not
    masked here, as in the published code: it reaches valid steps through the backward direction (see `Block`).
    """

    config: Config
    state_dim: int

    @nn.compact
    def __call__(self, u: Features, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h); `step_rescale` multiplies Delta (2 runs the layer at half the sample rate)."""
        config, p, h = self.config, self.state_dim, self.config.d_model
        basis = block_diagonal_hippo(config.state_size, config.blocks)
        outputs = ("C1", "C2") if config.bidirectional else ("C",)
        params = {
            "Lambda_re": self.param("Lambda_re", lambda _: jnp.asarray(basis.Lambda.real[:p], jnp.float32)),
            "Lambda_im": self.param("Lambda_im", lambda _: jnp.asarray(basis.Lambda.imag[:p], jnp.float32)),
            "B": self.param("B", _input_matrix, basis.V[:, :p], h),
            **{name: self.param(name, _C_INIT[config.C_init], basis.V[:, :p], h) for name in outputs},
            "D": self.param("D", nn.initializers.normal(stddev=1.0), (h,)),
            "log_step": self.param("log_step", _log_step, p, config.dt_min, config.dt_max),
        }
        if self.has_variable("params", "bias"):  # never drawn; a calibrated refit adds it
            params["bias"] = self.get_variable("params", "bias")
        system = to_system(params, config)
        system = dataclasses.replace(system, Delta=step_rescale * system.Delta)
        matrices = (*system.discretise(), system.C, system.C_backward)
        y = diagonal_ssm(u, *matrices, backend=config.backend, precision=config.precision)
        y = y + system.D * u
        return y if system.bias is None else y + system.bias


# ---- initialisers


def _input_matrix(key: Array, V: np.ndarray, features: int) -> Float[Array, "p h 2"]:
    """Real B (n, h), LeCun normal with fan-in n, taken into the eigenbasis: V^H B."""
    B = nn.initializers.lecun_normal()(key, (V.shape[0], features))
    return to_pairs(jnp.asarray(V.conj().T, jnp.complex64) @ B)


def _into_eigenbasis(C: Float[Array, "h n 2"], V: np.ndarray) -> Float[Array, "h p 2"]:
    return to_pairs(from_pairs(C) @ jnp.asarray(V, jnp.complex64))


def _trunc_standard_normal(key: Array, V: np.ndarray, features: int) -> Float[Array, "h p 2"]:
    """Row by row, so the fan-in is n (std 1/sqrt(n)); the name is the published code's."""

    def row(row_key: Array) -> Array:
        return nn.initializers.lecun_normal()(row_key, (1, V.shape[0], 2))[0]

    return _into_eigenbasis(jax.vmap(row)(jax.random.split(key, features)), V)


def _lecun_normal(key: Array, V: np.ndarray, features: int) -> Float[Array, "h p 2"]:
    """In one draw, so the features count as receptive field: std 1/sqrt(h n), sqrt(h) times smaller."""
    return _into_eigenbasis(nn.initializers.lecun_normal()(key, (features, V.shape[0], 2)), V)


def _complex_normal(key: Array, V: np.ndarray, features: int) -> Float[Array, "h p 2"]:
    """Standard complex normal, drawn in the eigenbasis."""
    return nn.initializers.normal(stddev=math.sqrt(0.5))(key, (features, V.shape[1], 2))


_C_INIT: dict[str, Callable[..., Any]] = dict(
    zip(C_INITS, (_trunc_standard_normal, _lecun_normal, _complex_normal), strict=True)
)


def _log_step(key: Array, p: int, dt_min: float, dt_max: float) -> Float[Array, "p 1"]:
    return jax.random.uniform(key, (p, 1), minval=math.log(dt_min), maxval=math.log(dt_max))


# ---- size


def macs_per_step(config: Config, state_dim: int) -> int:
    """Returns the multiply-accumulates of one layer per time step, real ones.

    2hp for B u (shared by both directions), 4p for the complex recurrence and 2hp for C x per direction, h for D u.
    """
    h, p, directions = config.d_model, state_dim, 2 if config.bidirectional else 1
    return 2 * h * p + directions * (4 * p + 2 * h * p) + h
