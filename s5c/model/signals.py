"""What a network's layers see on data, one block at a time: inputs, outputs, and the moments of states.

Batches pass block by block. Between two blocks their activations lie in files of a temporary folder, so that memory
does not grow with the number of sequences, and the whole way through the network costs one pass per block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import network
from s5c.model.block import Block
from s5c.model.classifier import Classifier, InputSpec, input_encoder
from s5c.model.config import ModelConfig
from s5c.model.norm import silenced
from s5c.reduction.moments import Moments, real_states
from s5c.ssm.scan import linear_scan
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Features, Float, Num, Params

CHUNK_BYTES = 2**26
"""Of states of one system per channel that are held at a time, double precision."""


class Signals(NamedTuple):
    """One block on one batch.

    Attributes:
        u: input of the sequence layer, behind the norm where that comes first.
        y: its output, feedthrough and bias included.
        out: output of the block.
    """

    u: Features
    y: Features
    out: Features


def into_gate(config: ModelConfig, y: Features) -> Features:
    """Returns what the matrices of a block's gate multiply, from the output of its sequence layer."""
    return y if config.activation == "lqo" else nn.gelu(y, config.gelu == "tanh")


class BlockAt(NamedTuple):
    """One block of a network with its weights; calling it runs it in evaluation mode.

    Attributes:
        config: configuration of the network.
        state_dim: stored states of its layer.
        step_rescale: multiplies every Delta.
        variables: its weights.
    """

    config: ModelConfig
    state_dim: int
    step_rescale: float
    variables: dict[str, Any]

    def __call__(self, x: Features, valid: Bool[np.ndarray, "b l"] | None = None) -> Signals:
        """Runs the block; `valid` says which steps are data, for a block that masks the others."""
        return _run(*self[:3], self.variables, x, self._told_apart(valid))

    def layer_input(self, x: Features, valid: Bool[np.ndarray, "b l"]) -> Features:
        """Returns the input of the sequence layer alone."""
        return _layer_input(*self[:3], self.variables, x, self._told_apart(valid))

    def _told_apart(self, valid: Bool[np.ndarray, "b l"] | None) -> Bool[Array, "b l"] | None:
        return jnp.asarray(valid) if self.config.mask_padding and valid is not None else None


def blocks(model: Classifier, weights: Params, step_rescale: float = 1.0) -> list[BlockAt]:
    """Returns the blocks of a network, from input to output."""
    every = network.blocks(weights, model.config)
    return [BlockAt(model.config, p, step_rescale, one) for one, p in zip(every, model.state_dims, strict=True)]


def _signals(
    config: ModelConfig,
    state_dim: int,
    step_rescale: float,
    variables: Any,
    x: Features,
    valid: Bool[Array, "b l"] | None,
) -> Signals:
    def recorded(module: nn.Module, _: str) -> bool:
        return module.name in ("norm", "seq")

    out, recorded_values = Block(config, state_dim).apply(
        variables, x, step_rescale=step_rescale, valid=valid, capture_intermediates=recorded, mutable=["intermediates"]
    )
    found = {name: values["__call__"][0] for name, values in recorded_values["intermediates"].items()}
    u = found["norm"] if config.prenorm else x
    return Signals(u if valid is None else silenced(u, valid), found["seq"], out)


_run = jax.jit(_signals, static_argnums=(0, 1, 2))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _layer_input(
    config: ModelConfig,
    state_dim: int,
    step_rescale: float,
    variables: Any,
    x: Features,
    valid: Bool[Array, "b l"] | None,
) -> Features:
    return _signals(config, state_dim, step_rescale, variables, x, valid).u  # XLA drops the rest


# ---- what of a batch counts


def valid_steps(batch: Any) -> Bool[np.ndarray, "b l"]:
    """Returns which steps of a batch are data: of an example, and not padding."""
    return _valid(batch.lengths, _rows(batch), batch.inputs.shape[1])


