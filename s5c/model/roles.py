"""What the parameters of a sequence layer are: a family declares it once, and optimiser and surgery go by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from s5c.model.config import ModelConfig, load_family

ROLES = ("pole", "input", "output", "step", "feedthrough", "constant")


class Parameter(NamedTuple):
    """One parameter of a sequence layer.

    Attributes:
        role: pole | input | output | step | feedthrough | constant.
        axis: the axis along which it counts states; None if it has none.
    """

    role: str
    axis: int | None = None


def parameters_of(config: ModelConfig) -> Mapping[str, Parameter]:
    """Returns the parameters that a model's family declares, by name."""
    declared: Mapping[str, Parameter] = load_family(config.family).PARAMETERS
    return declared


def state_axes(config: ModelConfig) -> dict[str, int]:
    """Returns the axis along which each parameter counts states, of those that have one."""
    return {name: one.axis for name, one in parameters_of(config).items() if one.axis is not None}


def outputs_of(config: ModelConfig) -> tuple[str, ...]:
    """Returns the names of the output matrices."""
    return tuple(name for name, one in parameters_of(config).items() if one.role == "output")
