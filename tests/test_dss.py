"""DSS: the layer against the published formulas, its systems going out and in, and poles that stop being shared."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channel_layers import H, N, compiled, convolved, drawn, kernel_of, numbers, relative, truncated
from networks import PIXELS, batch_for, network, weights_of
from test_s4d import legs

from s5c.errors import UserError
from s5c.evaluation.cost import size
from s5c.model import surgery
from s5c.model.classifier import resized
from s5c.model.family.dss import Config, Layer, accommodating, from_system, to_system
from s5c.reduction.layer import Layer as ReductionLayer
from s5c.reduction.method import bt

LENGTH = 40
EXP = Config(n_layers=1, d_model=H, state_size=N)
APART = dataclasses.replace(EXP, separate_steps=True, bidirectional=True)
SOFTMAX = dataclasses.replace(EXP, variant="softmax")
FIXED = dataclasses.replace(SOFTMAX, length=LENGTH, separate_steps=True, bidirectional=True)
CONFIGS = {"exp": EXP, "separate steps": APART, "softmax": SOFTMAX, "fixed length": FIXED}


def published_kernels(params: dict[str, Any], config: Config, length: int, rate: float = 1) -> list[np.ndarray]:
    """The kernels of ag1988/dss, one per direction, in double precision."""
    p, k = numbers(params), np.arange(length)
    real = -np.exp(p["Lambda_log_neg_re"]) if config.variant == "exp" else p["Lambda_re"]
    Lambda = np.broadcast_to(real + 1j * p["Lambda_im"], (H, N))
    dt = rate * np.exp(p["log_step"]).reshape(H, -1)
    z = Lambda.real * dt[:, :1] + 1j * Lambda.imag * dt[:, -1:]
    if config.variant == "softmax":
        last = np.maximum(z.real, 0)[..., None] * (length - 1)  # taken off the exponents: they stay below 0
        powers = np.exp(z[..., None] * k - last)
        powers = powers / powers.sum(-1, keepdims=True)
    else:
        powers = np.exp(z[..., None] * k) * (np.exp(z) - 1)[..., None]
    names = ("C1", "C2") if config.bidirectional else ("C",)
    return [np.einsum("hn,hnl->hl", p[name] / Lambda, powers).real for name in names]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_layer_runs_the_published_kernel(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    params, u = drawn(config, rng), rng.normal(size=(2, LENGTH, H))
    expected = convolved(u, *published_kernels(params, config, LENGTH)) + np.asarray(params["D"]) * u
    assert relative(compiled(config)(params, jnp.asarray(u, jnp.float32)), expected) <= 2e-5


def test_the_recurrence_is_the_convolution(rng: np.random.Generator) -> None:
    params, u = drawn(APART, rng), rng.normal(size=(2, LENGTH, H))
    expected = convolved(u, *published_kernels(params, APART, LENGTH)) + np.asarray(params["D"]) * u
    for backend in ("sequential", "associative"):
        y = compiled(dataclasses.replace(APART, backend=backend))(params, jnp.asarray(u, jnp.float32))
        assert relative(y, expected) <= 2e-5, backend


def test_softmax_lets_kernels_grow_without_overflow(rng: np.random.Generator) -> None:
    """e^{z L} reaches e^{2000} here; the share of every tap is as small as it is, and finite."""
    real = np.array([40.0, 0.5, -0.3, -20.0])
    params, u = drawn(SOFTMAX, rng, Lambda_re=real), rng.normal(size=(2, LENGTH, H))
    params["log_step"] = jnp.log(jnp.array([0.01, 0.1, 1.25]))
    expected = convolved(u, *published_kernels(params, SOFTMAX, LENGTH)) + np.asarray(params["D"]) * u
    layer = compiled(SOFTMAX)
    assert relative(layer(params, jnp.asarray(u, jnp.float32)), expected) <= 2e-5
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(layer(p, jnp.asarray(u, jnp.float32)) ** 2)))(params)
    assert all(np.isfinite(g).all() for g in gradient.values())


def test_half_the_sampling_rate_keeps_what_softmax_normalises_over(rng: np.random.Generator) -> None:
    """Half as many steps twice as long: with the length fixed, as with the one of the input, the span stays."""
    params, u = drawn(FIXED, rng), rng.normal(size=(2, LENGTH // 2, H))
    kernels = published_kernels(params, FIXED, LENGTH // 2, rate=2)
    expected = convolved(u, *kernels) + np.asarray(params["D"]) * u
    for config in (FIXED, dataclasses.replace(FIXED, length=None)):
        assert relative(compiled(config, 2.0)(params, jnp.asarray(u, jnp.float32)), expected) <= 2e-5


def test_initial_values() -> None:
    config = Config(n_layers=1, d_model=128, state_size=16, separate_steps=True)
    params = jax.jit(Layer(config, 16).init)(jax.random.key(0), jnp.zeros((1, 1, 128)))["params"]
    np.testing.assert_allclose(-np.exp(params["Lambda_log_neg_re"]), np.full(16, -0.5), rtol=1e-6)
    np.testing.assert_allclose(params["Lambda_im"], legs(32), rtol=1e-5)  # Skew-HiPPO of order 2N
    assert np.mean(params["C"] ** 2) == pytest.approx(1, rel=0.08)
    step = np.exp(params["log_step"])
    assert 1e-3 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1
    np.testing.assert_array_equal(step[:, 0], step[:, 1])


# ---- systems out and in


@pytest.mark.parametrize("name", ["exp", "separate steps", "fixed length"])
def test_systems_keep_the_kernel_both_ways(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    params = drawn(config, rng)
    with jax.enable_x64(True):
        system = to_system({n: jnp.asarray(np.asarray(v), jnp.float64) for n, v in params.items()}, config)
        fitting = accommodating(config, [system])
        back = from_system(system, fitting)
        again = to_system({n: v.astype(jnp.float64) for n, v in back.items()}, fitting)
    expected = published_kernels(params, config, LENGTH)
    assert fitting.shared_poles is (name == "exp")  # two steps of different ratio are different poles
    assert relative(kernel_of(system, LENGTH), np.stack(expected)) <= 1e-6  # softmax: EPSILON
    assert relative(kernel_of(again, LENGTH), np.stack(expected)) <= LENGTH * 2e-7
    if name == "exp":
        for key, value in params.items():
            np.testing.assert_allclose(back[key], value, rtol=1e-6, err_msg=key)


def test_softmax_of_any_length_is_no_system(rng: np.random.Generator) -> None:
    params = drawn(SOFTMAX, rng)
    with pytest.raises(UserError, match=r"model\.length=null(.|\n)*model\.variant=exp"):
        to_system(params, SOFTMAX)


def test_balancing_refuses_growing_modes_by_name(rng: np.random.Generator) -> None:
    config = dataclasses.replace(SOFTMAX, length=LENGTH)
    params = drawn(config, rng, Lambda_re=[-1, -1, 0.25, -1])
    with jax.enable_x64(True):
        system = to_system({n: jnp.asarray(np.asarray(v), jnp.float64) for n, v in params.items()}, config)
    assert relative(kernel_of(system, LENGTH), np.stack(published_kernels(params, config, LENGTH))) <= 1e-6
    with pytest.raises(UserError, match=r"Layer 0: (.|\n)*channel 0"):
        bt.Method(unstable="refuse").fit([ReductionLayer(system)], 0)


def test_balanced_truncation_gives_every_channel_its_poles(rng: np.random.Generator) -> None:
    model = network(PIXELS, "dss", n_layers=1, d_model=H, bidirectional=True)
    weights, (inputs, _) = weights_of(model, rng), batch_for(PIXELS, rng)
    system = truncated(model.config, rng)
    params, config = surgery.with_systems(weights["params"], [system], model.config)
    assert not config.shared_poles and surgery.state_dims(params, config) == (4,)
    assert relative(kernel_of(surgery.systems(params, config)[0], 16), kernel_of(system, 16)) <= 16 * 2e-7
    y = jax.eval_shape(model.clone(config=config).apply, {**weights, "params": params}, inputs)
    assert y.shape == (len(inputs), PIXELS.classes)


# ---- poles that stop being shared


def test_channels_share_poles_as_long_as_they_keep_the_same(rng: np.random.Generator) -> None:
    model = network(PIXELS, "dss")
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(PIXELS, rng)
    params = weights["params"]
    same = [np.tile([True, False, True, True], (6, 1)), np.tile([False, True, True, False], (6, 1))]
    taken, config = surgery.take(params, same, model.config)
    assert config == model.config and surgery.state_dims(taken, config) == (3, 2)
    seq, old = (jax.tree.map(np.asarray, p["encoder"]["layers_0"]["seq"]) for p in (taken, params))
    np.testing.assert_array_equal(seq["Lambda_im"], old["Lambda_im"][[0, 2, 3]])
    np.testing.assert_array_equal(seq["C"], old["C"][:, [0, 2, 3]])

    other = [same[0].copy(), same[1]]
    other[0][2] = [False, True, False, False]
    taken, config = surgery.take(params, other, model.config)
    assert not config.shared_poles and surgery.state_dims(taken, config) == (3, 2)
    seq = taken["encoder"]["layers_0"]["seq"]
    np.testing.assert_array_equal(seq["Lambda_im"][1], old["Lambda_im"][[0, 2, 3]])
    assert seq["Lambda_im"][2, 0] == old["Lambda_im"][1] and (seq["C"][2, 1:] == 0).all()
    small = resized(model.clone(config=config), (3, 2))
    assert size(small, taken, 1).state_params == 6 * (3 + 2) * 4  # poles of their own cost as much as the outputs
    masked = surgery.mask(params, other, model.config)
    expected = jax.jit(model.apply)({**weights, "params": masked}, inputs, lengths)
    ours = jax.jit(small.apply)({**weights, "params": taken}, inputs, lengths)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "clip"}, r"value for model.variant 'clip'(.|\n)*softmax"),
        ({"length": 8}, r"model.length=8: .*variant=exp"),
        ({"variant": "softmax", "length": 0}, r"model.length=0: .*at least 1"),
        ({"variant": "softmax", "backend": "sequential"}, r"model.backend=sequential: .*auto or fft"),
        ({"state_size": 0}, r"model.state_size=0"),
        ({"dt_max": 1e-4}, r"0 < dt_min < dt_max"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(EXP, **options)
