"""The sequence operator, every backend, against a loop in double precision."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systems import complex_normal, simulate

from s5c.errors import UserError
from s5c.ssm.backend import blocked
from s5c.ssm.call import Shape
from s5c.ssm.operator import (
    LIFTED_FEATURES,
    available_backends,
    diagonal_ssm,
    is_causal,
    resolve_backend,
    why_unavailable,
)
from s5c.ssm.precision import PRECISIONS

BATCH, FEATURES, OUT = 3, 4, 2
BACKENDS = [name for name in available_backends() if why_unavailable(name, "cpu") is None]
CAUSAL = [name for name in BACKENDS if is_causal(name)]
VARIANTS = ("forward", "reverse", "forward_x0", "reverse_x0", "bidirectional")


def arguments(rng: np.random.Generator, length: int, p: int, variant: str, radius: float = 0.999) -> dict[str, Any]:
    """Returns single-precision arguments of `diagonal_ssm`, without `reverse` and `backend`."""
    drawn: dict[str, Any] = {
        "u": rng.normal(size=(BATCH, length, FEATURES)),
        "Lambda_bar": rng.uniform(0.3, radius, p) * np.exp(1j * rng.uniform(-3, 3, p)),
        "B_bar": complex_normal(rng, p, FEATURES),
        "C": complex_normal(rng, OUT, p),
    }
    if variant == "bidirectional":
        drawn["C_backward"] = complex_normal(rng, OUT, p)
    if variant.endswith("x0"):
        drawn["x0"] = complex_normal(rng, BATCH, p)
    return {name: v.astype(np.complex64 if np.iscomplexobj(v) else np.float32) for name, v in drawn.items()}


@cache
def compiled(backend: str, reverse: bool = False) -> Callable[..., Any]:
    return jax.jit(lambda kwargs: diagonal_ssm(**kwargs, reverse=reverse, backend=backend))


@cache
def compiled_with_state(backend: str, reverse: bool) -> Callable[..., Any]:
    return jax.jit(lambda kwargs: diagonal_ssm(**kwargs, reverse=reverse, backend=backend, return_state=True))


def run(backend: str, kwargs: dict[str, Any], reverse: bool = False) -> np.ndarray:
    return np.asarray(compiled(backend, reverse)(kwargs))


def assert_close(ours: Any, expected: np.ndarray, tolerance: float, what: str = "") -> None:
    """Compares relative to the largest expected element."""
    assert np.shape(ours) == expected.shape, what
    assert np.abs(np.asarray(ours) - expected).max() <= tolerance * np.abs(expected).max(), what


# ---- values and gradients


@pytest.mark.few(6)
@pytest.mark.parametrize("p", [1, 5])
@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_equal_the_loop(backend: str, length: int, p: int, rng: np.random.Generator) -> None:
    kwargs = {variant: arguments(rng, length, p, variant) for variant in VARIANTS}

    @jax.jit  # one program for all variants: compiling is what this test spends its time on
    def all_variants(kwargs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {v: diagonal_ssm(**k, reverse=v.startswith("reverse"), backend=backend) for v, k in kwargs.items()}

    for variant, y in all_variants(kwargs).items():
        assert y.dtype == jnp.float32
        expected = simulate(**kwargs[variant], reverse=variant.startswith("reverse"))
        assert_close(y, expected, 5e-6, variant)


@pytest.mark.few(1)
@pytest.mark.parametrize("length", [7, 8, 9, 23, 24])
def test_blocks_are_cut_and_joined_without_a_trace(
    length: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths below, at and around multiples of the block: values and gradients, starting states included."""
    monkeypatch.setattr(blocked, "BLOCK", 8)
    kwargs = {variant: arguments(rng, length, 3, variant) for variant in VARIANTS}
    weight = rng.normal(size=(BATCH, length, OUT)).astype(np.float32)

    def loss(kwargs: dict[str, dict[str, Any]], backend: str) -> tuple[jax.Array, dict[str, jax.Array]]:
        y = {v: diagonal_ssm(**k, reverse=v.startswith("reverse"), backend=backend) for v, k in kwargs.items()}
        return sum(jnp.sum(weight * values) for values in y.values()), y

    differentiate = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    gradients, y = differentiate(kwargs, "blocked")
    expected, _ = differentiate(kwargs, "sequential")  # itself compared with finite differences below
    for variant in VARIANTS:
        assert_close(y[variant], simulate(**kwargs[variant], reverse=variant.startswith("reverse")), 5e-6, variant)
        for name, gradient in gradients[variant].items():
            assert_close(gradient, np.asarray(expected[variant][name]), 5e-6, f"{variant}: {name}")


