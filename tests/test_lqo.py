"""The LQO form of a layer and its norms, against double sums over impulse responses and automatic Hessians."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lqo_layers import (
    ACTIVATIONS,
    LONG,
    H,
    P,
    dense_forms,
    double_sum,
    gate_of,
    layer_of,
    table,
    taps,
    white_taps,
)
from modal_systems import dense
from scipy.linalg import solve_discrete_lyapunov
from systems import random_system

from s5c.errors import UserError
from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer
from s5c.reduction.quadratic import (
    LQO,
    covariances,
    for_balancing,
    lqo,
    output_covariance,
    quadratic_form,
    relative_error,
    squared_norm,
    white,
)
from s5c.ssm.modal import ModalSystem, from_ssm
from s5c.ssm.system import stack

activations = pytest.mark.parametrize("activation", ACTIVATIONS)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@partial(jax.jit, static_argnames=("horizon", "weight"))
def norm_of(full: LQO, *, horizon: int | None = None, weight: float = 1.0) -> jax.Array:
    return squared_norm(full.form, output_covariance(full.linear, full.linear, horizon=horizon), weight=weight)


def error_of(full: LQO, reduced: ModalSystem, *, horizon: int | None = None) -> float:
    return float(relative_error(full, reduced, horizon=horizon) ** 2 * norm_of(full, horizon=horizon))


# ---- norms


CASES = [("gelu", False, None), ("half_glu1", False, None), ("half_glu2", True, None), ("full_glu", True, None),
         ("full_glu", True, 5)]  # fmt: skip


@pytest.mark.parametrize(("activation", "bidirectional", "horizon"), CASES)
def test_norm_and_error_norm_equal_double_impulse_sums(
    activation: str, bidirectional: bool, horizon: int | None
) -> None:
    """Taylor coefficients by the formula of each gate, kernels at every pair of lags, parameters as they are stored."""
    rng = np.random.default_rng(1)
    layer = layer_of(rng, activation, bidirectional=bidirectional)
    smaller = random_system(rng, 2, H, bidirectional=bidirectional, radius=0.85)
    assert layer.gate is not None
    full, reduced = lqo(layer, coefficients="taylor"), white(from_ssm(smaller), layer.gate)
    h, hr = (white_taps(system, layer.gate, horizon or LONG) for system in (layer.system, smaller))
    assert float(norm_of(full, horizon=horizon)) == pytest.approx(double_sum(*table(layer.gate), h), rel=1e-11)
    assert error_of(full, reduced, horizon=horizon) == pytest.approx(double_sum(*table(layer.gate), h, hr), rel=1e-11)


def test_without_the_quadratic_part_the_norm_is_the_linear_h2_norm() -> None:
    full = lqo(layer_of(np.random.default_rng(2)))
    A, B, C, D = dense(jax.tree.map(np.asarray, full.linear))
    P_ = solve_discrete_lyapunov(A, B @ B.T)
    L = np.asarray(full.form.L)
    first = L @ (C @ B + D)
    expected = np.sum(first**2) + np.trace(L @ C @ A @ P_ @ A.T @ C.T @ L.T)
    assert float(norm_of(full, weight=0.0)) == pytest.approx(expected, rel=1e-12)
    plain = full.form._replace(**{name: 0 * getattr(full.form, name) for name in "FGK"})
    assert float(norm_of(LQO(full.linear, plain))) == pytest.approx(expected, rel=1e-12)


def test_feedthrough_is_states_with_pole_zero() -> None:
    full = lqo(layer_of(np.random.default_rng(3), "full_glu", bidirectional=True), coefficients="taylor")
    log_a, B, C, D = full.linear
    # A real pole is stored with half its output; a = exp(-300) is zero for any purpose.
    states = ModalSystem(
        jnp.concatenate([log_a, jnp.full(H, -300 + 0j)]),
        jnp.concatenate([B, jnp.eye(H)]),
        jnp.concatenate([C, D / 2], axis=1),
        0 * D,
    )
    assert float(norm_of(LQO(states, full.form))) == pytest.approx(float(norm_of(full)), rel=1e-13)
    assert error_of(full, states) == pytest.approx(0, abs=1e-12 * float(norm_of(full)))


def test_relative_error_survives_a_layer_without_output() -> None:
    layer = layer_of(np.random.default_rng(4))
    silent = dataclasses.replace(layer.system, C=0 * layer.system.C, D=0 * layer.system.D)
    full = lqo(dataclasses.replace(layer, system=silent))
    assert float(relative_error(full, full.linear)) == 0


def test_gradient_of_the_error_agrees_with_finite_differences() -> None:
    rng = np.random.default_rng(5)
    full, start = lqo(layer_of(rng)), from_ssm(random_system(rng, 2, H, radius=0.85))

    def error(x: dict[str, Any]) -> Any:
        log_a = jax.lax.complex(-jnp.exp(x["nu"]), x["theta"])
        B, C = (jax.lax.complex(*x[name]) for name in "BC")
        return relative_error(full, ModalSystem(log_a, B, C, start.D)) ** 2

    point = {"nu": jnp.log(-start.log_a.real), "theta": start.log_a.imag}
    point |= {name: jnp.stack([getattr(start, name).real, getattr(start, name).imag]) for name in "BC"}
    gradient = jax.grad(error)(point)
    for name, value in point.items():
        along = jnp.asarray(rng.normal(size=value.shape))
        ahead, behind = (float(error({**point, name: value + step * along})) for step in (1e-5, -1e-5))
        assert float(jnp.sum(gradient[name] * along)) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


def test_balanced_system_has_the_observability_gramian_of_the_lqo_form() -> None:
    """Q = A^T Q A + C^T L^T L C + sum_i M_i P M_i, with every M_i formed."""
    full = lqo(layer_of(np.random.default_rng(6)))
    full = full._replace(linear=full.linear._replace(D=0 * full.linear.D))
    A, B, C, _ = dense(jax.tree.map(np.asarray, full.linear))
    L, forms = dense_forms(full.form)
    P_ = solve_discrete_lyapunov(A, B @ B.T)
    inner = C.T @ L.T @ L @ C + sum((M := C.T @ N @ C) @ P_ @ M for N in forms)
    balanced = dense(jax.tree.map(np.asarray, for_balancing(full)))[2]
    found, expected = (solve_discrete_lyapunov(A.T, X) for X in (balanced.T @ balanced, inner))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


# ---- coefficients


def gate_function(gate: Gate, v: jax.Array) -> jax.Array:
    """The gate of `s5c.model.block` with the exact gelu."""
    g = jax.nn.gelu(v, approximate=False)
    value = {"half_glu2": v, "full_glu": gate.W1 @ g + gate.b1}.get(gate.activation, g)
    return value if gate.activation == "gelu" else value * jax.nn.sigmoid(gate.W2 @ g + gate.b2)


@activations
def test_taylor_coefficients_are_jacobian_and_half_hessian(activation: str) -> None:
    rng = np.random.default_rng(7)
    gate, mean = gate_of(rng, activation), jnp.asarray(rng.normal(size=H))
    for at in (jnp.zeros(H), mean):
        L, forms = dense_forms(quadratic_form(gate, at[None]))
        np.testing.assert_allclose(L, jax.jacobian(partial(gate_function, gate))(at), atol=1e-12)
        np.testing.assert_allclose(forms, jax.hessian(partial(gate_function, gate))(at) / 2, atol=1e-12)


@activations
def test_statistical_coefficients_are_mean_jacobian_and_hessian(activation: str) -> None:
    """The linear part and, for gelu, all of it exactly; of a gate's Hessian a product of means is left out."""
    rng = np.random.default_rng(8)
    gate = gate_of(rng, activation, weights=0.5)
    samples = jnp.asarray(0.5 * rng.normal(size=H) + rng.normal(size=(200, H)) @ rng.normal(size=(H, H)) / 2)
    function = partial(gate_function, gate)
    jacobian, hessian = (
        np.asarray(jax.vmap(derivative(function))(samples)).mean(0) for derivative in (jax.jacobian, jax.hessian)
    )
    L, forms = dense_forms(quadratic_form(gate, samples))
    np.testing.assert_allclose(L, jacobian, atol=1e-12)
    _, taylor = dense_forms(quadratic_form(gate, jnp.zeros((1, H))))
    error, of_taylor = (np.linalg.norm(np.stack(N) - hessian / 2) for N in (forms, taylor))
    assert error < (1e-12 if activation == "gelu" else 0.15 * np.linalg.norm(hessian / 2))
    assert error < 0.4 * of_taylor


