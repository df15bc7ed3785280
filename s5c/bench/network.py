"""The network of the whole-model benchmarks: S5's recipe for reviews by character (LRA Text, IMDb), of any size.

Other sizes, one direction and real inputs instead of token ids give the cost of other recipes: the gate of the images'
(half_glu1) multiplies as much as this one (half_glu2).
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from s5c.model.classifier import Classifier, InputSpec
from s5c.model.family.s5 import Config
from s5c.ssm.call import Shape
from s5c.training.optimiser import optimiser, schedule
from s5c.training.steps import Inputs, TrainState, init_state

TEXT = Shape(2, 4096, 256, 96, True)
"""Sizes of the recipe but for the batch of 50, which is for an accelerator: `--batch 50`."""

LAYERS = 6
TOKENS = InputSpec(features=135, classes=2, tokens=True)


def spec_of(inputs: int) -> InputSpec:
    """Returns what the network reads: so many real channels, or the recipe's token ids if there are none."""
    return InputSpec(features=inputs, classes=TOKENS.classes) if inputs else TOKENS


def network_config(shape: Shape, layers: int) -> Config:
    """Returns the recipe's configuration with the given sizes and directions."""
    return Config(
        n_layers=layers,
        d_model=shape.features,
        state_size=2 * shape.state_dim,
        blocks=math.gcd(12, shape.state_dim),
        C_init="lecun_normal",
        activation="half_glu2",
        bidirectional=shape.bidirectional,
        dropout=0.1,
    )


def classifier(config: Config, state_dim: int, spec: InputSpec, **options: Any) -> Classifier:
    """Returns the network with the same number of states in every layer.

    Args:
        config: its configuration.
        state_dim: stored states of a layer.
        spec: what it reads.
        options: keys of the configuration to change.
    """
    return Classifier(dataclasses.replace(config, **options), spec, (state_dim,) * config.n_layers)


def random_batch(shape: Shape, spec: InputSpec) -> Inputs:
    """Draws a batch: token sequences of different lengths, or real ones of the full length."""
    rng = np.random.default_rng(0)
    b, length = shape.batch, shape.length
    if spec.tokens:
        inputs = jnp.asarray(rng.integers(0, spec.features, (b, length)), jnp.int32)
    else:
        inputs = jnp.asarray(rng.normal(size=(b, length, spec.features)), jnp.float32)
    return Inputs(
        inputs=inputs,
        labels=jnp.asarray(rng.integers(0, spec.classes, b), jnp.int32),
        lengths=jnp.asarray(rng.integers(length // 2, length + 1, b), jnp.int32) if spec.tokens else None,
        weights=jnp.ones(b),
    )


def initial_state(model: Classifier, batch: Inputs) -> tuple[TrainState, optax.GradientTransformation]:
    """Draws weights and sets up the recipe's optimiser."""
    rate = partial(schedule, warmup_steps=0, total_steps=35 * 500)
    make = partial(optimiser, lr=rate(4e-3), ssm_lr=rate(1e-3), weight_decay=0.07, grouping="standard", dt_global=True)
    return init_state(model, make, batch, jax.random.key(0))
