"""The TPU kernels without a TPU: their values by Pallas' interpreter, their form by lowering.

Where libtpu is installed its compiler takes part as well: it needs no device, and refuses what does not fit into VMEM.
None of this shows that they run, or how fast.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s5c.errors import UserError
from s5c.ssm.backend import pallas_tpu, sequential
from s5c.ssm.call import Call, RealSystem
from s5c.ssm.kernel import tpu

DIRECTIONS = ((False,), (True,), (False, True))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four steps and tiles of eight sequences, not unrolled: the interpreter compiles what it interprets."""
    monkeypatch.setattr(pallas_tpu, "INTERPRET", True)
    monkeypatch.setattr(pallas_tpu, "LONGEST", 4)
    monkeypatch.setattr(pallas_tpu, "REGISTERS", 1)
    monkeypatch.setattr(tpu, "UNROLL", 1)


def shapes(batch: int, length: int, h: int, p: int, out: int, directions: tuple[bool, ...], dtype: Any) -> Any:
    """Returns the shapes of (system, u, x0) and of (gy, g_last)."""

    def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    states = tuple(array(batch, 2 * p) for _ in directions)
    W_out = tuple(array(2 * p, out) for _ in directions)
    system = RealSystem((array(p), array(p)), array(h, 2 * p), W_out)
    return (system, array(batch, length, h, dtype=dtype), states), (array(batch, length, out), states)


def problem(
    rng: np.random.Generator, length: int, p: int, directions: tuple[bool, ...], dtype: Any = jnp.float32
) -> Any:
    """Returns random arguments; nine sequences, so that the second tile is not full."""
    empty = shapes(9, length, 3, p, 2, directions, dtype)
    (system, u, x0), gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), empty)
    a = rng.uniform(0.3, 0.999, p) * np.exp(1j * rng.uniform(-3, 3, p))
    system = system._replace(a=(jnp.asarray(a.real, jnp.float32), jnp.asarray(a.imag, jnp.float32)))
    return (system, u, x0), gradients


def results(backend: ModuleType, call: Call, given: Any) -> Any:
    """Returns all that a backend computes."""
    y, last, saved = backend.forward(call, *given[0])
    return y, last, backend.backward(call, *given[0], saved, *given[1])


def assert_close(ours: Any, expected: Any, tolerance: float) -> None:
    for (path, value), wanted in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert value.shape == wanted.shape, path
        difference = jnp.abs(value.astype(jnp.float32) - wanted.astype(jnp.float32)).max()
        assert float(difference) <= tolerance * float(jnp.abs(wanted).max()), path


# ---- values


@pytest.mark.parametrize(
    ("length", "p"),
    [pytest.param(1, 1, marks=pytest.mark.slow), (7, 3), pytest.param(8, 130, marks=pytest.mark.slow)],
)  # one step; padded in time; two lanes of states
@pytest.mark.usefixtures("interpreted")
def test_interpreted_kernels_equal_the_sequential_backend(length: int, p: int, rng: np.random.Generator) -> None:
    """Outputs, last states and every gradient, with a starting state and a gradient of the last in each direction."""
    calls = [Call(directions) for directions in DIRECTIONS]
    given = [problem(rng, length, p, call.directions) for call in calls]

    @jax.jit  # one program: compiling is what takes time
    def run(given: Any) -> Any:
        return [[results(b, c, g) for c, g in zip(calls, given, strict=True)] for b in (pallas_tpu, sequential)]

    assert_close(*run(given), tolerance=3e-6)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("tf32", jnp.float32, 1e-4), ("bfloat16", jnp.float32, 3e-2), ("float32", jnp.bfloat16, 1.5e-2)],
)
@pytest.mark.usefixtures("interpreted")
def test_products_have_the_precision_asked_for(
    precision: str, dtype: Any, tolerance: float, rng: np.random.Generator
) -> None:
    call = Call((False,), precision)
    given = problem(rng, 7, 3, call.directions, dtype)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), given)
    run = jax.jit(lambda given, exact: (results(pallas_tpu, call, given), results(sequential, Call((False,)), exact)))
    ours, expected = run(given, exact)
    assert_close(ours, expected, tolerance)
    off = jnp.abs(ours[0] - expected[0]).max() / jnp.abs(expected[0]).max()
    assert float(off) > 3e-7, "the products were exact"