def test_expansion_at_zero_is_the_limit_of_small_noise() -> None:
    layer = layer_of(np.random.default_rng(9))
    assert layer.gate is not None
    small = dataclasses.replace(layer.gate, gain=1e-5 * layer.gate.gain, offset=1e-7 * layer.gate.offset)
    layer = dataclasses.replace(layer, gate=small)
    forms = [lqo(layer, coefficients=name).form for name in ("taylor", "statistical")]
    for taylor, statistical in zip(*forms, strict=True):
        np.testing.assert_allclose(taylor, statistical, atol=1e-5)


def test_mean_and_amplitude_come_from_the_normalisation() -> None:
    """A long noisy run, simulated tap by tap: gain sets the deviation of the outputs, offset their mean."""
    rng = np.random.default_rng(10)
    layer = layer_of(rng, "gelu", radius=0.6)
    assert layer.gate is not None
    u = np.asarray(layer.gate.gain) * rng.normal(size=(100_000, H)) + np.asarray(layer.gate.offset)
    h = white_taps(layer.system, dataclasses.replace(layer.gate, gain=jnp.ones(H)), 40)[39:]
    v = sum(np.roll(u, k, axis=0) @ tap.T for k, tap in enumerate(h))
    slope = jax.vmap(jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False))))(jnp.asarray(v))
    np.testing.assert_allclose(np.diagonal(lqo(layer).form.L), np.asarray(slope).mean(0), atol=0.02)


