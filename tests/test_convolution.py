"""Single-input single-output systems: the kernel, the convolution and the recurrence, against double precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import complex_normal

from s5c.errors import UserError
from s5c.ssm.convolution import convolve, diagonal_siso_ssm, ssm_kernel
from s5c.ssm.powers import power_tables
from s5c.ssm.scan import SCANS, linear_scan

BATCH, CHANNELS, STATES = 2, 3, 4
BACKENDS = ("fft", *SCANS)
VARIANTS = ("forward", "reverse", "forward_x0", "reverse_x0", "bidirectional")


def arguments(rng: np.random.Generator, length: int, n: int, variant: str) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "u": rng.normal(size=(BATCH, length, CHANNELS)),
        "Lambda_bar": rng.uniform(0, 0.999, (CHANNELS, n)) * np.exp(1j * rng.uniform(-3, 3, (CHANNELS, n))),
        "B_bar": complex_normal(rng, CHANNELS, n),
        "C": complex_normal(rng, CHANNELS, n),
    }
    if variant == "bidirectional":
        drawn["C_backward"] = complex_normal(rng, CHANNELS, n)
    if variant.endswith("x0"):
        drawn["x0"] = complex_normal(rng, BATCH, CHANNELS, n)
    return {name: v.astype(np.complex64 if np.iscomplexobj(v) else np.float32) for name, v in drawn.items()}


def loop(
    u: Any, Lambda_bar: Any, B_bar: Any, C: Any, C_backward: Any = None, *, x0: Any = None, reverse: bool = False
) -> np.ndarray:
    """The recurrence step by step in double precision."""
    inputs, a, B = (np.asarray(x).astype(complex) for x in (u, Lambda_bar, B_bar))

    def run(output: Any, steps: range) -> np.ndarray:
        x = np.zeros((len(inputs), *a.shape), complex) if x0 is None else np.asarray(x0, complex)
        y = np.zeros(inputs.shape)
        for k in steps:
            x = a * x + B * inputs[:, k, :, None]
            y[:, k] = 2 * (np.asarray(output, complex) * x).sum(-1).real
        return y

    forward, backward = range(inputs.shape[1]), range(inputs.shape[1] - 1, -1, -1)
    y = run(C, backward if reverse else forward)
    return y if C_backward is None else y + run(C_backward, backward)


def exact_kernel(Lambda_bar: np.ndarray, W: np.ndarray, length: int) -> np.ndarray:
    powers = np.power(Lambda_bar.astype(complex)[..., None], np.arange(length))
    return 2 * (W.astype(complex)[..., None] * powers).sum(1).real


@cache
def compiled(backend: str, reverse: bool) -> Callable[..., Any]:
    return jax.jit(lambda kwargs: diagonal_siso_ssm(**kwargs, reverse=reverse, backend=backend))


def relative(ours: Any, expected: np.ndarray) -> float:
    assert np.shape(ours) == expected.shape
    return float(np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max())


# ---- values


@pytest.mark.few(4)
@pytest.mark.parametrize("n", [1, STATES])
@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_equal_the_loop(backend: str, length: int, n: int, rng: np.random.Generator) -> None:
    kwargs = {variant: arguments(rng, length, n, variant) for variant in VARIANTS}

    @jax.jit
    def all_variants(kwargs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {v: diagonal_siso_ssm(**k, reverse=v.startswith("reverse"), backend=backend) for v, k in kwargs.items()}

    for variant, y in all_variants(kwargs).items():
        expected = loop(**kwargs[variant], reverse=variant.startswith("reverse"))
        assert relative(y, expected) <= (2e-5 if backend == "fft" else 5e-6), variant


@pytest.mark.parametrize("stress", [False, True])
@pytest.mark.parametrize("length", [1000, 1024, 16384])
def test_kernels_and_convolutions_keep_their_precision(length: int, stress: bool, rng: np.random.Generator) -> None:
    """Also for slow decay at high frequency (time constant 100,000 steps, up to pi a step), relative to the RMS."""
    decay = np.full((CHANNELS, STATES), 1e-5) if stress else 10 ** rng.uniform(-4, -1, (CHANNELS, STATES))
    kwargs = arguments(rng, length, STATES, "bidirectional")
    Lambda_bar = np.exp(-decay + 1j * rng.uniform(0, 3.1, decay.shape)).astype(np.complex64)
    W = complex_normal(rng, *decay.shape).astype(np.complex64)
    expected = exact_kernel(Lambda_bar, W, length)
    K = jax.jit(ssm_kernel, static_argnums=2)(Lambda_bar, W, length)
    assert np.abs(np.asarray(K) - expected).max() <= 2e-5 * np.sqrt((expected**2).mean())

    y = compiled("fft", False)({**kwargs, "Lambda_bar": Lambda_bar})
    exact = loop(**{**kwargs, "Lambda_bar": Lambda_bar})
    assert np.abs(np.asarray(y) - exact).max() <= (1e-4 if stress else 2e-5) * np.sqrt((exact**2).mean())


def test_a_table_entry_times_another_is_every_power(rng: np.random.Generator) -> None:
    Lambda = np.array([0, 1, -1, 0.5j, 0.999999 * np.exp(3.1j)], np.complex64)
    for length in (1, 2, 3, 100, 16384):
        fine, coarse = jax.jit(power_tables, static_argnums=1)(Lambda, length)
        assert fine.shape[-1] * coarse.shape[-1] >= length
        products = (np.asarray(coarse)[..., None] * np.asarray(fine)[..., None, :]).reshape(len(Lambda), -1)
        expected = np.power(Lambda.astype(complex)[:, None], np.arange(products.shape[1]))
        assert np.abs(products - expected).max() <= 3e-6


# ---- gradients


@pytest.mark.few(1)
@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("variant", ["forward_x0", "reverse_x0", "bidirectional"])
def test_gradients_equal_finite_differences_of_the_loop(variant: str, length: int, rng: np.random.Generator) -> None:
    kwargs, reverse = arguments(rng, length, 2, variant), variant.startswith("reverse")
    weight = rng.normal(size=(BATCH, length, CHANNELS)).astype(np.float32)
    direction = {
        name: complex_normal(rng, *v.shape) if np.iscomplexobj(v) else rng.normal(size=v.shape)
        for name, v in kwargs.items()
    }

    def moved(step: float) -> float:
        at = {name: value.astype(complex) + step * direction[name] for name, value in kwargs.items()}
        return float(np.sum(weight * loop(**at, reverse=reverse)))

    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    for backend in BACKENDS:
        call = compiled(backend, reverse)
        gradient = jax.jit(jax.grad(lambda k, call=call: jnp.sum(weight * call(k))))(kwargs)
        # JAX gives df/dRe - i df/dIm, so the real part of the product is the slope along the direction.
        slope = sum(np.sum(np.asarray(gradient[name]) * direction[name]).real for name in kwargs)
        assert abs(slope - expected) <= 2e-5 * sum(
            np.abs(np.asarray(gradient[name]) * direction[name]).sum() for name in kwargs
        ), backend


def test_kernel_gradients_keep_their_precision_at_full_length(rng: np.random.Generator) -> None:
    length, h, n = 16384, 2, 3
    Lambda_bar = np.exp(-(10 ** rng.uniform(-4, -1, (h, n))) + 1j * rng.uniform(0, 3.1, (h, n))).astype(np.complex64)
    W, g = complex_normal(rng, h, n).astype(np.complex64), rng.normal(size=(h, length)).astype(np.float32)
    loss = jax.jit(jax.grad(lambda a, W: jnp.sum(g * ssm_kernel(a, W, length)), (0, 1)))
    d_Lambda, dW = loss(Lambda_bar, W)
    powers = np.power(Lambda_bar.astype(complex)[..., None], np.arange(length))
    earlier = np.arange(length) * np.concatenate([np.zeros((h, n, 1)), powers[..., :-1]], -1)
    assert relative(dW, 2 * (g[:, None] * powers).sum(-1)) <= 2e-5
    assert relative(d_Lambda, 2 * W * (g[:, None] * earlier).sum(-1)) <= 2e-5


def test_a_mode_at_zero_has_a_finite_gradient() -> None:
    gradient = jax.grad(lambda a: jnp.sum(ssm_kernel(a, jnp.ones((1, 1), jnp.complex64), 5)))(
        jnp.zeros((1, 1), jnp.complex64)
    )
    assert gradient == 2  # of 2 (1 + a + a^2 + ...)


# ---- the bare recurrence


@pytest.mark.parametrize("reverse", [False, True])
def test_linear_scan_of_any_shape_and_its_derivative(reverse: bool, rng: np.random.Generator) -> None:
    a = (0.9 * np.exp(1j * rng.uniform(-3, 3, (2, 3)))).astype(np.complex64)
    b = complex_normal(rng, BATCH, 6, 2, 3).astype(np.complex64)
    x0 = complex_normal(rng, BATCH, 2, 3).astype(np.complex64)

    def plain(a: Any, b: Any, x0: Any) -> Any:
        states, x = [], x0
        for k in reversed(range(6)) if reverse else range(6):
            x = a * x + b[:, k]
            states.append(x)
        return jnp.stack(states[::-1] if reverse else states, axis=1)

    def loss(f: Callable[..., Any]) -> Callable[..., Any]:
        weight = jnp.cos(jnp.arange(b.size).reshape(b.shape))
        return lambda *args: jnp.sum(weight * jnp.abs(f(*args)) ** 2)

    expected = jax.jit(jax.value_and_grad(loss(plain), (0, 1, 2)))(a, b, x0)
    for backend in ("auto", *SCANS):

        def scan(a: Any, b: Any, x0: Any, backend: str = backend) -> Any:
            return linear_scan(a, b, x0=x0, reverse=reverse, backend=backend)

        ours = jax.jit(jax.value_and_grad(loss(scan), (0, 1, 2)))(a, b, x0)
        for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            assert relative(left, np.asarray(right)) <= 1e-5, backend


# ---- NaN, half precision, misuse


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_keeps_to_its_sequence_and_channel(backend: str, rng: np.random.Generator) -> None:
    kwargs = arguments(rng, 17, STATES, "forward")
    clean = np.asarray(compiled(backend, False)(kwargs))
    u = kwargs["u"].copy()
    u[1, 6, 2] = np.nan
    spoiled = np.isnan(np.asarray(compiled(backend, False)({**kwargs, "u": u})))
    expected = np.zeros(clean.shape, bool)
    expected[1, 0 if backend == "fft" else 6 :, 2] = True  # the transform spreads it back in time as well
    np.testing.assert_array_equal(spoiled, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_inputs_give_half_precision_outputs(backend: str, rng: np.random.Generator) -> None:
    kwargs = arguments(rng, 17, STATES, "forward")
    kwargs["u"] = jnp.asarray(kwargs["u"], jnp.bfloat16)
    y = compiled(backend, False)(kwargs)
    assert y.dtype == jnp.bfloat16
    exact = loop(**{**kwargs, "u": np.asarray(kwargs["u"], np.float32)})
    assert relative(y.astype(jnp.float32), exact) <= 1e-2


def test_a_kernel_of_both_directions_is_one_convolution(rng: np.random.Generator) -> None:
    u = rng.normal(size=(BATCH, 12, CHANNELS)).astype(np.float32)
    ahead, back = rng.normal(size=(2, CHANNELS, 12)).astype(np.float32)
    both = convolve(*map(jnp.asarray, (u, back, ahead)))
    lags = np.arange(12)[:, None] - np.arange(12)
    matrix = np.where(lags >= 0, back[:, np.abs(lags)], 0) + np.where(lags <= 0, ahead[:, np.abs(lags)], 0)
    assert relative(both, np.einsum("hkj,bjh->bkh", matrix, u)) <= 5e-6


def test_misuse_is_refused(rng: np.random.Generator) -> None:
    kwargs = jax.tree.map(jnp.asarray, arguments(rng, 2, 1, "bidirectional"))
    with pytest.raises(UserError, match=r"Unknown backend 'ftt'.*Did you mean 'fft'"):
        diagonal_siso_ssm(**kwargs, backend="ftt")
    with pytest.raises(ValueError, match="leave reverse and x0 out"):
        diagonal_siso_ssm(**kwargs, reverse=True)
    with pytest.raises(UserError, match="Unknown backend 'blocked'"):
        linear_scan(jnp.ones(1, jnp.complex64), jnp.ones((1, 2, 1), jnp.complex64), backend="blocked")