@pytest.mark.usefixtures("interpreted")
def test_nan_keeps_to_its_sequence_and_its_future(rng: np.random.Generator) -> None:
    system, u, x0 = problem(rng, 7, 3, (False, True))[0]
    one_way = system._replace(W_out=system.W_out[:1])

    @jax.jit
    def run(u: jax.Array) -> list[jax.Array]:
        return [pallas_tpu.forward(Call((reverse,)), one_way, u, x0[:1])[0] for reverse in (False, True)]

    for y, clean, spoilt in zip(run(u.at[1, 4, 2].set(jnp.nan)), run(u), (slice(4, None), slice(None, 5)), strict=True):
        expected = np.zeros(y.shape, bool)
        expected[1, spoilt] = True
        np.testing.assert_array_equal(np.isnan(y), expected)
        np.testing.assert_array_equal(y[~expected], clean[~expected])


# ---- sizes


def test_blocks_divide_the_length_where_a_divisor_is_near() -> None:
    assert [pallas_tpu.block(length, 16) for length in (1, 15, 16, 784, 4096)] == [1, 15, 16, 16, 16]
    assert pallas_tpu.block(1000, 16) == 10  # a divisor: nothing to pad
    assert pallas_tpu.block(1021, 16) == 16  # a prime: 64 blocks of 16 are padded by 3
    assert pallas_tpu.block(17, 16) == 9  # not 16, which would pad by 15


def test_a_layer_too_large_for_the_chip_is_an_error_that_says_so() -> None:
    given, _ = shapes(8, 100, 2048, 512, 2048, (False,), jnp.float32)
    with pytest.raises(UserError, match=r"2048 inputs, 2048 outputs and 512 states .* Use another backend"):
        jax.eval_shape(partial(pallas_tpu.forward, Call((False,))), *given)


def test_it_needs_a_tpu_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pallas_tpu.unavailable("tpu") is None
    assert "kernel for TPUs and this platform is 'gpu'" in str(pallas_tpu.unavailable("gpu"))
    monkeypatch.setattr(pallas_tpu, "INTERPRET", True)
    assert pallas_tpu.unavailable("cpu") is None


# ---- lowering

LAYERS = [
    (50, 4096, 256, 96, 256, (False, True), "float32", jnp.float32),  # text classification
    (50, 4096, 256, 96, 256, (True,), "bfloat16", jnp.bfloat16),
    (7, 1021, 640, 200, 40, (True,), "tf32", jnp.float32),  # nothing is a multiple of anything
    (1, 1, 1, 1, 1, (False,), "float32", jnp.float32),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_forward_and_gradient_lower_for_a_tpu(layer: tuple[Any, ...]) -> None:
    *sizes, directions, precision, dtype = layer
    call = Call(directions, precision)
    given = shapes(*sizes, directions, dtype)
    traced = jax.jit(lambda given: results(pallas_tpu, call, given)).trace(given)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 2 * len(directions)  # not replaced by anything else


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which holds the TPU's compiler")
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_forward_and_gradient_compile_for_a_tpu(layer: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # no questions to a cloud's metadata server
    *sizes, directions, precision, dtype = layer
    call = Call(directions, precision)
    device = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
    on_device = jax.sharding.SingleDeviceSharding(device)
    given = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_device), shapes(*sizes, directions, dtype)
    )
    assert jax.jit(lambda given: results(pallas_tpu, call, given)).lower(given).compile().as_text()
