"""Weights of few bits in a file: integers, their scales, and in float32 what is no matrix.

    products/NAME/values    int8, or fewer bits as a stream of them (`s5c.model.rounding.Matrix.packed`)
    products/NAME/scale     float32, one a row
    params/..., batch_stats/...

What the products stand for is left out and made again when the file is read (`s5c.model.products`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from s5c.model import network
from s5c.model.classifier import Classifier
from s5c.model.config import from_dict
from s5c.model.inputs import InputSpec
from s5c.model.products import folded_gain, products, with_products
from s5c.model.roles import parameters_of
from s5c.model.rounding import Matrix, rounded, unpacked
from s5c.types import Params

PRODUCTS = "products"
SAME = 1e-3
"""Of the step of a row's grid: how far from it a weight may be that single precision has passed through."""


def packed(model: Classifier, weights: Params, bits: int, step_rescale: float) -> dict[str, Any]:
    """Returns weights as they are stored: float32 ones, and such as are not of so few bits after all, as they are.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        bits: of a weight.
        step_rescale: what multiplied every Delta when they were rounded.
    """
    config = model.config
    if bits == 32 or any((folded_gain(config, block) == 0).any() for block in network.blocks(weights, config)):
        return dict(weights)  # what is behind a gain of zero could not be read back
    matrices = {}
    for name, one in products(model, weights, step_rescale).items():
        matrices[name] = matrix = rounded(one, bits)
        assert matrix.scale is not None, "of few bits"
        if (np.abs(matrix.dense() - one) > SAME * matrix.scale[:, None]).any():
            return dict(weights)
    arrays = {name: {"values": one.packed(), "scale": one.scale} for name, one in matrices.items()}
    return {**_without_products(weights, model), PRODUCTS: arrays}


def stored_form(weights: Params, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns weights as they are stored; arguments as the metadata of a network have them."""
    if not (how := facts.get("stored")) or how["bits"] == 32:
        return dict(weights)
    return packed(_model(facts), weights, how["bits"], how["step_rescale"])


def unpack(stored: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns float32 weights of what `stored_form` returned."""
    if PRODUCTS not in stored:
        return dict(stored)
    model, bits, rescale = _model(facts), facts["stored"]["bits"], facts["stored"]["step_rescale"]
    shape = (2, 2) if model.spec.tokens else (2, 2, model.spec.features)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32 if model.spec.tokens else jnp.float32)
    made = jax.eval_shape(model.init, jax.random.key(0), inputs)
    blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made)
    own = {key: value for key, value in stored.items() if key != PRODUCTS}
    weights = unflatten_dict({**flatten_dict(blank), **flatten_dict(own)})
    found = {}
    for name, blank_one in products(model, weights, rescale).items():
        place = stored[PRODUCTS][name]
        values = unpacked(np.asarray(place["values"]), blank_one.shape[1], bits)
        found[name] = Matrix(values, np.asarray(place["scale"]), bits).dense()
    return with_products(model, weights, found, rescale)[1]


def _model(facts: Mapping[str, Any]) -> Classifier:
    config = from_dict(facts["model"])
    return Classifier(config, InputSpec(*facts["input_spec"]), config.check_state_dims(facts["state_dims"]))


def _without_products(weights: Params, model: Classifier) -> dict[str, Any]:
    """Returns the weights without what the products stand for."""
    roles = parameters_of(model.config)

    def rest(_: int, layer: Params) -> dict[str, Any]:
        return {name: value for name, value in layer.items() if roles[name].role not in ("input", "output")}

    params = jax.tree.map(lambda leaf: leaf, dict(weights["params"]))
    for place in network.dense_layers(params, model.config).values():
        del place["kernel"]
    return {**weights, "params": network.with_sequence_layers(params, model.config, rest)}
