"""S5 and S4D as their authors formulate them: the denominator of every ratio the benchmarks report.

Pure functions over our parameter trees, whose names are the published ones: one sequence at a time under `vmap`, tokens
as one-hot vectors, complex matrices, an associative scan with the eigenvalues repeated for every step, and a derivative
that JAX finds by itself. They cover what the published classification recipes use (batch normalisation before the
layer, half_glu1 or half_glu2, zero-order hold, mean pooling). `tests/test_bench.py` holds the model to recorded outputs
of the original code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from s5c.model.classifier import InputSpec
from s5c.model.family.s5 import Config
from s5c.model.network import layer_names
from s5c.training.steps import Inputs, Step, TrainState
from s5c.types import Array, Complex, Features, Float, Int, Num, Params

EXAMPLES = "examples"
"""Name of the mapped axis, over which batch normalisation averages."""

Signal = Float[Array, "l h"]

# ---- operators


def diagonal_ssm(
    u: Features,
    Lambda_bar: Complex[Array, "p"],
    B_bar: Complex[Array, "p h"],
    C: Complex[Array, "out p"],
    C_backward: Complex[Array, "out p"] | None = None,
) -> Float[Array, "b l out"]:
    """Does what `s5c.ssm.operator.diagonal_ssm` does."""
    return jax.vmap(lambda sequence: _operator(sequence, Lambda_bar, B_bar, C, C_backward))(u)


def _operator(u: Signal, Lambda_bar: Array, B_bar: Array, C: Array, C_backward: Array | None) -> Signal:
    repeated = Lambda_bar * jnp.ones((u.shape[0], Lambda_bar.shape[0]))
    Bu = jax.vmap(lambda u_k: B_bar @ u_k)(u)
    _, x = jax.lax.associative_scan(_after, (repeated, Bu))
    if C_backward is not None:
        _, backward = jax.lax.associative_scan(_after, (repeated, Bu), reverse=True)
        x, C = jnp.concatenate([x, backward], axis=-1), jnp.concatenate([C, C_backward], axis=-1)
    return jax.vmap(lambda x_k: 2 * (C @ x_k).real)(x)


def _after(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
    """Composes two stretches of x -> a x + b."""
    return then[0] * first[0], then[0] * first[1] + then[1]


def diagonal_siso_ssm(
    u: Features, Lambda_bar: Complex[Array, "h n"], B_bar: Complex[Array, "h n"], C: Complex[Array, "h n"]
) -> Features:
    """S4D: the kernel 2 Re sum_n C B_bar Lambda_bar^k from one complex exponential per (h, n, k), then an FFT."""
    length = u.shape[1]
    powers = jnp.exp(jnp.log(Lambda_bar)[..., None] * jnp.arange(length))
    kernel = 2 * jnp.einsum("hn,hnl->hl", C * B_bar, powers).real
    spectrum = jnp.fft.rfft(u, 2 * length, axis=1) * jnp.fft.rfft(kernel, 2 * length).T
    return jnp.fft.irfft(spectrum, 2 * length, axis=1)[:, :length]


# ---- the model


def log_probs(
    params: Params,
    batch_stats: Params,
    inputs: Num[Array, "rows l *features"],
    lengths: Int[Array, "rows"] | None,
    *,
    config: Config,
    spec: InputSpec,
    dropout_key: Array | None = None,
) -> tuple[Float[Array, "b c"], dict[str, Any]]:
    """Runs the classifier.

    Args:
        params: as `Classifier` has them.
        batch_stats: its running statistics.
        inputs: as for `Classifier`.
        lengths: as for `Classifier`.
        config: the model's configuration.
        spec: what the task feeds it.
        dropout_key: given for training, which also takes and updates batch statistics.

    Returns:
        Log-probabilities and the running statistics after this batch.

    Raises:
        ValueError: an option that none of the published recipes uses.
    """
    gates, unusual = ("half_glu1", "half_glu2"), config.norm != "batch" or not config.prenorm
    if unusual or config.activation not in gates or (config.discretisation, config.pooling) != ("zoh", "mean"):
        raise ValueError(f"The reference covers the published recipes only, not {config}.")
    if spec.tokens:
        inputs = jax.nn.one_hot(inputs, spec.features)
    keys = None if dropout_key is None else jax.random.split(dropout_key, inputs.shape[0])
    one = partial(_encode, params["encoder"], batch_stats["encoder"], config=config)
    pooled, stats = jax.vmap(one, out_axes=(0, None), axis_name=EXAMPLES)(inputs, lengths, keys)
    logits = _pair_head(params["decoder"], pooled) if spec.pairs else _dense(params["decoder"], pooled)
    return jax.nn.log_softmax(logits), {"encoder": stats}


def _encode(
    params: Params,
    batch_stats: Params,
    inputs: Float[Array, "l c"],
    length: Int[Array, ""] | None,
    key: Array | None,
    *,
    config: Config,
) -> tuple[Float[Array, "h"], dict[str, Any]]:
    """One sequence through the encoder, all blocks and the pooling."""
    x, stats = _dense(params["encoder"], inputs), {}
    for i, name in enumerate(layer_names(config)):
        block_key = None if key is None else jax.random.fold_in(key, i)
        x, stats[name] = _block(params[name], batch_stats[name], x, block_key, config)
    if length is None:
        return jnp.mean(x, axis=0), stats
    valid = jnp.arange(x.shape[0]) < length
    return jnp.sum(valid[:, None] * x, axis=0) / length, stats


def _block(
    params: Params, batch_stats: Params, x: Signal, key: Array | None, config: Config
) -> tuple[Signal, dict[str, Any]]:
    training = key is not None
    normalised, norm = _batch_norm(params["norm"], batch_stats["norm"], x, config.bn_momentum, training)
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    y = _layer(params["seq"], normalised, config)
    g = _dropout(jax.nn.gelu(y), config.dropout, keys[0])
    gate = jax.nn.sigmoid(_dense(params["out2"], g))
    gated = gate * (g if config.activation == "half_glu1" else y)
    return x + _dropout(gated, config.dropout, keys[1]), {"norm": norm}


def _layer(params: Params, u: Signal, config: Config) -> Signal:
    Lambda_re = jnp.minimum(params["Lambda_re"], -1e-4) if config.clip_eigs else params["Lambda_re"]
    Lambda = Lambda_re + 1j * params["Lambda_im"]
    B, *C = (_complex(params[name]) for name in ("B", *(("C1", "C2") if config.bidirectional else ("C",))))
    Lambda_bar = jnp.exp(Lambda * jnp.exp(params["log_step"][:, 0]))
    B_bar = ((Lambda_bar - 1) / Lambda)[:, None] * B
    y = _operator(u, Lambda_bar, B_bar, C[0], C[1] if config.bidirectional else None)
    return y + jax.vmap(lambda u_k: params["D"] * u_k)(u)


def _complex(x: Float[Array, "*shape 2"]) -> Complex[Array, "*shape"]:
    return x[..., 0] + 1j * x[..., 1]


def _batch_norm(
    params: Params, running: Params, x: Signal, momentum: float, training: bool
) -> tuple[Signal, dict[str, Array]]:
    """Averages over time and, across the mapped axis, over the batch.

    Flax's own module, as in the published code: how the statistics are put together decides which sums XLA computes
    twice, and written out by hand the whole step took 7% more.
    """
    norm = nn.BatchNorm(not training, momentum=momentum, axis_name=EXAMPLES)
    y, updated = norm.apply({"params": params, "batch_stats": running}, x, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def _dropout(x: Signal, rate: float, key: Array | None) -> Signal:
    """Drops whole features of a sequence."""
    if key is None or rate == 0:
        return x
    kept = jnp.broadcast_to(jax.random.bernoulli(key, 1 - rate, (1, x.shape[1])), x.shape)
    return jax.lax.select(kept, x / (1 - rate), jnp.zeros_like(x))


def _dense(params: Mapping[str, Array], x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
    return x @ params["kernel"] + params["bias"]


def _pair_head(params: Params, pooled: Float[Array, "twob h"]) -> Float[Array, "b c"]:
    e1, e2 = jnp.split(pooled, 2)
    joined = jnp.concatenate([e1, e2, e1 - e2, e1 * e2], axis=-1)
    return _dense(params["layer2"], jax.nn.gelu(_dense(params["layer1"], joined)))


# ---- training


def make_train_step(config: Config, spec: InputSpec, transform: optax.GradientTransformation) -> Step:
    """Returns the compiled training step (state, batch, dropout key) -> (state, metrics); nothing is donated."""

    def step(state: TrainState, batch: Inputs, key: Array) -> tuple[TrainState, dict[str, Array]]:
        def loss_of(params: Params) -> tuple[Array, dict[str, Any]]:
            outputs, stats = log_probs(
                params,
                state.batch_stats,
                batch.inputs,
                batch.lengths,
                config=config,
                spec=spec,
                dropout_key=jax.random.fold_in(key, state.step),
            )
            return -jnp.mean(jnp.sum(jax.nn.one_hot(batch.labels, spec.classes) * outputs, axis=1)), stats

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, stats, opt_state), {"loss": loss}

    return jax.jit(step)
