"""`damped`: S4D with poles that decay at rates of all sizes, instead of alike."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from s5c.errors import bounded
from s5c.model.channels import PARAMETERS, complex_normal, initial_log_step, macs_per_step, output_names, run
from s5c.model.family import s4d
from s5c.model.family.s4d import accommodating, from_system, to_system
from s5c.types import Features

__all__ = ["PARAMETERS", "Config", "Layer", "accommodating", "from_system", "macs_per_step", "to_system"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(s4d.Config):
    """S4D's keys, and one more.

    Attributes:
        fastest: largest decay rate of an initial pole; the smallest is 1/2, those between are spaced evenly in log.
    """

    family: ClassVar[str] = "damped"
    fastest: float = bounded(8.0, above=0.5)


class Layer(nn.Module):
    """S4D's layer with other initial poles."""

    config: Config
    state_dim: int

    @nn.compact
    def __call__(self, u: Features, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h)."""
        config, shape = self.config, (self.config.d_model, self.state_dim)
        rates = jnp.linspace(math.log(0.5), math.log(config.fastest), self.state_dim)
        params = {
            "Lambda_log_neg_re": self.param("Lambda_log_neg_re", lambda _: jnp.broadcast_to(rates, shape)),
            "Lambda_im": self.param(
                "Lambda_im", lambda _: math.pi * jnp.broadcast_to(jnp.arange(1.0 * shape[1]), shape)
            ),
            **{n: self.param(n, complex_normal(0.7), shape) for n in output_names(config.bidirectional)},
            "D": self.param("D", nn.initializers.normal(stddev=1.0), shape[:1]),
            "log_step": self.param("log_step", initial_log_step(config.dt_min, config.dt_max), shape[:1]),
        }
        if self.has_variable("params", "bias"):
            params["bias"] = self.get_variable("params", "bias")
        system = to_system(params, config)
        return run(dataclasses.replace(system, Delta=step_rescale * system.Delta), u, config.backend)
