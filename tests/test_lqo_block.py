"""The LQO form against what a network does: the deep bound, and the predicted error beside the block's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lqo_layers import LONG, H, dense_forms, layer_of, taps, white_taps
from scipy.stats import spearmanr
from systems import random_system

from s5c.reduction.bound import Block, amplifications, bound_weights, deep_bound, layer_norm_constants
from s5c.reduction.quadratic import LQO, QuadraticForm, lqo, relative_error
from s5c.ssm.modal import ModalSystem, from_ssm

pytestmark = pytest.mark.slow  # compiles blocks of every activation


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ---- the deep bound

LAYERS, STEPS, EPSILON = 3, 8, 0.3


def random_blocks(seed: int) -> tuple[list[Any], np.random.Generator]:
    """Returns systems, forms and reduced systems of a small network of LQO blocks behind layer normalisation."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-2.5, -0.5)
    blocks = []
    for _ in range(LAYERS):
        full = random_system(rng, 3, H, radius=0.8)
        reduced = random_system(rng, 3, H, radius=0.8)
        if rng.random() < 0.7:  # a neighbour rather than a stranger
            moved = {name: getattr(full, name) * (1 + 0.1 * rng.normal()) for name in ("B", "C", "D")}
            reduced = dataclasses.replace(full, **moved)
        form = QuadraticForm(*(jnp.asarray(size * rng.normal(size=(H, H))) for _ in range(4)))
        blocks.append((from_ssm(full), from_ssm(reduced), form, jnp.asarray(rng.normal(size=H))))
    return blocks, rng


def outputs(h: np.ndarray, form: Any, u: np.ndarray) -> np.ndarray:
    """Returns the output sequence of an LQO system, tap by tap."""
    v = np.stack([sum(h[k] @ u[t - k] for k in range(t + 1)) for t in range(len(u))])
    L, forms = dense_forms(form)
    return v @ L.T + np.stack([np.einsum("ta,ab,tb->t", v, N, v) for N in forms], axis=1)


def measured_error(blocks: list[Any], z: np.ndarray) -> float:
    both = [z, z]
    for full, reduced, form, gain in blocks:
        for i, system in enumerate((full, reduced)):
            centred = both[i] - both[i].mean(1, keepdims=True)
            u = np.asarray(gain) * centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPSILON)
            both[i] = both[i] + outputs(taps(system, STEPS)[STEPS - 1 :], form, u)
    return float(np.linalg.norm(both[0] - both[1]))


def test_deep_bound_holds_on_200_random_networks() -> None:
    """Residual networks of LQO blocks behind layer normalisation: the class it is claimed for."""

    def bound(blocks: list[Any]) -> Any:
        made = []
        for full, reduced, form, gain in blocks:
            constants = layer_norm_constants(gain, jnp.zeros(H), epsilon=EPSILON, steps=STEPS)
            made.append(Block(LQO(full, form), reduced, *constants))
        return deep_bound(made, steps=STEPS)

    networks = [random_blocks(seed) for seed in range(200)]
    # Not vmap: batched eigenvalue problems side by side may wait for each other for ever where there are few cores.
    bounds = jax.jit(partial(jax.lax.map, bound))
    found = bounds(jax.tree.map(lambda *x: jnp.stack(x), *(blocks for blocks, _ in networks)))
    tightest = 0.0
    for i, (blocks, rng) in enumerate(networks):
        error = measured_error(blocks, rng.normal(size=(STEPS, H)) * 10 ** rng.uniform(-1, 1))
        assert error <= float(found.value[i])
        tightest = max(tightest, error / float(found.value[i]))
    assert tightest > 1e-3  # a bound that is never near would hold with a factor lost
    assert np.all(found.kappa > 1)
    np.testing.assert_allclose(found.value, np.sum(np.asarray(found.weights) * np.asarray(found.errors), axis=1))