def _rows(batch: Any) -> Bool[np.ndarray, "b"]:
    return np.tile(batch.weights > 0, len(batch.inputs) // len(batch.weights))  # pairs have two rows each


def _valid(lengths: np.ndarray | None, rows: Bool[np.ndarray, "b"], length: int) -> Bool[np.ndarray, "b l"]:
    ends = np.full(len(rows), length) if lengths is None else lengths
    return rows[:, None] & (np.arange(length) < ends[:, None])


# ---- activations between blocks


class Stream:
    """The input of one block on all batches, in files."""

    def __init__(self, model: Classifier, weights: Params, batches: Iterable[Any], folder: Path) -> None:
        """Runs the input encoder.

        Args:
            model: the network.
            weights: `{"params": ..., "batch_stats": ...}`.
            batches: with `inputs`, `lengths` and `weights` (`s5c.data.batching.Batch`).
            folder: empty; float32 activations of all batches are written to it.
        """
        self._folder, self._masks = folder, list[tuple[np.ndarray | None, np.ndarray]]()
        folder.mkdir(parents=True, exist_ok=True)
        params = network.of_inputs(weights)
        for number, batch in enumerate(batches):
            self[number] = _encode(model.config, model.spec, params, jnp.asarray(batch.inputs))
            self._masks.append((batch.lengths, _rows(batch)))

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, number: int) -> Features:
        return jnp.asarray(np.load(self._file(number)))

    def __setitem__(self, number: int, x: Features) -> None:
        np.save(self._file(number), np.asarray(x))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.npy"

    def rows(self, number: int) -> Bool[np.ndarray, "b"]:
        """Returns which rows of a batch are examples, not filling."""
        return self._masks[number][1]

    def valid(self, number: int, length: int) -> Bool[np.ndarray, "b l"]:
        """Returns which steps of a batch are data: of an example, and not padding."""
        return _valid(*self._masks[number], length)

    def advance(self, block: BlockAt) -> Iterator[tuple[int, Signals]]:
        """Runs a block on all batches and keeps its output for the next; yields what passed, batch by batch."""
        for number in range(len(self)):
            x = self[number]
            signals = block(x, self.valid(number, x.shape[1]))
            yield number, signals
            self[number] = signals.out


@partial(jax.jit, static_argnums=(0, 1))
def _encode(config: ModelConfig, spec: InputSpec, params: Any, inputs: Num[Array, "rows l *features"]) -> Features:
    return input_encoder(config, spec).apply({"params": params}, inputs)


# ---- moments


def moments(
    system: DiagonalSSM, u: Features, y: Features, valid: Bool[np.ndarray, "b l"], step_rescale: float = 1.0
) -> Moments:
    """Returns the moments of a system's states on one batch.

    States are run in single precision, as in the network, and multiplied and added up in double precision.

    Args:
        system: one layer, which need not be a layer of the network that `u` comes from.
        u: its input, padding included, which the network does not mask either unless it says so in `u`.
        y: output that its states are to explain.
        valid: which steps count.
        step_rescale: multiplies every Delta.
    """
    with jax.enable_x64(True):
        system = dataclasses.replace(system, Delta=system.Delta * step_rescale)
        single = jax.tree.map(lambda x: x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32), system)
        return _moments(single, u, y, jnp.asarray(valid))


@jax.jit
def _moments(system: DiagonalSSM, u: Features, y: Features, valid: Bool[Array, "b l"]) -> Moments:
    if system.Lambda.ndim == 1:
        return Moments.of(_states(system, u), u, y, valid)

    def channel(of: tuple[DiagonalSSM, Float[Array, "b l"], Float[Array, "b l"]]) -> Moments:
        alone, u, y = of
        return Moments.of(_states(alone, u[..., None]), u[..., None], y[..., None], valid)

    per_channel = 8 * u[..., 0].size * 2 * system.state_dim * (1 if system.C_backward is None else 2)
    together = max(CHUNK_BYTES // per_channel, 1)
    found = jax.lax.map(channel, (system, jnp.moveaxis(u, -1, 0), jnp.moveaxis(y, -1, 0)), batch_size=together)
    return dataclasses.replace(found, energy=jnp.full_like(found.energy, found.energy.sum()))


def _states(system: DiagonalSSM, u: Features) -> Float[Array, "b l n"]:
    Lambda_bar, B_bar = system.discretise()
    p = system.state_dim
    driven = jnp.matmul(u, jnp.concatenate([B_bar.real, B_bar.imag]).T, precision=jax.lax.Precision.HIGHEST)
    b = jax.lax.complex(driven[..., :p], driven[..., p:])
    x = linear_scan(Lambda_bar, b)
    return real_states(x) if system.C_backward is None else real_states(x, linear_scan(Lambda_bar, b, reverse=True))
