"""`model.mask_padding=true`: no answer, statistic, gradient or moment depends on what a sequence is padded to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import pytest
from networks import PAIRS, PIXELS, TOKENS, network, weights_of

import s5c
from s5c.data.batching import Batch
from s5c.errors import UserError
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.config import families, from_dict, load_family
from s5c.model.inputs import ADDED_LATER
from s5c.model.layerwise import log_probs
from s5c.model.norm import masked
from s5c.model.normalisation import recalibrated
from s5c.pipeline.calibration import full_moments
from s5c.ssm.convolution import SISO_BACKENDS
from s5c.ssm.operator import available_backends, why_unavailable

LENGTHS = np.array([9, 3, 1, 6], np.int32)
SHORT, LONG = 9, 14


def can_run(family: str) -> list[str]:
    """Returns the backends that a family's layers can have here."""
    if load_family(family).Config.per_channel:
        return list(SISO_BACKENDS)
    return [name for name in available_backends() if why_unavailable(name, jax.default_backend()) is None]


EVERY = [(family, backend) for family in families() for backend in can_run(family)]


def padded(spec: InputSpec, steps: int, filling: float = 0.0) -> tuple[jax.Array, jax.Array]:
    """Returns the same four sequences, padded to so many steps with what `filling` says."""
    rng = np.random.default_rng(3)
    shape = (len(LENGTHS), SHORT) if spec.tokens else (len(LENGTHS), SHORT, spec.features)
    drawn = rng.integers(1, spec.features, shape) if spec.tokens else rng.normal(size=shape)
    x = np.full((len(LENGTHS), steps, *shape[2:]), filling, np.int32 if spec.tokens else np.float32)
    for row, source, n in zip(x, drawn, LENGTHS, strict=True):
        row[:n] = source[:n]
    return jnp.asarray(x), jnp.asarray(LENGTHS)


def made(spec: InputSpec = PIXELS, **options: Any) -> tuple[Classifier, dict[str, Any]]:
    model = network(spec, **{"bidirectional": True, "mask_padding": True, **options})
    return model, weights_of(model, np.random.default_rng(0))


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1), err_msg=str(path))


@pytest.mark.few(3)
@pytest.mark.parametrize(("family", "backend"), EVERY)
def test_an_answer_is_that_of_the_sequence_alone(family: str, backend: str) -> None:
    model, weights = made(family=family, backend=backend, n_layers=1)
    apply = jax.jit(model.apply)
    expected = apply(weights, *padded(PIXELS, SHORT))
    close(apply(weights, *padded(PIXELS, LONG, np.nan)), expected)
    alone, lengths = padded(PIXELS, SHORT)
    close(apply(weights, alone[1:2, :3], lengths[1:2]), expected[1:2])


