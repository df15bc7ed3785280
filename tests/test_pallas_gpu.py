"""The Hopper kernel without a device: its tiles by Pallas' interpreter, its lowering as far as MLIR for CUDA.

Neither shows that it runs, or how fast.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from systems import complex_normal, simulate

from s5c.ssm.backend import pallas_gpu, sequential
from s5c.ssm.call import Call, RealSystem
from s5c.ssm.kernel import gpu
from s5c.ssm.operator import diagonal_ssm

BATCH, FEATURES, OUT = 5, 3, 2  # five sequences: the second group of four is not full
DIRECTIONS = ((False,), (True,), (False, True))


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short tiles, since the interpreter's compile time grows with their rows."""
    monkeypatch.setattr(pallas_gpu, "INTERPRET", True)
    monkeypatch.setattr(gpu, "ROWS", 4)


def problem(rng: np.random.Generator, length: int, p: int, directions: tuple[bool, ...]) -> dict[str, Any]:
    """Returns the array arguments of `forward` and `backward`, `saved` excepted."""

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    a = rng.uniform(0.3, 0.999, p) * np.exp(1j * rng.uniform(-3, 3, p))
    return {
        "system": RealSystem(
            (jnp.asarray(a.real, jnp.float32), jnp.asarray(a.imag, jnp.float32)),
            normal(FEATURES, 2 * p),
            tuple(normal(2 * p, OUT) for _ in directions),
        ),
        "u": normal(BATCH, length, FEATURES),
        "x0": tuple(normal(BATCH, 2 * p) for _ in directions),
        "gy": normal(BATCH, length, OUT),
        "g_last": tuple(normal(BATCH, 2 * p) for _ in directions),
    }


def both_ways(backend: ModuleType, call: Call, given: dict[str, Any]) -> Any:
    """Returns everything a backend computes."""
    operands = [given[name] for name in ("system", "u", "x0")]
    y, last, saved = backend.forward(call, *operands)
    return y, last, backend.backward(call, *operands, saved, given["gy"], given["g_last"])


# ---- values


@pytest.mark.parametrize(
    ("length", "p"),
    [pytest.param(1, 1, marks=pytest.mark.slow), (4, 5), pytest.param(10, 34, marks=pytest.mark.slow)],
)  # below, at and between multiples of the tile
@pytest.mark.usefixtures("interpreted")
def test_interpreted_kernel_equals_the_sequential_backend(length: int, p: int, rng: np.random.Generator) -> None:
    """Outputs, last states and every gradient, a starting state and a gradient of the last state in each direction."""
    calls = [Call(directions) for directions in DIRECTIONS]
    given = [problem(rng, length, p, call.directions) for call in calls]

    @jax.jit  # one program: compiling is what takes time
    def run(given: list[dict[str, Any]]) -> Any:
        return [[both_ways(b, c, g) for c, g in zip(calls, given, strict=True)] for b in (pallas_gpu, sequential)]

    ours, expected = run(given)
    for (path, value), wanted in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
        assert value.shape == wanted.shape, path
        assert float(jnp.abs(value - wanted).max()) <= 5e-6 * float(jnp.abs(wanted).max()), path


@pytest.mark.usefixtures("interpreted")
def test_half_precision_input_and_nan_in_one_sequence(rng: np.random.Generator) -> None:
    """Against the loop in double precision; a NaN stays in its sequence and in its future."""
    a = rng.uniform(0.3, 0.999, 5) * np.exp(1j * rng.uniform(-3, 3, 5))
    matrices = {"B_bar": complex_normal(rng, 5, FEATURES), "C": complex_normal(rng, OUT, 5)}
    system = {name: jnp.asarray(value, jnp.complex64) for name, value in {"Lambda_bar": a, **matrices}.items()}
    u = rng.normal(size=(BATCH, 10, FEATURES)).astype(np.float32)
    broken = u.copy()
    broken[1, 6, 2] = np.nan

    @jax.jit
    def run(u: jax.Array, broken: jax.Array) -> Any:
        def operator(u: jax.Array, **options: Any) -> jax.Array:
            return diagonal_ssm(u, **system, backend="pallas_gpu", **options)

        half = operator(u.astype(jnp.bfloat16))
        return half, operator(broken), operator(broken, reverse=True)

    half, forward, backward = run(u, broken)
    assert half.dtype == jnp.bfloat16
    expected = simulate(np.asarray(jnp.asarray(u, jnp.bfloat16), np.float32), **system)
    assert np.abs(np.asarray(half, np.float32) - expected).max() <= 2e-2 * np.abs(expected).max()
    for y, reverse, clean in ((forward, False, slice(0, 6)), (backward, True, slice(7, None))):
        expected = simulate(u, **system, reverse=reverse)
        others = [0, 2, 3, 4]
        np.testing.assert_allclose(y[np.array(others)], expected[others], rtol=0, atol=5e-6 * np.abs(expected).max())
        np.testing.assert_allclose(y[1, clean], expected[1, clean], rtol=0, atol=5e-6 * np.abs(expected).max())
        assert np.isnan(y[1]).any(axis=-1).sum() == len(u[1]) - len(u[1, clean])


# ---- lowering


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("batch", "length", "features", "p", "directions"),
    [
        (50, 4096, 256, 96, (False, True)),  # IMDb
        (1, 16384, 128, 133, (False,)),
        (3, 17, 4, 5, (True,)),
        (1, 1, 1, 1, (False, True)),
    ],
)
def test_lowers_for_cuda(batch: int, length: int, features: int, p: int, directions: tuple[bool, ...]) -> None:
    """The interpreter accepts what Mosaic GPU does not; no array is made and no device is needed for this."""

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    states = tuple(array(batch, 2 * p) for _ in directions)
    given = {
        "system": RealSystem((array(p),) * 2, array(features, 2 * p), (array(2 * p, features),) * len(directions)),
        "u": array(batch, length, features),
        "x0": states,
        "gy": array(batch, length, features),
        "g_last": states,
    }
    traced = jax.jit(lambda given: both_ways(pallas_gpu, Call(directions, "tf32"), given)).trace(given)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 2, "one kernel forward, one backward"


# ---- availability


def test_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("cpu", "tpu"):
        assert platform in (pallas_gpu.unavailable(platform) or "")

    class Device:
        compute_capability = "8.0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    assert "this one has 8.0" in (pallas_gpu.unavailable("gpu") or "")
    for capable in ("9.0", "10.0"):
        monkeypatch.setattr(Device, "compute_capability", capable)
        assert pallas_gpu.unavailable("gpu") is None
    for other in ("12.0", "gfx942"):  # too little shared memory; not NVIDIA's
        monkeypatch.setattr(Device, "compute_capability", other)
        assert other in (pallas_gpu.unavailable("gpu") or "")
    monkeypatch.setattr(pallas_gpu, "INTERPRET", True)
    assert pallas_gpu.unavailable("cpu") is None
