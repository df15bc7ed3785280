"""How much a network's answers change with the output of a sequence layer, by backpropagation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.model.classifier import Classifier, InputSpec
from s5c.model.network import layer_names
from s5c.types import Array, Bool, Float, Int, Num, Params


@partial(jax.jit, static_argnums=0, static_argnames="step_rescale")
def squared_gradients(
    model: Classifier,
    weights: Params,
    inputs: Num[Array, "rows l *features"],
    lengths: Int[Array, "rows"] | None,
    valid: Bool[Array, "rows l"],
    key: Array,
    *,
    step_rescale: float = 1.0,
) -> tuple[Float[Array, "layers"], Float[Array, "layers"]]:
    """Returns, summed over a batch and per layer, the squared gradients and the energies of the layers' outputs.

        sum_k |d log p(c | x) / d y_k|^2,   sum_k |y_k|^2,       c drawn from p(. | x)

    The first is the trace of the Fisher information of the layer's output y: half its product with a small error's
    energy per step and feature is the divergence of the answers that this error causes, if it prefers no direction.
    Targets count as means of normal distributions whose standard deviations are the sizes of the targets.

    Args:
        model: the network, without dropout.
        weights: `{"params": ..., "batch_stats": ...}`.
        inputs: as for `Classifier`.
        lengths: as for `Classifier`.
        valid: which steps count.
        key: draws the classes, or directions in which targets change.
        step_rescale: as for `Classifier`.
    """
    names = layer_names(model.config)

    def answers(shifts: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        outputs: dict[str, Array] = {}

        def shift(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
            y = call(*arguments, **options)
            path = context.module.path
            if context.method_name != "__call__" or path[-1:] != ("seq",):
                return y
            outputs[path[-2]] = y
            return y + shifts[path[-2]]

        with nn.intercept_methods(shift):
            found = model.apply(weights, inputs, lengths, step_rescale=step_rescale)
        return found, outputs

    nothing = dict.fromkeys(names, jnp.zeros((*inputs.shape[:2], model.config.d_model)))
    likely = _of_targets(model.spec, valid, key) if model.spec.targets else _of_classes(answers(nothing)[0], key)

    def likelihood(shifts: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        found, outputs = answers(shifts)
        return likely(found), outputs

    gradients, outputs = jax.grad(likelihood, has_aux=True)(nothing)
    mask = valid[..., None]

    def energy(x: dict[str, Array]) -> Float[Array, "layers"]:
        return jnp.stack([jnp.sum(jnp.where(mask, x[name], 0) ** 2) for name in names])

    return energy(gradients), energy(outputs)


def _of_classes(log_probs: Float[Array, "b c"], key: Array) -> Callable[[Array], Array]:
    """Returns the log-likelihood of classes that are drawn from a network's answers."""
    drawn = jax.random.categorical(key, jax.lax.stop_gradient(log_probs), axis=-1)
    return lambda found: jnp.sum(jnp.take_along_axis(found, drawn[:, None], axis=1))


def _of_targets(spec: InputSpec, valid: Bool[Array, "b l"], key: Array) -> Callable[[Array], Array]:
    """Returns the answers along a direction that is drawn for each: what a log-likelihood changes by, at its mean."""
    assert spec.targets is not None
    counted = valid[..., None] if spec.targets.per_step else valid.any(axis=1)[:, None]
    size = jnp.asarray(spec.targets.size, jnp.float32)
    return lambda found: jnp.sum(jnp.where(counted, jax.random.normal(key, found.shape) * found / size, 0))
