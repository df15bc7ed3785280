"""Statistics of batch normalisation measured again: what a reduced network's norms should subtract and divide by."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import network, norm
from s5c.model.classifier import Classifier
from s5c.model.signals import BlockAt, Stream, blocks
from s5c.types import Array, Bool, Features, Float, Params


def recalibrated(
    model: Classifier, weights: Params, batches: Iterable[Any], *, step_rescale: float = 1.0
) -> dict[str, Any]:
    """Returns the weights with the statistics of all batch norms measured on some sequences.

    From front to back: every norm sees the network before it with its new statistics. As in training they are taken
    over batch and time, padding included unless the network masks it. One with layer normalisation stays as it is.

    Args:
        model: the network, reduced or not.
        weights: `{"params": ..., "batch_stats": ...}`.
        batches: with `inputs`, `lengths` and `weights` (`s5c.data.batching.Batch`).
        step_rescale: multiplies every Delta.
    """
    if model.config.norm != "batch":
        return dict(weights)
    found: list[dict[str, Array]] = []
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        stream = Stream(model, weights, batches, Path(folder))
        for block in blocks(model, weights, step_rescale):
            found.append(_measured(stream, block))
            for _ in stream.advance(_with_norm(block, found[-1])):
                pass
    return network.with_statistics(weights, model.config, found)


def _measured(stream: Stream, block: BlockAt) -> dict[str, Array]:
    identity = None if block.config.prenorm else _without_norm(block)
    total = square = count = 0.0
    for number in range(len(stream)):
        x = stream[number]
        valid = stream.valid(number, x.shape[1])
        x = x if identity is None else identity(x, valid).out
        counted = valid if block.config.mask_padding else np.broadcast_to(stream.rows(number)[:, None], valid.shape)
        with jax.enable_x64(True):
            sums = jax.device_get(_sums(x, jnp.asarray(counted)))
        total, square, count = total + sums[0], square + sums[1], count + float(sums[2])
    mean = total / count
    var = np.maximum(square / count - mean**2, 0)
    return {"mean": jnp.asarray(mean, jnp.float32), "var": jnp.asarray(var, jnp.float32)}


@jax.jit
def _sums(x: Features, counted: Bool[Array, "b l"]) -> tuple[Float[Array, "h"], Float[Array, "h"], Float[Array, ""]]:
    x = norm.silenced(x, counted).astype(jnp.float64)
    return x.sum((0, 1)), (x**2).sum((0, 1)), jnp.sum(counted, dtype=jnp.float64)


def _with_norm(block: BlockAt, stats: dict[str, Array]) -> BlockAt:
    return block._replace(variables={**block.variables, "batch_stats": {"norm": stats}})


def _without_norm(block: BlockAt) -> BlockAt:
    """Returns the block with a norm that changes nothing, so that its output is what the norm behind it would see."""
    params = block.variables["params"]
    one, zero = jnp.ones_like(params["norm"]["scale"]), jnp.zeros_like(params["norm"]["bias"])
    changed = block._replace(variables={**block.variables, "params": {**params, "norm": {"scale": one, "bias": zero}}})
    return _with_norm(changed, {"mean": zero, "var": one - norm.EPSILON})
