"""The hand-written derivatives of batch normalisation and of the gate against automatic differentiation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s5c.model.gate import SigmoidGate
from s5c.model.norm import EPSILON, BatchNorm
from s5c.ssm.precision import PRECISIONS

B, L, H = 3, 7, 5


def drawn(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_equal(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max(), err_msg=str(path))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_flax_s(training: bool) -> None:
    """Values, running statistics and gradients, far from zero mean and unit scale."""
    x, weight = 3 + 2 * drawn(0, B, L, H), drawn(1, B, L, H)
    ours, theirs = BatchNorm(training, 0.9), nn.BatchNorm(not training, momentum=0.9)
    assert theirs.epsilon == EPSILON
    variables = {
        "params": {"scale": 1 + 0.3 * drawn(2, H), "bias": drawn(3, H)},
        "batch_stats": {"mean": drawn(4, H), "var": 1 + drawn(5, H) ** 2},
    }
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)

    def result(module: nn.Module) -> Any:
        def loss(params: Any, x: jax.Array) -> Any:
            y, updated = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(weight * y), (y, updated)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], x)

    assert_equal(result(ours), result(theirs))


def test_initialising_does_not_touch_the_running_statistics() -> None:
    stats = BatchNorm(True, 0.9).init(jax.random.key(0), 5 + drawn(0, B, L, H))["batch_stats"]
    assert_equal(stats, {"mean": jnp.zeros(H), "var": jnp.ones(H)})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gate_is_a_dense_layer_behind_gelu(precision: str) -> None:
    y, weight = drawn(0, B, L, H), drawn(1, B, L, H)
    keep = jnp.asarray(np.random.default_rng(2).integers(0, 2, (B, 1, H)) * 2, jnp.float32)
    ours, theirs = SigmoidGate(precision), nn.Dense(H)
    params = ours.init(jax.random.key(0), y, keep)
    assert_equal(params, theirs.init(jax.random.key(0), y), 0.0)  # the same draw: seeds keep their meaning

    def plain(params: Any, y: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(theirs.apply(params, keep * nn.gelu(y)))

    @jax.jit
    def both(params: Any, y: jax.Array) -> Any:
        gradients = [
            jax.value_and_grad(lambda params, y, f=f: jnp.sum(weight * f(params, y)), argnums=(0, 1))(params, y)
            for f in (lambda params, y: ours.apply(params, y, keep), plain)
        ]
        return gradients[0], gradients[1]

    assert_equal(*both(params, y), 2e-2 if precision == "bfloat16" else 1e-5)
