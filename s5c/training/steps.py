"""The two jit-compiled functions of training: one optimiser step, one evaluation batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from s5c.model.classifier import Classifier
from s5c.model.compilation import compiler_options
from s5c.training.objective import Inputs as Inputs
from s5c.training.objective import Teacher, objective_of
from s5c.training.objective import Totals as Totals
from s5c.types import Array, Params


@struct.dataclass
class TrainState:
    """Everything one step changes; donated to the step, so the old one must not be used again."""

    step: Any  # an int32 scalar, or its shape while JAX lowers the step
    params: Params
    batch_stats: Params
    opt_state: Any


Step = Callable[[TrainState, Inputs, Array], tuple[TrainState, dict[str, Array]]]


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
    teacher the loss is the distance from its answers, and the labels only serve the accuracy.
    """
    objective = objective_of(model.spec)

    def step(state: TrainState, batch: Inputs, key: Array) -> tuple[TrainState, dict[str, Array]]:
        def loss_of(params: Params) -> tuple[Array, tuple[Array, Params]]:
            answers, updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch.inputs,
                batch.lengths,
                training=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(key, state.step)},
            )
            return objective.loss(answers, batch, teacher), (answers, updated.get("batch_stats", {}))

        (loss, (answers, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = transform.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            **objective.told(answers, batch),
            "gradient_norm": optax.global_norm(gradient),
            "parameter_norm": optax.global_norm(params),
        }
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def make_eval_step(model: Classifier) -> Callable[[Params, Params, Inputs], Any]:
    """Returns the compiled evaluation (params, batch_stats, batch) -> sums."""
    objective = objective_of(model.spec)

    def step(params: Params, batch_stats: Params, batch: Inputs) -> Any:
        answers = model.apply({"params": params, "batch_stats": batch_stats}, batch.inputs, batch.lengths)
        return objective.totals(answers, batch)

    return jax.jit(step, compiler_options=compiler_options())