# ---- what has no LQO form


def test_layers_with_a_system_per_channel_are_refused() -> None:
    rng = np.random.default_rng(11)
    layer = Layer(stack([random_system(rng, P, 1) for _ in range(H)]), gate=gate_of(rng, "gelu"))
    with pytest.raises(UserError, match="S4D, DSS"):
        lqo(layer)


def test_layers_without_a_known_gate_are_refused() -> None:
    layer = layer_of(np.random.default_rng(12))
    assert layer.gate is not None
    with pytest.raises(UserError, match="without one"):
        lqo(dataclasses.replace(layer, gate=None))
    with pytest.raises(UserError, match="relu"):
        lqo(dataclasses.replace(layer, gate=dataclasses.replace(layer.gate, activation="relu")))


def test_covariances_are_those_of_the_taps() -> None:
    rng = np.random.default_rng(13)
    a, b = (from_ssm(random_system(rng, p, H, bidirectional=True, radius=0.85)) for p in (P, 2))
    h, hr = taps(a, LONG), taps(b, LONG)
    for found, (x, y) in zip(covariances(a, b), ((h, h), (h, hr), (hr, hr)), strict=True):
        np.testing.assert_allclose(found, np.einsum("kam,kbm->ab", x, y), rtol=0, atol=1e-11 * np.abs(found).max())


def test_a_gate_that_is_never_between_open_and_shut_is_linear() -> None:
    """Its slope is zero in double precision: shut it puts nothing out, open what it is given."""
    v = 3.0 + jnp.abs(jnp.asarray(np.random.default_rng(0).normal(size=(50, 2))))
    with jax.enable_x64(True):
        for bias, L in ((-2000.0, 0.0), (2000.0, 1.0)):
            gate = Gate("half_glu2", W2=jnp.eye(2), b2=jnp.full(2, bias))
            form = quadratic_form(gate, jnp.asarray(v, jnp.float64))
            np.testing.assert_allclose(form.L, L * np.eye(2), atol=1e-12)
            assert all(np.isfinite(part).all() for part in form)
            np.testing.assert_array_equal(form.G, 0)
