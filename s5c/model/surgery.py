"""The crossing between parameters and systems: the only module that takes a network apart and puts it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model.config import ModelConfig, load_family
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Params


def layer_names(config: ModelConfig) -> list[str]:
    """Returns the keys of the blocks under `params["encoder"]`, from input to output."""
    return [f"layers_{i}" for i in range(config.n_layers)]


def state_dims(params: Params, config: ModelConfig) -> tuple[int, ...]:
    """Reads the number of stored states of every layer off the parameters."""
    return tuple(params["encoder"][name]["seq"]["log_step"].shape[0] for name in layer_names(config))


def systems(params: Params, config: ModelConfig) -> list[DiagonalSSM]:
    """Returns the system behind every layer, in double precision.

    Args:
        params: the network's parameters, float32.
        config: the model's configuration.

    Returns:
        One float64/complex128 `DiagonalSSM` per layer. To calculate with them stay inside `jax.enable_x64(True)`:
        outside, JAX rounds the results to single precision.
    """
    to_system = load_family(config.family).to_system
    with jax.enable_x64(True):
        double = [
            {name: jnp.asarray(np.asarray(value), jnp.float64) for name, value in layer.items()}
            for layer in (params["encoder"][name]["seq"] for name in layer_names(config))
        ]
        return [to_system(layer, config) for layer in double]


def with_systems(params: Params, new: Sequence[DiagonalSSM], config: ModelConfig) -> dict[str, Any]:
    """Returns the parameters with every layer's system replaced; everything else is kept."""
    from_system = load_family(config.family).from_system
    with jax.enable_x64(True):
        layers = [from_system(system, config) for system in new]
    return _replace(params, config, lambda i, _: layers[i])


def take(params: Params, keep: Sequence[Bool[np.ndarray, "_p"]], config: ModelConfig) -> dict[str, Any]:
    """Removes states by gathering rows and columns: no arithmetic, so what is kept is kept bit for bit.

    Args:
        params: the network's parameters.
        keep: per layer, which stored states stay.
        config: the model's configuration.
    """
    axes = load_family(config.family).STATE_AXIS

    def gather(i: int, layer: Params) -> dict[str, Array]:
        rows = np.flatnonzero(keep[i])
        return {
            n: jnp.asarray(np.take(np.asarray(v), rows, axis=axes[n])) if n in axes else v for n, v in layer.items()
        }

    return _replace(params, config, gather)


def mask(params: Params, keep: Sequence[Bool[np.ndarray, "_p"]], config: ModelConfig) -> dict[str, Any]:
    """Silences states without removing them: the rows of B are set to zero, nothing gets smaller."""

    def silence(i: int, layer: Params) -> dict[str, Array]:
        return {**layer, "B": layer["B"] * jnp.asarray(keep[i], jnp.float32)[:, None, None]}

    return _replace(params, config, silence)


def _replace(params: Params, config: ModelConfig, change: Callable[[int, Params], Params]) -> dict[str, Any]:
    encoder = dict(params["encoder"])
    for i, name in enumerate(layer_names(config)):
        encoder[name] = {**encoder[name], "seq": change(i, encoder[name]["seq"])}
    return {**params, "encoder": encoder}
