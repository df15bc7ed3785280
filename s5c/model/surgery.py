"""The crossing between parameters and systems: states are taken out of a network, systems put into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import norm
from s5c.model.config import ModelConfig, load_family
from s5c.model.network import blocks, sequence_layers, with_sequence_layers
from s5c.model.roles import outputs_of, state_axes
from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer
from s5c.reduction.parameters import Parameters
from s5c.reduction.unstable import count
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Params


def state_dims(params: Params, config: ModelConfig) -> tuple[int, ...]:
    """Reads the number of stored states of every layer (of each of its channels) off the parameters."""
    (name, axis), *_ = state_axes(config).items()
    return tuple(layer[name].shape[axis] for layer in sequence_layers(params, config))


def systems(params: Params, config: ModelConfig) -> list[DiagonalSSM]:
    """Returns the system behind every layer, in double precision.

    Args:
        params: the network's parameters, float32.
        config: the model's configuration.

    Returns:
        One float64/complex128 `DiagonalSSM` per layer, with a leading axis of channels where every channel has a system
        of its own. To calculate with them stay inside `jax.enable_x64(True)`: outside, JAX rounds the results to
        single precision.
    """
    to_system = load_family(config.family).to_system
    with jax.enable_x64(True):
        return [to_system(_double(layer), config) for layer in sequence_layers(params, config)]


def layers(weights: Params, config: ModelConfig, *, horizon: int | None = None) -> list[Layer]:
    """Returns all that a reduction may know of every layer without data.

    Args:
        weights: `{"params": ..., "batch_stats": ...}`.
        config: the model's configuration.
        horizon: steps of the sequences.
    """
    with jax.enable_x64(True):
        return [
            Layer(system, horizon, _gate(_double(block["params"]), _double(block["batch_stats"]), config))
            for system, block in zip(systems(weights["params"], config), blocks(weights, config), strict=True)
        ]


def unstable_modes(params: Params, config: ModelConfig) -> list[int]:
    """Returns the number of unstable modes (|Lambda_bar| >= 1) of every layer, all channels together.

    Args:
        params: the network's parameters.
        config: the model's configuration.
    """
    return [count(system) for system in systems(params, config)]


def _double(tree: Params) -> Any:
    return jax.tree.map(lambda value: jnp.asarray(np.asarray(value), jnp.float64), dict(tree))


def _gate(block: Params, stats: Params, config: ModelConfig) -> Gate:
    scale = shift = gain = offset = None
    if config.prenorm:
        gain, offset = block["norm"]["scale"], block["norm"]["bias"]
        if config.norm == "batch":
            scale = gain / jnp.sqrt(stats["norm"]["var"] + norm.EPSILON)
            shift = offset - stats["norm"]["mean"] * scale
    dense: dict[str, Any] = {}
    for i in (1, 2):
        if f"out{i}" in block:
            dense |= {f"W{i}": block[f"out{i}"]["kernel"].T, f"b{i}": block[f"out{i}"].get("bias")}
    return Gate(config.activation, scale, shift, gain, offset, **dense)


def with_systems(params: Params, new: Sequence[DiagonalSSM], config: ModelConfig) -> tuple[dict[str, Any], ModelConfig]:
    """Returns the parameters with every layer's system replaced; everything else is kept.

    Args:
        params: the network's parameters.
        new: one system per layer, of any number of states.
        config: the model's configuration.

    Returns:
        The new parameters, and the configuration they need: a system with an output bias, or with poles of its own in
        every channel, asks for more than the family's default parameters.
    """
    family = load_family(config.family)
    with jax.enable_x64(True):
        config = family.accommodating(config, new)
        written = [family.from_system(system, config) for system in new]
    return with_sequence_layers(params, config, lambda i, _: written[i]), config


def take(
    params: Params, keep: Sequence[Bool[np.ndarray, "..."]], config: ModelConfig
) -> tuple[dict[str, Any], ModelConfig]:
    """Removes states by gathering rows and columns: no arithmetic, so what is kept is kept bit for bit.

    Args:
        params: the network's parameters.
        keep: per layer, which stored states stay: shape (p,), or (channels, p). Channels that keep fewer than the
            largest are filled up with silent states (C = 0), so that the arrays stay rectangular.
        config: the model's configuration.

    Returns:
        The new parameters, and the configuration they need: where channels shared their poles and now keep different
        ones, each has its own.
    """
    axes, shared = state_axes(config), config.unshared() != config
    if shared and any((mask != mask[:1]).any() for mask in keep):
        config, shared = config.unshared(), False

    def gather(i: int, layer: Params) -> dict[str, Array]:
        if keep[i].ndim == 2 and not shared:
            return _gather_channels(layer, keep[i], axes, outputs_of(config))
        rows = np.flatnonzero(keep[i][0] if shared else keep[i])
        return {
            n: jnp.asarray(np.take(np.asarray(v), rows, axis=axes[n])) if n in axes else v for n, v in layer.items()
        }

    return with_sequence_layers(params, config, gather), config


def _gather_channels(
    layer: Params, keep: Bool[np.ndarray, "channels p"], axes: Mapping[str, int], outputs: Sequence[str]
) -> dict[str, Array]:
    width = max(int(keep.sum(1).max()), 1)
    rows = np.argsort(~keep, axis=1, kind="stable")[:, :width]
    silent = ~np.take_along_axis(keep, rows, axis=1)
    gathered = dict(layer)
    for name in axes.keys() & layer.keys():
        value = np.asarray(layer[name])
        if value.ndim == 1:  # shared by the channels so far
            value = np.broadcast_to(value, keep.shape)
        index = rows.reshape(*rows.shape, *(1,) * (value.ndim - 2))
        taken = np.take_along_axis(value, index, axis=1)
        gathered[name] = jnp.asarray(np.where(silent.reshape(index.shape), 0, taken) if name in outputs else taken)
    return gathered


def mask(params: Params, keep: Sequence[Bool[np.ndarray, "..."]], config: ModelConfig) -> dict[str, Any]:
    """Silences states without removing them: their outputs C are set to zero, nothing gets smaller."""

    outputs = outputs_of(config)

    def silence(i: int, layer: Params) -> dict[str, Array]:
        kept = jnp.asarray(keep[i], jnp.float32)[..., None]
        return {name: value * kept if name in outputs else value for name, value in layer.items()}

    return with_sequence_layers(params, config, silence)


def silent(params: Params, config: ModelConfig) -> Params:
    """Marks the outputs of silent slots, those that only fill a channel up: a training must leave them at zero.

    Args:
        params: the network's parameters.
        config: the model's configuration.

    Returns:
        A tree like `params` of booleans, each broadcastable to its parameter.
    """
    axes, outputs = state_axes(config), outputs_of(config)

    def mark(layer: Params) -> Params:
        marks: dict[str, Array] = {}
        for name, value in layer.items():
            slot = {0, axes[name]} if name in axes and config.per_channel else {axes.get(name)}
            others = tuple(axis for axis in range(value.ndim) if axis not in slot)
            marks[name] = jnp.all(value == 0, axis=others, keepdims=True) if name in outputs else jnp.zeros((), bool)
        return marks

    nothing = jax.tree.map(lambda _: jnp.zeros((), bool), params)
    return with_sequence_layers(nothing, config, lambda i, _: mark(sequence_layers(params, config)[i]))


def parameters(params: Params, config: ModelConfig) -> Parameters:
    """Counts the parameters of a network, and which of them go with a state.

    Args:
        params: the network's parameters, or their shapes.
        config: the model's configuration.
    """
    axes, shared = state_axes(config), config.unshared() != config
    total, held, own = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)), [], []
    rest = total
    for layer in sequence_layers(params, config):
        of_states = {n: (value.shape, value.shape[axes[n]]) for n, value in layer.items() if n in axes}
        rest -= sum(math.prod(shape) for shape, _ in of_states.values())
        held.append(sum(math.prod(shape) // width for shape, width in of_states.values()))
        # What has no axis of channels is shared by them.
        copies = [config.d_model if len(shape) == 1 else 1 for shape, _ in of_states.values()]
        own.append(sum(n * math.prod(s) // w for n, (s, w) in zip(copies, of_states.values(), strict=True)))
    return Parameters(total, rest, tuple(held), tuple(own) if shared else None)


def constants(params: Params, config: ModelConfig) -> list[int]:
    """Returns how many numbers the output constant of each layer has, 0 where there is none.

    Args:
        params: the network's parameters, or their shapes.
        config: the model's configuration.
    """
    found = [layer.get("bias") for layer in sequence_layers(params, config)]
    return [0 if bias is None else math.prod(bias.shape) for bias in found]


def with_layers_of(other: Params, params: Params, config: ModelConfig) -> dict[str, Any]:
    """Returns parameters with the sequence layers of other ones in the place of their own.

    Args:
        other: what the sequence layers are taken from.
        params: what everything else is taken from.
        config: the configuration of both, whatever the number of states.
    """
    layers = sequence_layers(other, config)
    return with_sequence_layers(params, config, lambda i, _: layers[i])


def without_systems(params: Params, config: ModelConfig) -> Params:
    """Returns all parameters but those of the sequence layers."""
    return with_sequence_layers(params, config, lambda i, _: {})
