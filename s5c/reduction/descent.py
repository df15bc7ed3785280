"""Minimisation of one of many small functions by L-BFGS or Adam, for `jax.vmap` over all of them.

Every iteration costs one value with its gradient, whatever it is used for: the trials of a line search are iterations
like all others, not a loop of their own. So mapped functions that search do not hold up those that step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from s5c.errors import unknown
from s5c.types import Array, Bool, Float, Int

Function = Callable[[Any], Float[Array, ""]]
"""A tree of real arrays -> a positive number."""

OPTIMISERS = ("lbfgs", "adam")
DECREASE, CURVATURE = 1e-4, 0.9
"""Constants of the weak Wolfe conditions, as usual with quasi-Newton methods."""
TRIALS = 20
"""Of one line search; more, and the decrease is lost in rounding."""
PATIENCE = 5
"""Steps in a row without progress after which L-BFGS has arrived."""


class Descent(NamedTuple):
    """The best point seen, never worse than the start.

    Attributes:
        parameters: as they were given.
        value: value of the function there.
        evaluations: until it stopped.
    """

    parameters: Any
    value: Float[Array, ""]
    evaluations: Int[Array, ""]


def descend(
    function: Function,
    start: Any,
    *,
    optimiser: str,
    evaluations: int,
    learning_rate: float = 1e-2,
    tolerance: float = 1e-7,
) -> Descent:
    """Minimises a function. Pure.

    Args:
        function: what to minimise; NaN is taken for worse than anything.
        start: parameters of the scale of 1.
        optimiser: "lbfgs", or "adam" with a cosine decay of the learning rate to 0.
        evaluations: at most; Adam uses them all.
        learning_rate: Adam's first.
        tolerance: relative decrease below which a step of L-BFGS is no progress.

    Raises:
        UserError: unknown optimiser.
    """
    if optimiser == "lbfgs":
        return _lbfgs(function, start, evaluations, tolerance)
    if optimiser == "adam":
        return _adam(function, start, evaluations, learning_rate)
    raise unknown("optimiser", optimiser, OPTIMISERS)


class _State(NamedTuple):
    """A line search at `point` along `direction`; `low` < `step` < `high`."""

    point: Any
    value: Float[Array, ""]
    grad: Any
    direction: Any
    memory: Any
    low: Float[Array, ""]
    step: Float[Array, ""]
    high: Float[Array, ""]
    trials: Int[Array, ""]
    stalled: Int[Array, ""]
    evaluations: Int[Array, ""]


def _lbfgs(function: Function, start: Any, evaluations: int, tolerance: float) -> Descent:
    """L-BFGS with the line search of Lewis and Overton (2013): bisection on the weak Wolfe conditions."""
    method = optax.scale_by_lbfgs(memory_size=10)
    value_and_grad = jax.value_and_grad(function)
    one, zero, infinite, none = jnp.ones(()), jnp.zeros(()), jnp.asarray(jnp.inf), jnp.zeros((), int)

    def iterate(state: _State) -> _State:
        point = optax.tree.add_scale(state.point, state.step, state.direction)
        value, grad = value_and_grad(point)
        slope = optax.tree.vdot(state.grad, state.direction)
        too_far = ~(value <= state.value + DECREASE * state.step * slope)
        too_near = optax.tree.vdot(grad, state.direction) < CURVATURE * slope
        arrived = ~too_far & ~too_near
        low, high = jnp.where(too_far, state.low, state.step), jnp.where(too_far, state.step, state.high)
        step = jnp.where(jnp.isinf(high), 2 * low, (low + high) / 2)
        searching = state._replace(low=low, step=step, high=high, trials=state.trials + 1)
        uphill, memory = method.update(grad, state.memory, point)
        stalled = jnp.where(value < state.value * (1 - tolerance), 0, state.stalled + 1)
        away = optax.tree.scale(-1, uphill)
        stepped = _State(point, value, grad, away, memory, zero, one, infinite, none, stalled, none)
        new = jax.tree.map(lambda a, b: jnp.where(arrived, a, b), stepped, searching)
        return new._replace(evaluations=state.evaluations + 1)

    def going(state: _State) -> Bool[Array, ""]:
        return (state.evaluations < evaluations) & (state.stalled < PATIENCE) & (state.trials < TRIALS)

    # The first iteration steps nowhere and finds the start, so that the function is compiled once.
    still = optax.tree.zeros_like(start)
    first = _State(start, infinite, still, still, method.init(start), zero, one, infinite, none, none, none)
    final = jax.lax.while_loop(going, iterate, first)
    return Descent(final.point, final.value, final.evaluations)


def _adam(function: Function, start: Any, evaluations: int, learning_rate: float) -> Descent:
    method = optax.adam(optax.cosine_decay_schedule(learning_rate, evaluations))
    value_and_grad = jax.value_and_grad(function)

    def step(_: Array, state: tuple[Any, Any, Descent]) -> tuple[Any, Any, Descent]:
        point, memory, best = state
        value, grad = value_and_grad(point)
        better = value < best.value
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), point, best.parameters)
        updates, memory = method.update(grad, memory, point)
        value = jnp.where(better, value, best.value)
        return optax.apply_updates(point, updates), memory, Descent(kept, value, best.evaluations + 1)

    worst = Descent(start, jnp.inf * jnp.ones(()), jnp.zeros((), int))
    return jax.lax.fori_loop(0, evaluations, step, (start, method.init(start), worst))[2]
