"""A network fed step by step: the state it carries from one step to the next, and what it answers on the way.

    x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k) + D u_k

Memory and time per step do not depend on how many steps there were. The parameters are those of the parallel form, and
so are the answers, to rounding. Steps may come one at a time or in chunks of any length.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from s5c.errors import UserError
from s5c.model import network
from s5c.model.block import Block
from s5c.model.classifier import Classifier, answers, input_encoder, output_head, per_step
from s5c.model.config import load_family
from s5c.ssm.operator import diagonal_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex, Features, Float, Int, Num, Params

CHUNK = 256
"""Steps that are run at once where more are given."""

MOST_STEPS = 2**31 - 1
"""Where the count of steps stays: after 37 hours at 16 kHz the mean moves by the same share from there on."""

CARRIED = "carried"
"""The collection of Flax variables that holds the state of a block."""


class StreamState(NamedTuple):
    """All that a network keeps of the steps so far; a tree of arrays.

    Attributes:
        layers: state of every layer, (rows, p), or (rows, h, p) where every channel has a system of its own; complex64.
        features: what the readout gets, (rows, h): the mean of the last block's outputs so far, or its last output.
        steps: number of steps so far, `MOST_STEPS` at most.
    """

    layers: tuple[Complex[Array, "rows *channels p"], ...]
    features: Float[Array, "rows h"]
    steps: Int[Array, ""]


def check_streamable(model: Classifier) -> None:
    """Raises `UserError` for a network whose answer to a step depends on later ones."""
    config = model.config
    if getattr(config, "bidirectional", False):
        raise UserError(
            "This network is bidirectional: its backward direction starts at the end of the sequence, so that no step "
            "can be answered before the last one is there. Streaming takes networks of one direction, trained with "
            "model.bidirectional=false; whole sequences are answered by predict."
        )


def initial_state(model: Classifier, batch: int) -> StreamState:
    """Returns the state before the first step.

    Args:
        model: the network.
        batch: sequences side by side; pairs of documents have two rows each, all first documents before all second.

    Raises:
        UserError: the network is bidirectional.
    """
    check_streamable(model)
    config, rows = model.config, 2 * batch if model.spec.pairs else batch
    channels = (config.d_model,) if config.per_channel else ()
    layers = tuple(jnp.zeros((rows, *channels, p), jnp.complex64) for p in model.state_dims)
    return StreamState(layers, jnp.zeros((rows, config.d_model)), jnp.zeros((), jnp.int32))


def advance(
    model: Classifier,
    weights: Params,
    state: StreamState,
    inputs: Num[Array, "rows l *features"],
    step_rescale: float = 1.0,
) -> tuple[StreamState, Float[Array, "b *l c"]]:
    """Runs some steps.

    Longer inputs are run in chunks of `CHUNK` steps and what is left in powers of two, so that nine programs are
    compiled at most, whatever lengths come.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        state: state before these steps.
        inputs: token ids (rows, l) or real channels (rows, l, features), l >= 1.
        step_rescale: multiplies every Delta.

    Returns:
        The state after them, and what the network says of all steps so far: log-probabilities (b, classes), or targets
        (b, k); where there is a target for every step those of the given steps, (b, l, k).
    """
    at, steps, parts = 0, inputs.shape[1], []
    while at < steps:
        chunk = min(CHUNK, 1 << (steps - at).bit_length() - 1)
        state, features = _run(model, step_rescale, weights, state, inputs[:, at : at + chunk])
        at += chunk
        parts += [features] if per_step(model.spec) else []
    return state, _answer(model, network.readout(weights), jnp.concatenate(parts, axis=1) if parts else state.features)


@partial(jax.jit, static_argnums=(0, 1))
def _run(
    model: Classifier, step_rescale: float, weights: Params, state: StreamState, inputs: Num[Array, "rows l *features"]
) -> tuple[StreamState, Features]:
    """Returns the state after some steps, and the last block's outputs."""
    config = model.config
    x = input_encoder(config, model.spec).apply({"params": network.of_inputs(weights)}, inputs)
    layers = []
    for variables, p, carried in zip(network.blocks(weights, config), model.state_dims, state.layers, strict=True):
        block = _StreamedBlock(config, p)
        x, after = block.apply(
            {**variables, CARRIED: {"state": carried}}, x, step_rescale=step_rescale, mutable=[CARRIED]
        )
        layers.append(after[CARRIED]["state"])
    steps = jnp.minimum(state.steps, MOST_STEPS - x.shape[1]) + x.shape[1]
    if config.pooling == "last":
        return StreamState(tuple(layers), x[:, -1], steps), x
    # The mean moves by what the new steps differ from it: a sum would lose digits as it grows.
    moved = jnp.sum(x - state.features[:, None], axis=1) / steps
    return StreamState(tuple(layers), state.features + moved, steps), x


@partial(jax.jit, static_argnums=0)
def _answer(model: Classifier, readout: Params, features: Float[Array, "rows *l h"]) -> Float[Array, "b *l c"]:
    return answers(model.spec, output_head(model.config, model.spec).apply({"params": readout}, features))


class _StreamedBlock(Block):
    """A block whose sequence layer goes on from a state, the variable `state` of the collection `CARRIED`."""

    def _sequence(self, x: Features, step_rescale: float) -> Features:
        config = self.config
        params: Any = self.get_variable("params", "seq")
        system = load_family(config.family).to_system(params, config)
        system = dataclasses.replace(system, Delta=step_rescale * system.Delta)
        carry = _channels if config.per_channel else _joint
        y, after = carry(system, x, self.get_variable(CARRIED, "state"), config.precision)
        self.put_variable(CARRIED, "state", after)
        return y


Carried = tuple[Features, Complex[Array, "rows *channels p"]]


def _joint(system: DiagonalSSM, u: Features, x0: Complex[Array, "rows p"], precision: str) -> Carried:
    """Runs one system for all channels from a state."""
    matrices = (*system.discretise(), system.C)
    y, after = diagonal_ssm(u, *matrices, x0=x0, precision=precision, return_state=True)
    y = y + system.D * u
    return (y if system.bias is None else y + system.bias), after


def _channels(system: DiagonalSSM, u: Features, x0: Complex[Array, "rows h p"], precision: str) -> Carried:
    """Runs one system per channel from their states, step by step."""
    Lambda_bar, B_bar = system.discretise()
    C = 2 * system.C[:, 0]

    def step(x: Array, u_k: Float[Array, "rows h"]) -> tuple[Array, Array]:
        x = Lambda_bar * x + B_bar[..., 0] * u_k[..., None]
        return x, jnp.sum((C * x).real, axis=-1)

    after, y = jax.lax.scan(step, x0, jnp.swapaxes(u, 0, 1))
    y = jnp.swapaxes(y, 0, 1) + system.D[:, 0] * u
    return (y if system.bias is None else y + system.bias[:, 0]), after
