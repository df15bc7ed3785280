"""The lifted backend: chunks of several steps, whole and ragged, against the backend that takes one step at a time."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from s5c.ssm.backend import lifted, sequential
from s5c.ssm.call import Call, RealSystem
from s5c.ssm.operator import why_unavailable

BATCH, FEATURES, OUT, P, CHUNK = 3, 4, 2, 3, 4
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifted, "chunk", lambda *sizes: CHUNK)


def problem(rng: np.random.Generator, length: int, directions: tuple[bool, ...]) -> dict[str, Any]:
    """Returns what `forward` and `backward` take, `saved` excepted; states differ between the directions."""

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    a = rng.uniform(0.3, 0.999, P) * np.exp(1j * rng.uniform(-3, 3, P))
    system = RealSystem(
        a=(jnp.asarray(a.real, jnp.float32), jnp.asarray(a.imag, jnp.float32)),
        W_in=normal(FEATURES, 2 * P),
        W_out=tuple(normal(2 * P, OUT) for _ in directions),
    )
    return {
        "forward": (system, normal(BATCH, length, FEATURES), tuple(normal(BATCH, 2 * P) for _ in directions)),
        "backward": (normal(BATCH, length, OUT), tuple(normal(BATCH, 2 * P) for _ in directions)),
    }


def results(backend: ModuleType, call: Call, given: dict[str, Any]) -> tuple[Any, tuple[jax.Array, ...]]:
    """Returns all that a backend computes, and what it keeps for the derivative."""
    y, last, saved = backend.forward(call, *given["forward"])
    return (y, last, backend.backward(call, *given["forward"], saved, *given["backward"])), saved


@pytest.mark.parametrize(
    "length", [3, 8, pytest.param(10, marks=pytest.mark.slow)]
)  # less than a chunk, two chunks, two and a half
def test_all_results_equal_those_of_single_steps(length: int, rng: np.random.Generator) -> None:
    calls = {name: Call(directions) for name, directions in DIRECTIONS.items()}
    given = {name: problem(rng, length, call.directions) for name, call in calls.items()}

    @jax.jit  # one program for all: compiling is what takes time
    def run(given: dict[str, Any]) -> Any:
        return {name: [results(b, call, given[name]) for b in (lifted, sequential)] for name, call in calls.items()}

    for name, ((ours, saved), (expected, _)) in run(given).items():
        assert len(saved[0]) == -(-length // CHUNK), "states are kept by chunk only"
        for (path, value), wanted in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(expected), strict=True):
            assert value.shape == wanted.shape, (name, path)
            assert float(jnp.abs(value - wanted).max()) <= 3e-6 * float(jnp.abs(wanted).max()), (name, path)


def test_a_bad_input_spoils_its_chunk_its_future_and_no_other_sequence(rng: np.random.Generator) -> None:
    given = {name: problem(rng, 10, directions)["forward"] for name, directions in DIRECTIONS.items()}

    @jax.jit
    def run(given: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: lifted.forward(Call(DIRECTIONS[name]), *given[name])[0] for name in given}

    clean = run(given)
    reached = {"forward": slice(4, None), "reverse": slice(None, 8), "bidirectional": slice(None)}  # chunk: 4 to 7
    for bad in (np.nan, np.inf):
        broken = {name: (system, u.at[1, 6, 2].set(bad), x0) for name, (system, u, x0) in given.items()}
        for name, y in run(broken).items():
            expected = np.zeros(10, bool)
            expected[reached[name]] = True
            np.testing.assert_array_equal(~np.isfinite(y[1]).all(axis=-1), expected, err_msg=name)
            np.testing.assert_array_equal(y[1][~expected], clean[name][1][~expected])
            np.testing.assert_array_equal(y[np.array([0, 2])], clean[name][np.array([0, 2])])


def test_longer_chunks_for_fewer_features_and_more_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [lifted.chunk(h, h, states=192) for h in (32, 128, 256, 512, 1024)] == [8, 8, 4, 2, 1]
    assert [lifted.chunk(256, 256, states) for states in (12, 48, 192, 384)] == [1, 2, 4, 4]
    assert lifted.chunk(1, 1, 1) == lifted.chunk(4, 2, 64) == lifted.LONGEST
    assert lifted.chunk(4096, 4096, 1) == 1


def test_it_runs_on_every_platform() -> None:
    assert [why_unavailable("lifted", platform) for platform in ("cpu", "gpu", "tpu")] == [None, None, None]
