"""The network run block by block, every block compiled on its own.

A comparison evaluates one network at dozens of sizes. Compiled whole, each would cost a compilation of all layers;
compiled by block, blocks of equal size share one, whichever network and layer they belong to. The price is one
dispatch per block: right for accuracy, wrong for latency (`s5c.evaluation.cost` compiles the whole network).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from s5c.model import network
from s5c.model.block import Block
from s5c.model.classifier import (
    Classifier,
    InputSpec,
    answers,
    input_encoder,
    output_head,
    per_step,
    pool,
    told_apart,
)
from s5c.model.config import ModelConfig
from s5c.types import Array, Bool, Features, Float, Int, Num, Params


def log_probs(
    model: Classifier,
    weights: Params,
    inputs: Num[Array, "rows l *features"],
    lengths: Int[Array, "rows"] | None,
    step_rescale: float = 1.0,
) -> Float[Array, "b c"] | Float[Array, "b l c"]:
    """Returns what `model.apply` returns in evaluation mode, to rounding.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        inputs: as for `Classifier`.
        lengths: as for `Classifier`.
        step_rescale: as for `Classifier`.
    """
    features = pooled(model, weights, inputs, lengths, step_rescale)
    return _classify(model.config, model.spec, network.readout(weights), features)


def pooled(
    model: Classifier,
    weights: Params,
    inputs: Num[Array, "rows l *features"],
    lengths: Int[Array, "rows"] | None,
    step_rescale: float = 1.0,
) -> Float[Array, "rows h"] | Float[Array, "rows l h"]:
    """Returns what the readout gets; arguments as for `log_probs`."""
    x = encoded(model, weights, inputs)
    valid = told_apart(model.config, lengths, inputs.shape[1])
    for variables, p in zip(network.blocks(weights, model.config), model.state_dims, strict=True):
        x = _block(model.config, p, step_rescale, variables, x, valid)
    return x if per_step(model.spec) else _pool(x, lengths, model.config.pooling)


def encoded(model: Classifier, weights: Params, inputs: Num[Array, "rows l *features"]) -> Features:
    """Returns the input of the first block."""
    return _encode(model.config, model.spec, network.of_inputs(weights), inputs)


@partial(jax.jit, static_argnums=(0, 1))
def _encode(config: ModelConfig, spec: InputSpec, params: Any, inputs: Num[Array, "rows l *features"]) -> Features:
    return input_encoder(config, spec).apply({"params": params}, inputs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _block(
    config: ModelConfig,
    state_dim: int,
    step_rescale: float,
    variables: Any,
    x: Features,
    valid: Bool[Array, "rows l"] | None,
) -> Features:
    return Block(config, state_dim).apply(variables, x, step_rescale=step_rescale, valid=valid)


@partial(jax.jit, static_argnums=2)
def _pool(x: Features, lengths: Int[Array, "rows"] | None, how: str) -> Float[Array, "rows h"]:
    return pool(x, lengths, how)


@partial(jax.jit, static_argnums=(0, 1))
def _classify(
    config: ModelConfig, spec: InputSpec, params: Any, features: Float[Array, "rows *l h"]
) -> Float[Array, "b *l c"]:
    return answers(spec, output_head(config, spec).apply({"params": params}, features))
