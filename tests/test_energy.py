"""The H2 refit and the H2 search against impulse responses summed up in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impulse import impulse_response
from systems import random_system

from s5c.reduction.contract import load_method, load_refit
from s5c.reduction.energy import parts_of
from s5c.reduction.layer import Layer
from s5c.reduction.projection import Start, at, squared_error, target_of, variables
from s5c.ssm.system import DiagonalSSM

P, H, LAGS = 6, 3, 600
KEY = jax.random.key(0)
both = pytest.mark.parametrize("bidirectional", [False, True])


def layer(seed: int = 0, *, bidirectional: bool = False, radius: float = 0.95) -> Layer:
    return Layer(random_system(np.random.default_rng(seed), P, H, bidirectional=bidirectional, radius=radius), 20)


def taps(system: DiagonalSSM, lags: int = LAGS) -> np.ndarray:
    return impulse_response(system, lags)


def scores(method: str, layer: Layer, **options: object) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(load_method(method, options).scores)(layer, KEY))


class TestRefit:
    @both
    @pytest.mark.parametrize("feedthrough", [False, True])
    def test_is_least_squares_on_the_kernel(self, bidirectional: bool, feedthrough: bool) -> None:
        """White input: the error is the energy of the kernel's error, and a regression finds the least."""
        given = layer(1, bidirectional=bidirectional, radius=0.9)
        reduced = given.system.take(np.array([0, 2, 5]))
        found = load_refit("h2")(feedthrough=feedthrough)(given, reduced)
        with jax.enable_x64(True):
            a, B = (np.asarray(x) for x in reduced.discretise())
        wanted = taps(given.system)
        if not feedthrough:
            wanted[LAGS - 1] -= np.diag(np.asarray(reduced.D))
        states = np.zeros((2 * LAGS - 1, 3 * (2 if bidirectional else 1), H), complex)
        states[LAGS - 1 :, :3] = (a ** np.arange(LAGS)[:, None])[:, :, None] * B
        if bidirectional:
            states[:LAGS, 3:] = states[LAGS - 1 :, :3][::-1]
        best = 0.0
        for h in range(H):
            columns = [states.real, -states.imag]
            X = np.concatenate([c.transpose(0, 2, 1).reshape(-1, c.shape[1]) for c in columns], axis=1)
            if feedthrough:
                own = np.zeros((2 * LAGS - 1, H))
                own[LAGS - 1, h] = 1
                X = np.concatenate([X, own.reshape(-1, 1)], axis=1)
            y = wanted[:, h].ravel()
            best += np.sum((y - X @ np.linalg.lstsq(X, y, rcond=1e-12)[0]) ** 2)
        left = np.sum((taps(found) - taps(given.system)) ** 2)
        np.testing.assert_allclose(left, best, rtol=1e-6)

    @pytest.mark.parametrize("seed", range(8))
    def test_never_raises_the_error(self, seed: int) -> None:
        given = layer(seed, bidirectional=seed % 2 == 0, radius=0.99)
        keep = np.random.default_rng(seed).permutation(P)[: 1 + seed % 4]
        bare = given.system.take(np.sort(keep))
        full = taps(given.system, 3000)
        before, after = (np.sum((taps(s, 3000) - full) ** 2) for s in (bare, load_refit("h2")()(given, bare)))
        assert after <= before * (1 + 1e-9)

    def test_all_states_kept_change_nothing(self) -> None:
        given = layer(2, bidirectional=True)
        found = load_refit("h2")()(given, given.system)
        np.testing.assert_allclose(taps(found), taps(given.system), atol=1e-8)


@pytest.mark.slow
class TestH2:
    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        given = layer(4, bidirectional=True)
        with jax.enable_x64(True):
            target = target_of(parts_of(given.system), horizon=None)
            part = parts_of(given.system.take(np.array([1, 3])))
            start = Start(part.log_a, part.B @ target.basis, jnp.ones(2, bool))

            J = jax.jit(lambda x: squared_error(*at(x, start), target, horizon=None))
            x = variables(start)
            gradient = jax.grad(J)(x)
            rng = np.random.default_rng(0)
            for _ in range(4):
                way = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), x)
                steps = [float(J(jax.tree.map(lambda v, w, e=e: v + e * w, x, way))) for e in (1e-5, -1e-5)]
                slope = sum(jax.tree.leaves(jax.tree.map(lambda g, w: float(jnp.sum(g * w)), gradient, way)))
                assert slope == pytest.approx((steps[0] - steps[1]) / 2e-5, rel=1e-5)

    def test_is_not_worse_than_its_starts_and_stable(self) -> None:
        given = layer(5, bidirectional=True)
        full = taps(given.system)

        def error(system: DiagonalSSM) -> float:
            return float(np.sum((taps(system) - full) ** 2))

        fitted = load_method("h2", {"steps": 60}).fit([given], 0)
        (found,) = fitted.reduce([np.asarray(2)])
        keep = np.sort(np.argsort(-scores("aire", given, variant="gram"))[:2])
        refit = load_refit("h2")()
        starts = [given.system.take(keep), load_method("bt").fit([given], 0).reduce([np.asarray(2)])[0].system]
        assert error(found.system) <= min(error(refit(given, start)) for start in starts) * (1 + 1e-7)
        with jax.enable_x64(True):
            assert (np.abs(np.asarray(found.system.discretise()[0])) < 1).all()