def test_without_the_key_padding_shows_in_the_answers() -> None:
    model, weights = made(n_layers=1, mask_padding=False)
    apply = jax.jit(model.apply)
    short, long = (apply(weights, *padded(PIXELS, steps)) for steps in (SHORT, LONG))
    assert np.abs(short - long).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"prenorm": False},
        {"norm": "layer", "pooling": "last"},
        {"activation": "full_glu", "remat": True},
        {"spec": TOKENS},
        {"spec": PAIRS},
        {"family": "dss", "variant": "softmax", "length": 9},
    ],
    ids=str,
)
def test_so_it_is_whatever_else_is_set_and_in_training(options: dict[str, Any]) -> None:
    """Answers, gradients and running statistics."""
    model, weights = made(**options)

    @jax.jit
    def trained(weights: Any, x: jax.Array, lengths: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            said, updated = model.apply(
                {**weights, "params": params}, x, lengths, training=True, mutable=["batch_stats"]
            )
            return -said[:, 0].sum(), updated

        return jax.value_and_grad(loss, has_aux=True)(weights["params"])

    filling = 0 if model.spec.tokens else 1e3
    short, long = padded(model.spec, SHORT), padded(model.spec, LONG, filling)
    close(trained(weights, *long), trained(weights, *short), 1e-4)
    close(log_probs(model, weights, *long), jax.jit(model.apply)(weights, *short))


def test_the_derivative_of_the_norm_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(3, 5, 2)) + 2, jnp.float32) for _ in range(2))
    scale, bias = jnp.asarray([0.5, 2.0]), jnp.asarray([1.0, -1.0])
    valid = jnp.arange(5) < jnp.asarray([[5], [2], [1]])

    def plain(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        own = x[valid]
        return (((own - own.mean(0)) / jnp.sqrt(own.var(0) + 1e-5)) * scale + bias) * weight[valid]

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return masked(x, scale, bias, valid)[0] * weight

    first = jax.grad(lambda *a: (ours(*a) ** 2).sum(), argnums=(0, 1, 2))(x, scale, bias)
    close(first, jax.grad(lambda *a: (plain(*a) ** 2).sum(), argnums=(0, 1, 2))(x, scale, bias))


@pytest.mark.parametrize("prenorm", [True, False])
def test_measured_statistics_and_moments_see_valid_steps_alone(prenorm: bool) -> None:
    model, weights = made(prenorm=prenorm)

    def batches(steps: int) -> list[Batch]:
        x, lengths = (np.asarray(a) for a in padded(PIXELS, steps, 50.0 if steps == LONG else 0.0))
        ones = np.array([1, 1, 1, 0], np.float32)
        return [Batch(x, np.zeros(4, np.int32), lengths, ones)]

    close(recalibrated(model, weights, batches(LONG)), recalibrated(model, weights, batches(SHORT)), 1e-4)
    short, long = (full_moments(model, weights, lambda n=n: batches(n)) for n in (SHORT, LONG))
    for a, b in zip(long, short, strict=True):
        close(jax.tree.leaves(a), jax.tree.leaves(b), 1e-4)
        assert float(a.count) == LENGTHS[:3].sum()


@pytest.mark.parametrize("family", families())
def test_a_model_that_does_not_mask_is_described_as_before_the_key(family: str) -> None:
    config = network(family=family).config
    assert not ADDED_LATER.keys() & config.to_dict().keys() and from_dict(config.to_dict()) == config
    other = network(family=family, mask_padding=True).config
    assert other.to_dict() == {**config.to_dict(), "mask_padding": True} and from_dict(other.to_dict()) == other
    assert network(family=family, bidirectional=True).config.sees_padding and not config.sees_padding


def test_a_softmax_over_the_steps_of_the_input_cannot_be_masked() -> None:
    with pytest.raises(UserError, match=r"model\.length=<steps of the task>"):
        network(family="dss", variant="softmax", mask_padding=True)
    assert network(family="dss", variant="softmax").config.sees_padding


@pytest.mark.slow
def test_a_training_and_a_reduction_with_masked_padding(tmp_path: Path) -> None:
    """From the command line: what is trained and what is left of it by `calibrated` do not see padding."""
    few = ["task.examples=[60,20,20]", "train.batch_size=20", "model.mask_padding=true", "model.bidirectional=true"]
    looked = ["reduction=calibrated", "reduction.calibration.sequences=20", "reduction.norm=recalibrate"]
    done = jobs.run("train", "task=listops_small", f"task.cache_dir={tmp_path}", *few, *looked, folder=tmp_path)
    assert done.code == 0, done.err
    trained = jobs.only(tmp_path, "results/trained/*")
    reduced = jobs.only(tmp_path, "results/listops_small/*/reduced/*")
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 41, 8)
    x = np.where(np.arange(40) < lengths[:, None], rng.integers(1, 18, (8, 40)), 0)
    for path in (trained, reduced):
        model = s5c.load(path)
        assert model.network.config.mask_padding and model.facts["padding"] == {"lengths": [100], "step": None}
        expected = model.predict(x, lengths=lengths)
        close(model.predict(np.pad(x, ((0, 0), (0, 60)), constant_values=3), lengths=lengths), expected)
        close(model.predict(x[:1, : lengths[0]]), expected[:1])
    assert s5c.load(reduced).states < s5c.load(trained).states