def test_block_constants_hold_on_inputs_chosen_to_reach_them() -> None:
    """The input whose output at the last step is moved most, found by ascent along the gradient."""
    rng = np.random.default_rng(40)
    (full, reduced, form, _), *_ = random_blocks(40)[0]
    h, hr = (taps(s, STEPS)[STEPS - 1 :] for s in (full, reduced))
    radius = 2.0
    block = Block(LQO(full, form), reduced, jnp.asarray(radius), jnp.asarray(1.0))
    found = jax.jit(partial(deep_bound, steps=STEPS))([block])
    u = rng.normal(size=(STEPS, H))
    ascent = jax.jit(jax.grad(lambda x: jnp.sum((_last(h, form, x) - _last(hr, form, x)) ** 2)))
    for _ in range(30):
        u = np.asarray(ascent(jnp.asarray(u)))
        u = u * (radius / np.linalg.norm(u))
    reached = np.linalg.norm(_last(h, form, jnp.asarray(u)) - _last(hr, form, jnp.asarray(u)))
    at_one_time = float(found.errors[0]) * np.sqrt(radius**2 + radius**4)
    assert 0.1 * at_one_time < reached <= at_one_time
    near = u + 1e-5 * rng.normal(size=u.shape)
    slope = np.linalg.norm(outputs(h, form, u) - outputs(h, form, near)) / np.linalg.norm(u - near)
    assert slope <= float(found.kappa[0]) - 1


def _last(h: np.ndarray, form: Any, u: jax.Array) -> jax.Array:
    v = jnp.einsum("kab,kb->a", h[: len(u)], u[::-1])
    L, forms = dense_forms(form)
    return L @ v + jnp.stack([v @ N @ v for N in forms])


def test_amplification_is_what_small_noise_becomes() -> None:
    """Simulated: the block's response to white noise of deviation 1e-3 on top of its own white input."""
    rng = np.random.default_rng(41)
    layer = layer_of(rng, radius=0.6)
    assert layer.gate is not None
    layer = dataclasses.replace(layer, gate=dataclasses.replace(layer.gate, scale=jnp.asarray([0.5, 2.0, 1.0])))
    full = lqo(layer, coefficients="taylor")
    kappa = amplifications([layer], [full])[0]
    h = white_taps(layer.system, dataclasses.replace(layer.gate, gain=jnp.ones(H)), 40)[39:]
    L, forms = dense_forms(full.form)

    def run(u: np.ndarray) -> np.ndarray:
        v = sum(np.roll(u, k, axis=0) @ tap.T for k, tap in enumerate(h))
        return v @ L.T + np.stack([np.einsum("ta,ab,tb->t", v, N, v) for N in forms], axis=1)

    noise = rng.normal(size=(2, 40_000, H))
    u = noise[0] * np.asarray(layer.gate.gain)
    moved = run(u + 1e-3 * noise[1] * np.asarray(layer.gate.scale)) - run(u)
    assert kappa**2 == pytest.approx(1 + np.mean(moved**2) / 1e-6, rel=0.05)
    np.testing.assert_allclose(bound_weights(np.array([5.0, 2.0, 3.0])), [6, 3, 1])


# ---- the LQO form against the block


def test_predicted_error_ranks_reduced_layers_as_the_block_does() -> None:
    """White sequences through the gate itself: rank correlations of the predicted error with what is measured."""
    rng = np.random.default_rng(50)
    layer = layer_of(rng, "half_glu1", p=8)
    assert layer.gate is not None
    full = lqo(layer)
    linear_part = LQO(full.linear, full.form._replace(L=jnp.eye(H)))
    u = rng.normal(size=(4000, H))
    mean = (
        np.asarray(layer.gate.offset)
        @ white_taps(layer.system, dataclasses.replace(layer.gate, gain=jnp.ones(H)), LONG).sum(0).T
    )

    @partial(jax.jit)
    def gate(v: jax.Array) -> jax.Array:
        assert layer.gate is not None and layer.gate.W2 is not None
        g = jax.nn.gelu(v)
        return g * jax.nn.sigmoid(g @ layer.gate.W2.T + layer.gate.b2)

    def block(linear: ModalSystem) -> np.ndarray:
        h = taps(linear, LONG)[LONG - 1 :]
        return np.asarray(gate(jnp.asarray(mean + sum(np.roll(u, k, axis=0) @ tap.T for k, tap in enumerate(h)))))

    reference = block(full.linear)
    measured, predicted, linear = [], [], []
    for _ in range(24):
        kept = np.sort(rng.choice(8, 5, replace=False))
        log_a, B, C, D = full.linear
        reduced = ModalSystem(log_a[kept], B[kept], C[:, kept], D)
        measured.append(np.linalg.norm(block(reduced) - reference) / np.linalg.norm(reference - reference.mean(0)))
        predicted.append(float(relative_error(full, reduced)))
        linear.append(float(relative_error(linear_part, reduced, weight=0.0)))
    quadratic, plain = (float(spearmanr(x, measured).statistic) for x in (predicted, linear))
    print(f"rank correlation: LQO {quadratic:.3f}, linear h2 {plain:.3f}")
    assert quadratic > 0.9
    assert quadratic > plain
