"""The two jit-compiled functions of training: one optimiser step, one evaluation batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from s5c.model.classifier import Classifier
from s5c.model.compilation import compiler_options
from s5c.types import Array, Float, Int, Num, Params


@struct.dataclass
class TrainState:
    """Everything one step changes; donated to the step, so the old one must not be used again."""

    step: Any  # an int32 scalar, or its shape while JAX lowers the step
    params: Params
    batch_stats: Params
    opt_state: Any


class Inputs(NamedTuple):
    """A batch on the device (see `s5c.data.batching.Batch`)."""

    inputs: Num[Array, "rows l *features"]
    labels: Int[Array, "b"]
    lengths: Int[Array, "rows"] | None
    weights: Float[Array, "b"]


class Totals(NamedTuple):
    """Sums over examples, so that any number of batches adds up exactly."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    examples: Float[Array, ""]


Step = Callable[[TrainState, Inputs, Array], tuple[TrainState, dict[str, Array]]]


Teacher = Callable[[Inputs], Float[Array, "b c"]]
"""Log-probabilities to learn instead of the labels."""


def init_state(
    model: Classifier,
    optimiser: Callable[[Params], optax.GradientTransformation],
    batch: Inputs,
    key: Array,
    initial: Params | None = None,
) -> tuple[TrainState, optax.GradientTransformation]:
    """Draws the parameters, or starts from copies of `initial` ones, and makes the optimiser's state."""
    if initial is None:
        variables = jax.jit(model.init)(key, batch.inputs, batch.lengths)
    else:
        variables = jax.tree.map(lambda value: jnp.array(value, copy=True), initial)  # the step donates them
    transform = optimiser(variables["params"])
    opt_state = jax.jit(transform.init)(variables["params"])
    stats = variables.get("batch_stats", {})
    return TrainState(jnp.zeros((), jnp.int32), variables["params"], stats, opt_state), transform


def make_train_step(model: Classifier, transform: optax.GradientTransformation, teacher: Teacher | None = None) -> Step:
    """Returns the compiled step (state, batch, dropout key) -> (state, metrics).

    The state's buffers are donated. The dropout stream is `fold_in(key, step)`: no state of its own to save. With a
    teacher the loss is the cross-entropy to its predictions, and the labels only serve the accuracy.
    """

    def step(state: TrainState, batch: Inputs, key: Array) -> tuple[TrainState, dict[str, Array]]:
        def loss_of(params: Params) -> tuple[Array, tuple[Array, Params]]:
            log_probs, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch.inputs,
                batch.lengths,
                training=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(key, state.step)},
            )
            if teacher is None:
                nll = -jnp.take_along_axis(log_probs, batch.labels[:, None], axis=1)
            else:
                nll = -jnp.sum(jnp.exp(jax.lax.stop_gradient(teacher(batch))) * log_probs, axis=1)
            return jnp.mean(nll), (log_probs, updated.get("batch_stats", {}))

        (loss, (log_probs, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(jnp.argmax(log_probs, axis=1) == batch.labels),
            "gradient_norm": optax.global_norm(gradient),
            "parameter_norm": optax.global_norm(params),
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def totals(log_probs: Float[Array, "b c"], labels: Int[Array, "b"], weights: Float[Array, "b"]) -> Totals:
    """Returns the summed loss, number of correct predictions and number of examples of a batch."""
    nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    correct = jnp.argmax(log_probs, axis=1) == labels
    return Totals(jnp.sum(weights * nll), jnp.sum(weights * correct), jnp.sum(weights))


def make_eval_step(model: Classifier) -> Callable[[Params, Params, Inputs], Totals]:
    """Returns the compiled evaluation (params, batch_stats, batch) -> sums."""

    def step(params: Params, batch_stats: Params, batch: Inputs) -> Totals:
        log_probs = model.apply({"params": params, "batch_stats": batch_stats}, batch.inputs, batch.lengths)
        return totals(log_probs, batch.labels, batch.weights)

    return jax.jit(step, compiler_options=compiler_options())
