"""Where things stand in the parameters of a network; the only module besides `s5c.model.classifier` that knows.

params       encoder/encoder          the linear map, or the embedding, of the inputs
             encoder/layers_0, ...    the blocks: seq (the sequence layer), norm, gate
             decoder                  the readout
batch_stats  encoder/layers_0, ...    the statistics of the blocks' norms
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model.config import ModelConfig
from s5c.types import Bool, Params


def layer_names(config: ModelConfig) -> list[str]:
    """Returns the names of the blocks, from input to output."""
    return [f"layers_{i}" for i in range(config.n_layers)]


def sequence_layers(params: Params, config: ModelConfig) -> list[Params]:
    """Returns the parameters of the sequence layers, from input to output."""
    return [params["encoder"][name]["seq"] for name in layer_names(config)]


def with_sequence_layers(
    params: Params, config: ModelConfig, change: Callable[[int, Params], Params]
) -> dict[str, Any]:
    """Returns parameters with other sequence layers.

    Args:
        params: the network's parameters.
        config: the model's configuration.
        change: takes the place of a layer, from 0, and its parameters, and returns those in their place.
    """
    encoder = dict(params["encoder"])
    for i, name in enumerate(layer_names(config)):
        encoder[name] = {**encoder[name], "seq": change(i, encoder[name]["seq"])}
    return {**params, "encoder": encoder}


def blocks(weights: Params, config: ModelConfig) -> list[dict[str, Any]]:
    """Returns the variables of the blocks, `{"params": ..., "batch_stats": ...}` each, from input to output."""
    params, stats = weights["params"]["encoder"], weights.get("batch_stats", {}).get("encoder", {})
    return [{"params": params[name], "batch_stats": stats.get(name, {})} for name in layer_names(config)]


def with_statistics(weights: Params, config: ModelConfig, found: Sequence[Params]) -> dict[str, Any]:
    """Returns the weights with other statistics of the norms, one mapping per block."""
    stats = {**weights["batch_stats"]["encoder"]}
    for name, own in zip(layer_names(config), found, strict=True):
        stats[name] = {"norm": own}
    return {**weights, "batch_stats": {**weights["batch_stats"], "encoder": stats}}


def of_features(weights: Params, config: ModelConfig, kept: Bool[np.ndarray, "h"]) -> dict[str, Any]:
    """Returns the weights of some features alone, gathered; the sequence layers are left as they are.

    Args:
        weights: `{"params": ..., "batch_stats": ...}` of a network whose readout is one linear map.
        config: configuration of the model.
        kept: features that stay.
    """

    def gathered(tree: Params, axes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        found = dict(tree)
        for name, along in axes.items():
            for axis in along if name in tree else ():
                found[name] = jnp.compress(kept, found[name], axis=axis)
        return found

    def block(tree: Params) -> dict[str, Any]:
        return {
            name: one if name == "seq" else gathered(one, {**dict.fromkeys(one, (0,)), "kernel": (0, 1)})
            for name, one in tree.items()
        }

    encoder, stats = dict(weights["params"]["encoder"]), weights.get("batch_stats", {})
    found = {name: block(encoder[name]) for name in layer_names(config)}
    found["encoder"] = gathered(encoder["encoder"], {"kernel": (1,), "bias": (0,)})
    params = {"encoder": {**encoder, **found}, "decoder": gathered(weights["params"]["decoder"], {"kernel": (0,)})}
    if not stats:
        return {**weights, "params": params}
    return {**weights, "params": params, "batch_stats": jax.tree.map(lambda value: value[kept], dict(stats))}


def of_inputs(weights: Params) -> Params:
    """Returns the parameters of the input's linear map or embedding."""
    return weights["params"]["encoder"]["encoder"]


def readout(weights: Params) -> Params:
    """Returns the parameters behind the last block."""
    return weights["params"]["decoder"]


def dense_layers(params: Params, config: ModelConfig) -> dict[str, Any]:
    """Returns the parameters of all dense layers and of the embedding: inputs, layer0.out2, ..., readout.

    A readout that compares two documents has two of them, readout.layer1 and readout.layer2.
    """
    found = {"inputs": params["encoder"]["encoder"]}
    for i, name in enumerate(layer_names(config)):
        inside = params["encoder"][name]
        found |= {f"layer{i}.{gate}": inside[gate] for gate in sorted(inside) if "kernel" in inside[gate]}
    decoder = params["decoder"]
    heads = {f"readout.{name}": decoder[name] for name in sorted(decoder) if isinstance(decoder[name], Mapping)}
    return found | (heads or {"readout": decoder})


def with_readout(weights: Params, decoder: Params) -> dict[str, Any]:
    """Returns the weights with another readout."""
    return {**weights, "params": {**weights["params"], "decoder": decoder}}
