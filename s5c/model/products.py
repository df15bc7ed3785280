"""The matrices that a network multiplies by, as a device holds them: what weights of few bits are rounded in.

Of a layer with norm w = gain u + offset in front (batch norm, in evaluation mode), all that is linear is in three
places, of which the poles a are no product:

    x_k = a x_{k-1} + (B_bar gain) u_k + ...,    y_k = [2 Re C, -2 Im C] [Re x_k; Im x_k] + ...

Where every channel has a system of its own, its input matrix is a column that its outputs take in, 2 C B_bar. Rows are
outputs, columns what is summed over; an embedding has a row for every id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import network, surgery
from s5c.model.classifier import Classifier
from s5c.model.config import ModelConfig
from s5c.model.norm import EPSILON
from s5c.reduction.moments import coefficients, with_coefficients
from s5c.ssm.system import DiagonalSSM
from s5c.types import Params

Products = dict[str, np.ndarray]
"""Matrices (rows, columns), float64, by name: inputs, layer0.B, layer0.C, layer0.out2, ..., readout."""


def products(model: Classifier, weights: Params, step_rescale: float = 1.0) -> Products:
    """Returns all products of a network.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        step_rescale: multiplies every Delta.
    """
    found: Products = {}
    for name, kernel in _kernels(model, weights).items():
        found[name] = kernel if name == "inputs" and model.spec.tokens else kernel.T
    if model.spec.scale is not None:  # the scales of the channels are in the first product
        found["inputs"] = found["inputs"] / np.asarray(model.spec.scale[1], np.float64)
    if model.spec.targets is not None:  # and the units of the targets in the last one
        found["readout"] = np.asarray(model.spec.targets[1], np.float64)[:, None] * found["readout"]
    for i, (system, gain) in enumerate(_layers(model, weights, step_rescale)):
        found |= {f"layer{i}.{name}": matrix for name, matrix in _of_layer(system, gain).items()}
    return found


def with_products(
    model: Classifier, weights: Params, new: Mapping[str, Any], step_rescale: float = 1.0
) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network with some products replaced; all else stays, to the rounding of single precision.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        new: products by name, of the shapes that `products` gives.
        step_rescale: multiplies every Delta.

    Returns:
        The network, of another configuration where its parameters could not hold the new systems
        (`s5c.model.surgery.with_systems`), and its weights.
    """
    config, spec = model.config, model.spec
    params = jax.tree.map(lambda leaf: leaf, dict(weights["params"]))  # new dictionaries, the same arrays
    for name, place in network.dense_layers(params, config).items():
        if name not in new:
            continue
        matrix = np.asarray(new[name], np.float64)
        if name == "inputs" and spec.scale is not None:
            matrix = matrix * np.asarray(spec.scale[1], np.float64)
        if name == "readout" and spec.targets is not None:
            matrix = matrix / np.asarray(spec.targets[1], np.float64)[:, None]
        kernel = matrix if name == "inputs" and spec.tokens else matrix.T
        place["kernel"] = jnp.asarray(kernel, jnp.float32)
    if not any(name.startswith("layer") and name.endswith((".B", ".C")) for name in new):
        return model, {**weights, "params": params}
    systems = []
    with jax.enable_x64(True):
        for i, (system, gain) in enumerate(_layers(model, weights, step_rescale)):
            own = {name: np.asarray(new[key], np.float64) for name in ("B", "C") if (key := f"layer{i}.{name}") in new}
            system = _with(system, gain, own)
            systems.append(dataclasses.replace(system, Delta=system.Delta / step_rescale))
    params, config = surgery.with_systems(params, systems, config)
    return model.clone(config=config), {**weights, "params": params}


def _kernels(model: Classifier, weights: Params) -> dict[str, np.ndarray]:
    """Returns the kernels of all dense layers and the embedding, by the name of their product."""
    return {
        name: np.asarray(place["kernel"], np.float64)
        for name, place in network.dense_layers(weights["params"], model.config).items()
    }


def _layers(model: Classifier, weights: Params, step_rescale: float) -> list[tuple[DiagonalSSM, np.ndarray]]:
    """Returns the system of every layer, double precision, with the gain of the norm that is folded into it."""
    systems, blocks = surgery.systems(weights["params"], model.config), network.blocks(weights, model.config)
    with jax.enable_x64(True):
        return [
            (dataclasses.replace(system, Delta=step_rescale * system.Delta), folded_gain(model.config, block))
            for system, block in zip(systems, blocks, strict=True)
        ]


def folded_gain(config: ModelConfig, block: Params) -> np.ndarray:
    """Returns the gain of the norm that a layer's B takes in, (h,): of a batch norm in front, else ones."""
    if not config.prenorm or config.norm != "batch":
        return np.ones(config.d_model)
    scale, variance = block["params"]["norm"]["scale"], block["batch_stats"]["norm"]["var"]
    return np.asarray(scale, np.float64) / np.sqrt(np.asarray(variance, np.float64) + EPSILON)


def _of_layer(system: DiagonalSSM, gain: np.ndarray) -> Products:
    with jax.enable_x64(True):
        B_bar, C = np.asarray(system.discretise()[1]), np.asarray(coefficients(system))
        if system.Lambda.ndim == 1:
            return {"B": np.concatenate([B_bar.real, B_bar.imag]) * gain, "C": C}
        taken = dataclasses.replace(system, C=system.C * B_bar[..., 0][:, None], C_backward=_times(system, B_bar))
        return {"C": np.asarray(coefficients(taken))[:, 0]}


def _times(system: DiagonalSSM, B_bar: np.ndarray) -> Any:
    return None if system.C_backward is None else system.C_backward * B_bar[..., 0][:, None]


def _with(system: DiagonalSSM, gain: np.ndarray, new: Products) -> DiagonalSSM:
    """Returns the system with other products; the inverse of `_of_layer`."""
    if system.Lambda.ndim == 1:
        if "B" in new:
            re, im = np.split(new["B"], 2)
            ones = dataclasses.replace(system, B=jnp.ones_like(system.B))
            factor = np.asarray(ones.discretise()[1])  # B_bar = factor B, of every discretisation here
            folded = np.where(gain == 0, 0, (re + 1j * im) / np.where(gain == 0, 1, gain))
            B = np.where(gain == 0, np.asarray(system.B), folded / factor)
            system = dataclasses.replace(system, B=jnp.asarray(B))
        return with_coefficients(system, jnp.asarray(new["C"])) if "C" in new else system
    if not new:
        return system
    B_bar = np.asarray(system.discretise()[1])[..., 0]
    given = with_coefficients(system, jnp.asarray(new["C"])[:, None])
    silent = B_bar == 0
    inverse = jnp.asarray(np.where(silent, 0, 1 / np.where(silent, 1, B_bar)))[:, None]
    backward = None if given.C_backward is None else given.C_backward * inverse
    return dataclasses.replace(given, C=given.C * inverse, C_backward=backward)