@pytest.mark.few(4)
@pytest.mark.parametrize(("length", "tolerance"), [(1024, 5e-6), (16384, 1e-5)])
@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sequences_keep_their_precision(
    backend: str, stress: bool, length: int, tolerance: float, rng: np.random.Generator
) -> None:
    """Also where every mode hardly decays (time constant 100,000 steps) and turns by up to pi a step."""
    kwargs = arguments(rng, length, 4, "bidirectional", radius=0.99999)
    if stress:
        kwargs["Lambda_bar"] = np.exp(-1e-5 + 1j * rng.uniform(0, 3.1, 4)).astype(np.complex64)
    assert_close(run(backend, kwargs), simulate(**kwargs), 1e-4 if stress else tolerance)


def finite_differences(f: Callable[[dict[str, Any]], float], at: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the gradient of `f` element by element, with JAX's sign: df/dRe - i df/dIm."""
    gradients = {}
    for name, value in at.items():
        value = value.astype(complex if np.iscomplexobj(value) else float)
        gradient = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            for direction in (1, 1j) if np.iscomplexobj(value) else (1,):
                moved = [value.copy(), value.copy()]
                for m, step in zip(moved, (1e-6, -1e-6), strict=True):
                    m[index] += step * direction
                slope = (f({**at, name: moved[0]}) - f({**at, name: moved[1]})) / 2e-6
                gradient[index] += slope * np.conj(direction)
        gradients[name] = gradient
    return gradients


@pytest.mark.few(1)
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("variant", ["forward_x0", "reverse_x0", "bidirectional"])
def test_gradients_equal_finite_differences_of_the_loop(variant: str, length: int, rng: np.random.Generator) -> None:
    kwargs, reverse = arguments(rng, length, 3, variant), variant.startswith("reverse")
    weight = rng.normal(size=(BATCH, length, OUT)).astype(np.float32)
    expected = finite_differences(lambda k: float(np.sum(weight * simulate(**k, reverse=reverse))), kwargs)
    for backend in BACKENDS:
        call = compiled(backend, reverse)
        ours = jax.jit(jax.grad(lambda k, call=call: jnp.sum(weight * call(k))))(kwargs)
        for name in kwargs:
            assert_close(ours[name], expected[name], 2e-5, f"{backend}: {name}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_inputs_give_half_precision_outputs(backend: str, rng: np.random.Generator) -> None:
    kwargs = arguments(rng, 17, 5, "bidirectional")
    kwargs["u"] = jnp.asarray(kwargs["u"], jnp.bfloat16)
    y = compiled(backend)(kwargs)
    assert y.dtype == jnp.bfloat16
    # Only the inputs, the input matrix and the result are rounded to 8 bits, not the states that add up over time.
    expected = simulate(**{**kwargs, "u": np.asarray(kwargs["u"], np.float32)})
    assert_close(y.astype(jnp.float32), expected, 2e-2)


# ---- properties

seeds = st.integers(0, 2**32 - 1)
radii = st.floats(0.31, 0.9999)
factors = st.floats(0.125, 5) | st.floats(-5, -0.125) | st.just(0.0)  # no denormal products, which a CPU flushes
properties = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.mark.parametrize("backend", BACKENDS)
@properties
@given(seed=seeds, radius=radii, scales=st.tuples(factors, factors))
def test_the_operator_is_linear(backend: str, seed: int, radius: float, scales: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    kwargs = arguments(rng, 12, 3, "bidirectional", radius)
    u, v = kwargs["u"], rng.normal(size=kwargs["u"].shape).astype(np.float32)
    a, b = map(np.float32, scales)
    separate = a * run(backend, kwargs) + b * run(backend, {**kwargs, "u": v})
    together = run(backend, {**kwargs, "u": a * u + b * v})
    size = np.abs(run(backend, kwargs)).max() + np.abs(run(backend, {**kwargs, "u": v})).max()
    assert np.abs(together - separate).max() <= 1e-5 * (abs(a) + abs(b)) * size


@pytest.mark.parametrize("backend", BACKENDS)
@properties
@given(seed=seeds, radius=radii)
def test_reversing_time_twice_changes_nothing(backend: str, seed: int, radius: float) -> None:
    kwargs = arguments(np.random.default_rng(seed), 12, 3, "forward_x0", radius)
    expected = run(backend, kwargs)
    flipped = run(backend, {**kwargs, "u": kwargs["u"][:, ::-1]}, reverse=True)[:, ::-1]
    assert_close(flipped, expected, 5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@properties
@given(seed=seeds, radius=radii)
def test_a_bidirectional_call_is_the_sum_of_both_directions(backend: str, seed: int, radius: float) -> None:
    kwargs = arguments(np.random.default_rng(seed), 12, 3, "bidirectional", radius)
    one_way = {name: value for name, value in kwargs.items() if name != "C_backward"}
    both = run(backend, one_way) + run(backend, {**one_way, "C": kwargs["C_backward"]}, reverse=True)
    assert_close(run(backend, kwargs), both, 1e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@properties
@given(seed=seeds, radius=radii, cut=st.sampled_from([1, 5]))
def test_a_sequence_may_be_cut_in_two(backend: str, reverse: bool, seed: int, radius: float, cut: int) -> None:
    kwargs = arguments(np.random.default_rng(seed), 12, 3, "forward_x0", radius)
    parts = [kwargs["u"][:, :cut], kwargs["u"][:, cut:]]
    first, second = reversed(parts) if reverse else parts
    y_first, state = compiled_with_state(backend, reverse)({**kwargs, "u": first})
    y_second = run(backend, {**kwargs, "u": second, "x0": state}, reverse)
    joined = [y_second, y_first] if reverse else [y_first, y_second]
    assert_close(np.concatenate(joined, axis=1), run(backend, kwargs, reverse), 5e-6)


# ---- NaN stays where causality lets it


@pytest.mark.parametrize(("backend", "variant"), itertools.product(CAUSAL, ("forward", "reverse", "bidirectional")))
def test_nan_keeps_to_its_sequence_and_its_future(backend: str, variant: str, rng: np.random.Generator) -> None:
    kwargs, reverse = arguments(rng, 17, 5, variant), variant == "reverse"
    clean = run(backend, kwargs, reverse)
    u = kwargs["u"].copy()
    u[1, 6, 2] = np.nan
    y = run(backend, {**kwargs, "u": u}, reverse)
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])
    reached = {"forward": slice(6, None), "reverse": slice(None, 7), "bidirectional": slice(None)}[variant]
    expected = np.zeros(17, bool)
    expected[reached] = True
    np.testing.assert_array_equal(np.isnan(y[1]), np.repeat(expected[:, None], OUT, axis=1))
    np.testing.assert_array_equal(y[1][~expected], clean[1][~expected])


# ---- the choice of a backend


def test_the_choice_depends_on_platform_and_shape_alone() -> None:
    shape = Shape(batch=4, length=blocked.BLOCK, features=8, state_dim=16, bidirectional=True)
    longer = shape._replace(length=blocked.BLOCK + 1)
    assert resolve_backend("auto", "cpu", shape) == "sequential"
    assert resolve_backend("auto", "cpu", longer) == "blocked"
    for platform in ("gpu", "tpu"):
        assert resolve_backend("auto", platform, shape._replace(length=1)) == "sequential"
        assert resolve_backend("auto", platform, shape._replace(features=LIFTED_FEATURES)) == "lifted"
        assert resolve_backend("auto", platform, shape._replace(features=LIFTED_FEATURES + 1)) == "associative"
    for platform, bidirectional, pruned in itertools.product(("cpu", "gpu", "tpu"), (False, True), (1, 16)):
        chosen = resolve_backend("auto", platform, longer._replace(bidirectional=bidirectional, state_dim=pruned))
        assert why_unavailable(chosen, platform) is None, "what is chosen can run"
    for name in BACKENDS:
        assert resolve_backend(name, "cpu", shape) == name


@pytest.mark.parametrize("name", sorted(set(available_backends()) - set(BACKENDS)))
def test_a_backend_that_cannot_run_here_is_refused_with_the_reason(name: str, rng: np.random.Generator) -> None:
    kwargs = jax.tree.map(jnp.asarray, arguments(rng, 2, 1, "forward"))
    reason = why_unavailable(name, "cpu")
    assert reason
    with pytest.raises(UserError, match=f"The backend '{name}' is not available: ") as caught:
        diagonal_ssm(**kwargs, backend=name)
    assert reason in str(caught.value)


def test_an_unknown_backend_is_an_error_that_names_the_others(rng: np.random.Generator) -> None:
    kwargs = jax.tree.map(jnp.asarray, arguments(rng, 2, 1, "forward"))
    with pytest.raises(UserError, match=r"Unknown backend 'sequentail'.*Did you mean 'sequential'") as caught:
        diagonal_ssm(**kwargs, backend="sequentail")
    assert all(name in str(caught.value) for name in ("auto", *BACKENDS))


@pytest.mark.parametrize("extra", ["x0", "reverse", "return_state"])
def test_a_bidirectional_call_has_no_start_and_no_direction(extra: str, rng: np.random.Generator) -> None:
    kwargs = jax.tree.map(jnp.asarray, arguments(rng, 2, 1, "bidirectional"))
    misuse = {"x0": jnp.zeros((BATCH, 1), jnp.complex64), "reverse": True, "return_state": True}[extra]
    with pytest.raises(ValueError, match="leave reverse, x0 and return_state out"):
        diagonal_ssm(**kwargs, **{extra: misuse})


# ---- precision of the products


def test_tf32_changes_nothing_on_a_cpu_and_bfloat16_rounds_the_products_only(rng: np.random.Generator) -> None:
    kwargs = arguments(rng, 17, 5, "bidirectional")
    exact = simulate(**kwargs)
    y = {
        precision: np.asarray(jax.jit(partial(diagonal_ssm, precision=precision))(**kwargs)) for precision in PRECISIONS
    }
    np.testing.assert_array_equal(y["tf32"], y["float32"])
    assert_close(y["float32"], exact, 5e-6)
    assert_close(y["bfloat16"], exact, 2e-2)
    assert np.abs(y["bfloat16"] - exact).max() > 1e-4 * np.abs(exact).max()
    with pytest.raises(ValueError, match="choose one of float32, tf32, bfloat16"):
        diagonal_ssm(**jax.tree.map(jnp.asarray, kwargs), precision="highest")


@pytest.mark.few(1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_products_leave_states_and_their_gradients_in_float32(backend: str, rng: np.random.Generator) -> None:
    """A mode that hardly decays over 300 steps adds up far more terms than eight bits could count."""
    kwargs = arguments(rng, 300, 3, "forward")
    kwargs["Lambda_bar"] = np.full(3, 0.9999, np.complex64)
    kwargs["u"] = np.ones_like(kwargs["u"])  # the products round the same way at every step
    weight = np.ones((BATCH, 300, OUT), np.float32)

    def loss(kwargs: dict[str, Any], precision: str) -> jax.Array:
        return jnp.sum(weight * diagonal_ssm(**kwargs, backend=backend, precision=precision))

    differentiate = jax.jit(jax.grad(loss), static_argnums=1)
    rounded, exact = differentiate(kwargs, "bfloat16"), differentiate(kwargs, "float32")
    for name, gradient in rounded.items():
        assert gradient.dtype == kwargs[name].dtype
        assert_close(gradient, np.asarray(exact[name]), 2e-2, name)
