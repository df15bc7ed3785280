"""S4D: the layer against the published formulas, its initial values, and its systems going out and in."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channel_layers import H, N, compiled, convolved, drawn, kernel_of, numbers, relative, truncated
from networks import PIXELS, network
from test_surgery import macs

from s5c.errors import UserError
from s5c.evaluation.cost import backend_of, size
from s5c.model.family.s4d import INITS, Config, Layer, from_system, macs_per_step, to_system
from s5c.training.steps import Inputs

LENGTH = 40
FULL = Config(n_layers=1, d_model=H, state_size=2 * N, bidirectional=True, discretisation="bilinear", B="free")
PLAIN = Config(n_layers=1, d_model=H, state_size=2 * N)


def published_kernels(params: dict[str, Any], config: Config, length: int, rate: float = 1) -> list[np.ndarray]:
    """The kernels of state-spaces/s4, one per direction, in double precision."""
    p = numbers(params)
    A = -np.exp(p["Lambda_log_neg_re"]) + 1j * p["Lambda_im"]
    dt = rate * np.exp(p["log_step"])[:, None]
    taps, kernels = np.arange(length), []
    for name in ("C1", "C2") if config.bidirectional else ("C",):
        C = p[name] * p.get("B", 1)
        if config.discretisation == "zoh":
            C, step = C * (np.exp(dt * A) - 1) / A, np.exp(dt * A)
        else:
            C, step = C * dt / (1 - dt * A / 2), (1 + dt * A / 2) / (1 - dt * A / 2)
        kernels.append(2 * np.einsum("hn,hnl->hl", C, step[..., None] ** taps).real)
    return kernels


@pytest.mark.parametrize("backend", ["fft", "sequential", "associative"])
@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
def test_every_backend_runs_the_published_kernel(config: Config, backend: str, rng: np.random.Generator) -> None:
    params, u = drawn(config, rng), rng.normal(size=(2, LENGTH, H))
    rate = 2.0 if config.bidirectional else 1.0  # of sampling: step_rescale
    expected = convolved(u, *published_kernels(params, config, LENGTH, rate)) + np.asarray(params["D"]) * u
    y = compiled(dataclasses.replace(config, backend=backend), rate)(params, jnp.asarray(u, jnp.float32))
    assert relative(y, expected) <= 2e-5


def test_gradients_of_the_convolution_are_those_of_the_recurrence(rng: np.random.Generator) -> None:
    params, u = drawn(FULL, rng), jnp.asarray(rng.normal(size=(2, LENGTH, H)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(2, LENGTH, H)), jnp.float32)

    def gradient(backend: str) -> Any:
        layer = compiled(dataclasses.replace(FULL, backend=backend))
        return jax.jit(jax.grad(lambda p: jnp.sum(weight * layer(p, u))))(params)

    by_transform, by_scan = gradient("fft"), gradient("sequential")
    for name, expected in by_scan.items():
        assert relative(by_transform[name], np.asarray(expected)) <= 2e-4, name


def test_long_sequences_keep_their_precision(rng: np.random.Generator) -> None:
    length = 4096
    params, u = drawn(PLAIN, rng, log_step=np.log([1e-4, 1e-3, 1e-2])), rng.normal(size=(1, length, H))
    (K,) = published_kernels(params, PLAIN, length)
    size = 2 * length
    spectrum = np.fft.rfft(u, size, axis=1) * np.fft.rfft(K.T, size, axis=0)
    expected = np.fft.irfft(spectrum, size, axis=1)[:, :length] + np.asarray(params["D"]) * u
    assert relative(compiled(PLAIN)(params, jnp.asarray(u, jnp.float32)), expected) <= 5e-4  # 1e-7 / |Lambda Delta|


def test_the_published_backward_kernel_is_ours_with_other_outputs(rng: np.random.Generator) -> None:
    """It starts looking ahead one step later: C2 / Lambda_bar for C2, and what that adds at once is taken off D."""
    config = dataclasses.replace(PLAIN, bidirectional=True)
    params, u = drawn(config, rng), rng.normal(size=(2, LENGTH, H))
    K, ahead = published_kernels(params, config, LENGTH)
    expected = convolved(u, K, ahead, first=1) + np.asarray(params["D"]) * u
    p = numbers(params)
    A = -np.exp(p["Lambda_log_neg_re"]) + 1j * p["Lambda_im"]
    z = np.exp(p["log_step"])[:, None] * A
    C = p["C2"] / np.exp(z)
    D = p["D"] - 2 * (C * (np.exp(z) - 1) / A).sum(1).real
    ours = {**params, "C2": jnp.asarray(np.stack([C.real, C.imag], -1), jnp.float32), "D": jnp.asarray(D, jnp.float32)}
    assert relative(compiled(config)(ours, jnp.asarray(u, jnp.float32)), expected) <= 2e-5


# ---- initial values


def legs(n: int) -> np.ndarray:
    """Frequencies of the skew-symmetric part of HiPPO-LegS, largest first."""
    root = np.sqrt(2 * np.arange(n) + 1)
    lower = np.tril(np.outer(root, root), -1)
    frequencies = np.linalg.eigvals((lower - lower.T) / 2).imag
    return np.sort(frequencies[frequencies > 0])[::-1]


@pytest.mark.parametrize(
    ("init", "frequencies"),
    [
        ("lin", np.pi * np.arange(16)),
        ("inv", 32 / np.pi * (32 / (2 * np.arange(16) + 1) - 1)),
        ("legs", legs(32)),
    ],
)
def test_initial_poles(init: str, frequencies: np.ndarray) -> None:
    np.testing.assert_allclose(INITS[init](32), frequencies, rtol=1e-10, atol=1e-10)


def test_initial_values() -> None:
    config = Config(n_layers=1, d_model=128, state_size=32, init="inv", bidirectional=True)
    params = jax.jit(Layer(config, 16).init)(jax.random.key(0), jnp.zeros((1, 1, 128)))["params"]
    np.testing.assert_allclose(-np.exp(params["Lambda_log_neg_re"]), np.full((128, 16), -0.5), rtol=1e-6)
    np.testing.assert_allclose(params["Lambda_im"], np.broadcast_to(INITS["inv"](32), (128, 16)), rtol=1e-6)
    step = np.exp(params["log_step"])
    assert 1e-3 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1
    for name in ("C1", "C2"):
        assert np.mean(np.sum(params[name] ** 2, -1)) == pytest.approx(1, rel=0.08)
    assert np.abs(params["C1"] - params["C2"]).max() > 0
    assert np.mean(params["D"] ** 2) == pytest.approx(1, rel=0.3)


# ---- systems out and in


@pytest.mark.parametrize(
    "config", [PLAIN, FULL, dataclasses.replace(FULL, B="folded")], ids=["plain", "full", "folded"]
)
def test_systems_go_back_to_the_same_parameters(config: Config, rng: np.random.Generator) -> None:
    params = drawn(config, rng, **{"bias": rng.normal(size=H)})
    params["bias"] = jnp.asarray(rng.normal(size=H), jnp.float32)
    with jax.enable_x64(True):
        system = to_system({name: jnp.asarray(np.asarray(v), jnp.float64) for name, v in params.items()}, config)
        back = from_system(system, config)
    assert back.keys() == params.keys()
    for name, value in params.items():
        assert back[name].dtype == np.float32
        np.testing.assert_allclose(back[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(kernel_of(system, 20), published_kernels(params, config, 20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "config", [PLAIN, FULL, dataclasses.replace(FULL, B="folded")], ids=["plain", "full", "folded"]
)
def test_what_balanced_truncation_returns_keeps_its_kernel(config: Config, rng: np.random.Generator) -> None:
    system = truncated(config, rng)
    with jax.enable_x64(True):
        params = from_system(system, config)
        again = to_system({name: v.astype(jnp.float64) for name, v in params.items()}, config)
    expected = kernel_of(system, 16)
    assert params["Lambda_im"].shape == (H, 4)
    assert relative(kernel_of(again, 16), expected) <= 16 * 2e-7  # the angle of a pole in float32, times 16
    if not config.bidirectional:
        y = compiled(config)(params, jnp.zeros((1, 16, H)).at[0, 0].set(1))
        assert relative(y[0].T, expected[0]) <= 1e-5


def test_a_pole_that_is_not_stable_is_refused(rng: np.random.Generator) -> None:
    system = to_system(drawn(PLAIN, rng), PLAIN)
    with pytest.raises(UserError, match=r"1 poles have a positive real part, at most 0\.5"):
        from_system(dataclasses.replace(system, Lambda=system.Lambda.at[1, 2].set(0.5 + 1j)), PLAIN)
    on_the_axis = from_system(dataclasses.replace(system, Lambda=system.Lambda.at[1, 2].set(1j)), PLAIN)
    assert np.isfinite(on_the_axis["Lambda_log_neg_re"]).all()
    assert -1e-29 < to_system(on_the_axis, PLAIN).Lambda[1, 2].real < 0


# ---- size, configuration


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_formula_for_a_layer_counts_its_multiplications(bidirectional: bool) -> None:
    layer = Layer(dataclasses.replace(PLAIN, bidirectional=bidirectional, backend="sequential"), N)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, H)))

    def counted(length: int) -> int:
        return macs(jax.make_jaxpr(layer.apply)(params, jnp.zeros((1, length, H))).jaxpr, products=False)

    directions = 1 + bidirectional
    complex_products = H * N * (2 + 2 * directions)  # not counted there: B u, and C x, of which the real part is used
    factors_of_two = H * directions  # counted, but they could be part of C
    assert counted(12) - counted(11) + complex_products - factors_of_two == macs_per_step(layer.config, N)


def test_size_counts_every_channel() -> None:
    model = network(PIXELS, "s4d", bidirectional=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 2)))["params"]
    counted = size(model, shapes, length=5)
    assert counted.states == 2 * 6 * 4 and counted.state_params == 2 * 6 * 4 * 6  # two of Lambda, four of C1 and C2
    blocks = 2 * (macs_per_step(model.config, 4) + 2 * 36)
    assert counted.macs == 5 * (2 * 6 + blocks) + 6 * 3


def test_the_backend_follows_the_length() -> None:
    model = network(PIXELS, "s4d")
    for length, backend in ((16, "sequential"), (17, "fft")):
        batch = Inputs(jnp.zeros((1, length, 2)), jnp.zeros(1, jnp.int32), None, jnp.ones(1))
        assert backend_of(model, batch) == backend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_size": 7}, r"model.state_size=7.*Choose an even number"),
        ({"init": "hippo"}, r"value for model.init 'hippo'(.|\n)*legs"),
        ({"B": "none"}, r"value for model.B 'none'(.|\n)*folded"),
        ({"discretisation": "euler"}, r"value for model.discretisation 'euler'"),
        ({"dt_min": 1.0}, r"0 < dt_min < dt_max"),
        ({"backend": "blocked"}, r"value for model.backend 'blocked'(.|\n)*associative"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(PLAIN, **options)
