"""H2-optimal reduction: its function against the error it stands for, its search against scipy's."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impulse import energy, impulse_response, relative_error
from scipy.optimize import minimize, rosen
from systems import random_system

from s5c.errors import UserError
from s5c.reduction.contract import Fitted, ReducedLayer, load_method
from s5c.reduction.descent import descend
from s5c.reduction.energy import parts_of
from s5c.reduction.layer import Layer
from s5c.reduction.method.h2 import Method, Search
from s5c.reduction.projection import Start, Variables, at, squared_error, target_of, variables
from s5c.reduction.refit.h2 import Refit
from s5c.ssm.modal import from_ssm
from s5c.ssm.system import DiagonalSSM, stack

P, R, H, LONG, SHORT = 5, 2, 2, 700, 9
both = pytest.mark.parametrize("bidirectional", [False, True])


def make(seed: int, bidirectional: bool = False, p: int = P, h: int = H) -> DiagonalSSM:
    return random_system(np.random.default_rng(seed), p, h, bidirectional=bidirectional, radius=0.95)


def changed(system: DiagonalSSM, **arrays: np.ndarray) -> DiagonalSSM:
    with jax.enable_x64(True):
        return dataclasses.replace(system, **{name: jnp.asarray(value) for name, value in arrays.items()})


# ---- the function


def problem(full: DiagonalSSM, start: DiagonalSSM, horizon: int | None) -> tuple[Any, Variables, Start]:
    """Returns the function of the variables, compiled, and where it starts; call inside enable_x64."""
    target = target_of(parts_of(full), horizon=horizon)
    log_a, B, _, _ = from_ssm(start)
    begin = Start(log_a, B @ target.basis, jnp.ones(log_a.shape, bool))
    return (lambda v: squared_error(*at(v, begin), target, horizon=horizon)), variables(begin), begin


@pytest.mark.few(1)
@pytest.mark.parametrize(("h", "bidirectional", "horizon"), [(1, True, None), (2, False, SHORT), (14, True, None)])
def test_it_is_the_error_with_the_best_outputs(h: int, bidirectional: bool, horizon: int | None) -> None:
    """With 14 features there are more than 2P, and inputs and outputs are compressed."""
    full, start = make(0, bidirectional, h=h), make(1, bidirectional, p=R, h=h)
    if h > 2 * P:  # inputs that the full layer does not have are not seen after the compression, and no search has them
        mixed = np.random.default_rng(2).normal(size=(R, P)) @ np.asarray(full.B)
        start = changed(start, B=mixed)
    silent = changed(full, D=np.zeros(h))
    refit = Refit(feedthrough=False, horizon="sequence" if horizon else "infinite")
    best = refit(Layer(silent, horizon), changed(start, D=np.zeros(h)))
    with jax.enable_x64(True):
        function, begin, _ = problem(full, start, horizon)
        found = float(jax.jit(function)(begin))
    np.testing.assert_allclose(np.sqrt(found), relative_error(silent, best, horizon or LONG), rtol=1e-8)


@both
def test_its_gradient_is_that_of_finite_differences(bidirectional: bool) -> None:
    full, start = make(2, bidirectional), make(3, bidirectional, p=R)
    with jax.enable_x64(True):
        function, begin, _ = problem(full, start, None)
        flat, back = jax.flatten_util.ravel_pytree(begin)
        value = jax.jit(lambda x: function(back(x)))
        gradient = jax.jit(jax.grad(lambda x: function(back(x))))(flat)
        for direction in np.random.default_rng(0).normal(size=(4, flat.size)):
            slope = (value(flat + 1e-5 * direction) - value(flat - 1e-5 * direction)) / 2e-5
            np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6, atol=1e-9)


def test_wherever_it_goes_it_is_stable() -> None:
    with jax.enable_x64(True):
        log_a, B, _, _ = from_ssm(make(0))
        start = Start(log_a, B, jnp.arange(P) != 3)
        far = jax.tree.map(
            lambda x: x + np.linspace(-900, 6, P)[:, None].reshape(P, *(1,) * (x.ndim - 1)) if x.ndim == 1 else x,
            variables(start),
        )
        found, inputs = at(far, start)
        begin, same = at(variables(start), start)
    assert (np.abs(np.exp(found)) <= 1 - 0.99e-6).all()
    np.testing.assert_array_equal(np.asarray(inputs)[3], 0)
    kept = np.array([0, 1, 2, 4])
    np.testing.assert_allclose(begin[kept], log_a[kept], rtol=1e-12)
    directions = np.asarray(same / B)[kept]
    np.testing.assert_allclose(directions, directions[:, :1] * np.ones(H), rtol=1e-12)  # rows are scaled, not turned


# ---- the search


def test_descent_finds_the_minimum_that_scipy_finds() -> None:
    starts = np.array([[-1.2, 1.0], [0.0, 3.0], [2.0, -1.0]])
    valley = lambda x: 1e-6 + (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2  # noqa: E731
    with jax.enable_x64(True):
        search = jax.jit(jax.vmap(partial(descend, valley, optimiser="lbfgs", evaluations=300)))
        found = search(jnp.asarray(starts))
        alone = jax.jit(partial(descend, valley, optimiser="lbfgs", evaluations=300))(jnp.asarray(starts[0]))
    np.testing.assert_allclose(found.parameters, np.ones((3, 2)), atol=1e-3)
    assert (np.asarray(found.evaluations) < 150).all()
    assert minimize(rosen, starts[0], jac=False, method="L-BFGS-B").fun + 1e-6 > found.value[0] * (1 - 1e-3)
    np.testing.assert_allclose(alone.parameters, found.parameters[0], rtol=1e-12)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_descent_is_never_worse_than_its_start(optimiser: str) -> None:
    """A function that is no number to the left of its minimum, and one that rises wherever one looks."""
    with jax.enable_x64(True):
        search = partial(descend, optimiser=optimiser, evaluations=200, learning_rate=0.1)
        cliff = search(lambda x: jnp.sum(x + 1 / x - 2 + jnp.log(x) * 0) + 1, jnp.array([4.0]))
        tip = search(lambda x: 1 + jnp.sum(jnp.abs(x)), jnp.array([0.0]))
    np.testing.assert_allclose(cliff.value, 1, atol=2e-3)
    assert tip.value == 1 and tip.parameters[0] == 0


def reduced(layers: list[Layer], orders: list[Any], **options: Any) -> tuple[list[DiagonalSSM], Fitted]:
    fitted = Method(**options).fit(layers, 0)
    found: list[ReducedLayer] = fitted.reduce([np.array(order) for order in orders])
    assert all(r.bound is None and not r.notes for r in found)
    return [r.system for r in found], fitted


def poles(system: DiagonalSSM) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(system.discretise()[0])


def starts_of(fitted: Any, counts: list[int], width: int) -> list[DiagonalSSM]:
    """Returns both starts of every system, one system after the other."""
    assert isinstance(fitted, Search)
    with jax.enable_x64(True):
        made = [make(np.array(counts), width) for make in (fitted._modes, fitted._balanced)]
    return [jax.tree.map(lambda x, i=i: x[i], both) for i in range(len(counts)) for both in made]


@pytest.mark.slow
def test_it_beats_elimination_and_balanced_truncation() -> None:
    layers = [Layer(make(seed, bidirectional=True)) for seed in (0, 1)]
    found, fitted = reduced(layers, [2, 2], feedthrough=False)
    starts = starts_of(fitted, [2, 2], 2)
    refit = Refit(feedthrough=False)
    for i, (layer, system) in enumerate(zip(layers, found, strict=True)):
        assert system.state_dim == 2 and (np.abs(poles(system)) < 1).all()
        bests = [relative_error(layer.system, refit(layer, s), LONG) for s in starts[2 * i : 2 * i + 2]]
        end = relative_error(layer.system, system, LONG)
        assert end < 0.995 * min(bests)
        np.testing.assert_allclose(relative_error(layer.system, refit(layer, system), LONG), end, rtol=1e-9)


@pytest.mark.slow
def test_all_orders_of_a_network_with_a_layer_shorter_than_the_others() -> None:
    """And whose long layer has an unstable mode, which stays as it is."""
    long, short = make(2, bidirectional=True), make(3, bidirectional=True, p=3)
    Lambda = np.array(long.Lambda)
    Lambda[1] = 0.1 + 2j
    layers = [Layer(changed(long, Lambda=Lambda)), Layer(short)]
    found, fitted = reduced(layers, [2, 1])
    assert [s.shape for s in fitted.scores] == [(P,), (3,)]
    assert np.isinf(fitted.scores[0][0]) and np.isfinite(fitted.scores[0][1:]).all()
    assert all((np.diff(s) <= 0).all() for s in fitted.scores)
    assert [s.state_dim for s in found] == [2, 1]
    np.testing.assert_allclose(poles(found[0])[np.abs(poles(found[0])) >= 1], poles(layers[0].system)[1], rtol=1e-12)
    # Both full: the layers themselves.
    for layer, system in zip(layers, (r.system for r in fitted.reduce([np.array(P), np.array(3)])), strict=True):
        np.testing.assert_allclose(impulse_response(system, 5), impulse_response(layer.system, 5), rtol=1e-9, atol=1e-9)
    with pytest.raises(UserError, match=r"Unstable pole in layer 0, state 1: .* choose unstable=\"keep\""):
        Method(unstable="refuse").fit(layers, 0)


def one_pair_error(full: DiagonalSSM, x: np.ndarray) -> float:
    """Returns the squared error of one pair of poles with the best outputs and D, by least squares on the taps."""
    taps = impulse_response(full, LONG)[LONG:, 0, 0]  # lag 0 is free: D
    k = np.arange(1, LONG)
    response = np.exp((-np.exp(x[0]) + 1j * x[1]) * k)
    matrix = np.stack([response.real, response.imag], axis=1)
    return energy(taps - matrix @ np.linalg.lstsq(matrix, taps, rcond=None)[0])


@pytest.mark.slow
def test_one_pair_per_channel_is_the_global_optimum() -> None:
    """Against a search over the whole half plane of poles, refined by scipy."""
    singles = [make(seed, h=1) for seed in (4, 5, 6)]
    with jax.enable_x64(True):
        layer = Layer(stack(singles))
    found, fitted = reduced([layer], [np.array([1, 1, 0])])
    assert found[0].C.shape == (3, 1, 1)
    assert fitted.scores[0].shape == (3, P)
    for i, single in enumerate(singles[:2]):
        grid = [np.array([nu, angle]) for nu in np.linspace(-5, 1, 13) for angle in np.linspace(0.02, 3.1, 40)]
        start = min(grid, key=lambda x, s=single: one_pair_error(s, x))
        best = minimize(lambda x, s=single: one_pair_error(s, x), start, method="Nelder-Mead", tol=1e-10).fun
        alone = jax.tree.map(lambda x, i=i: x[i], found[0])
        error = energy(impulse_response(single, LONG) - impulse_response(alone, LONG))
        np.testing.assert_allclose(error, best, rtol=1e-6)
    # A channel that got no slot is its feedthrough alone, the best one.
    silent = jax.tree.map(lambda x: x[2], found[0])
    np.testing.assert_array_equal(np.asarray(silent.C), 0)
    np.testing.assert_allclose(silent.D, impulse_response(singles[2], 1)[0, 0], rtol=1e-9)


@pytest.mark.slow
def test_adam_on_the_length_of_the_sequences() -> None:
    single = make(7, h=1)
    with jax.enable_x64(True):
        layer = Layer(stack([single]), horizon=SHORT)
    found, fitted = reduced([layer], [np.array([R])], optimiser="adam", steps=100, horizon="sequence")
    bests = [
        relative_error(single, Refit(horizon="sequence")(Layer(single, SHORT), s), SHORT)
        for s in starts_of(fitted, [R], R)
    ]
    end = relative_error(single, jax.tree.map(lambda x: x[0], found[0]), SHORT)
    assert end < 0.9 * min(bests)


def test_wrong_options_are_refused() -> None:
    assert load_method("h2") == Method()
    with pytest.raises(UserError, match=r"(?s)reduction.optimiser 'lbfg'.*nearest first: lbfgs, adam"):
        Method(optimiser="lbfg")
    with pytest.raises(UserError, match=r"reduction.steps=0, .* at least one step"):
        Method(steps=0)
    with pytest.raises(UserError, match=r"reduction.horizon=sequence: the length"):
        Method(horizon="sequence").fit([Layer(make(0))], 0)
