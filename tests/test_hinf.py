"""The H-infinity score against frequency sweeps, simulations and the greedy procedure that LAST derives it from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from systems import random_system, simulate

from s5c.reduction import stage
from s5c.reduction.contract import load_allocation, load_method
from s5c.reduction.layer import Layer
from s5c.reduction.method.hinf import Method
from s5c.ssm.system import DiagonalSSM


class Mode(NamedTuple):
    """One stored mode: G(z) = c b^T / (z - a)."""

    a: complex
    b: np.ndarray
    c: np.ndarray

    def response(self, angle: float) -> np.ndarray:
        return np.outer(self.c, self.b) / (np.exp(1j * angle) - self.a)

    def pair_response(self, angle: float) -> np.ndarray:
        """The mode and its conjugate, which is what runs: y = 2 Re(C x)."""
        return self.response(angle) + self.response(-angle).conj()


def discretised(system: DiagonalSSM) -> tuple[np.ndarray, np.ndarray]:
    """Returns (Lambda_bar, B_bar) by zero-order hold, in NumPy."""
    Lambda, Delta, B = (np.asarray(x) for x in (system.Lambda, system.Delta, system.B))
    Lambda_bar = np.exp(Lambda * Delta)
    return Lambda_bar, ((Lambda_bar - 1) / Lambda)[:, None] * B


def modes(system: DiagonalSSM) -> list[Mode]:
    Lambda_bar, B_bar = discretised(system)
    return [Mode(*mode) for mode in zip(Lambda_bar, B_bar, np.asarray(system.C).T, strict=True)]


def peak(response: Callable[[float], np.ndarray], start: np.ndarray) -> float:
    """Returns the largest spectral norm over all angles: a sweep, refined around the best angles found."""

    def gain(angle: float) -> float:
        return float(np.linalg.norm(response(angle), 2))

    gains = np.array([gain(angle) for angle in start])
    best = gains.max()
    for i in np.argsort(-gains)[:3]:
        width = np.diff(start).max()
        found = minimize_scalar(
            lambda angle: -gain(angle), bounds=(start[i] - width, start[i] + width), options={"xatol": 1e-12}
        )
        best = max(best, -found.fun)
    return best


SWEEP = np.linspace(-np.pi, np.pi, 721)


def scores_of(method: Method, system: DiagonalSSM) -> np.ndarray:
    return stage.rank(method, load_allocation("global"), [Layer(system)], seed=0).scores[0]


def make_system(seed: int, bidirectional: bool = False, p: int = 5, h: int = 3) -> DiagonalSSM:
    return random_system(np.random.default_rng(seed), p, h, bidirectional=bidirectional)


# --- the norm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_the_squared_peak_of_the_stored_mode(seed: int) -> None:
    system = make_system(seed)
    expected = [peak(mode.response, SWEEP) ** 2 for mode in modes(system)]
    np.testing.assert_allclose(scores_of(Method(), system), expected, rtol=1e-8)


def test_the_peak_is_at_the_angle_of_the_pole() -> None:
    system = make_system(0)
    at_the_pole = [np.linalg.norm(mode.response(float(np.angle(mode.a))), 2) ** 2 for mode in modes(system)]
    np.testing.assert_allclose(scores_of(Method(), system), at_the_pole, rtol=1e-12)


def test_a_slow_mode_is_scored_in_double_precision() -> None:
    """1 - |a| = 1e-9: single precision, which cannot tell such a mode from an unstable one, would give infinity."""
    system = make_system(0)
    with jax.enable_x64(True):
        Lambda = (-1e-9 + 0.5j) / system.Delta
        slow = dataclasses.replace(system, Lambda=Lambda)
    Lambda_bar, B_bar = discretised(slow)
    assert (np.abs(Lambda_bar.astype(np.complex64)) >= 1).any()
    energy = (np.abs(np.asarray(slow.C)) ** 2).sum(0) * (np.abs(B_bar) ** 2).sum(1)
    np.testing.assert_allclose(scores_of(Method(), slow), energy / np.expm1(-1e-9) ** 2, rtol=1e-6)


def test_the_bilinear_transform_is_scored_as_it_runs() -> None:
    system = random_system(np.random.default_rng(0), 5, 3, discretisation="bilinear")
    Lambda, Delta, B = (np.asarray(x) for x in (system.Lambda, system.Delta, system.B))
    a, b = (1 + Delta * Lambda / 2) / (1 - Delta * Lambda / 2), (Delta / (1 - Delta * Lambda / 2))[:, None] * B
    expected = [peak(Mode(*mode).response, SWEEP) ** 2 for mode in zip(a, b, np.asarray(system.C).T, strict=True)]
    np.testing.assert_allclose(scores_of(Method(), system), expected, rtol=1e-8)


# --- conjugate pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_conjugate_partner_changes_the_gain_by_its_share_at_the_peak(seed: int) -> None:
    """The pair's gain is at most twice the mode's, and falls short of it by at most the partner's gain there."""
    system = make_system(seed)
    for mode, score in zip(modes(system), scores_of(Method(), system), strict=True):
        factor = peak(mode.pair_response, SWEEP) / np.sqrt(score)
        partner = (1 - abs(mode.a)) / abs(np.exp(1j * np.angle(mode.a)) - mode.a.conjugate())
        assert 1 - partner - 1e-9 <= factor <= 2 + 1e-9


def test_the_pair_gain_near_the_real_axis() -> None:
    b, c = np.array([1.0, 2.0]), np.array([0.5, 1.0, -1.0])
    single = 10 * np.linalg.norm(b) * np.linalg.norm(c)
    assert peak(Mode(0.9 + 0j, b, c).pair_response, SWEEP) == pytest.approx(2 * single)
    assert peak(Mode(0.9 + 0j, b, 1j * c).pair_response, SWEEP) == pytest.approx(0)  # the partner cancels it
    assert peak(Mode(0.9j, b, 1j * c).pair_response, SWEEP) == pytest.approx(single, rel=0.06)


# --- the error of removing modes --------------------------------------------------------------------------------------


def energy(x: np.ndarray) -> float:
    return float((np.abs(x) ** 2).sum())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_sum_of_the_norms_bounds_the_error(seed: int, bidirectional: bool) -> None:
    """J <= (2 d sum_{i removed} ||G_i||)^2 ||u||^2: 2 for the conjugate pairs, d directions."""
    rng = np.random.default_rng(seed)
    system = make_system(seed, bidirectional)
    gains = np.sqrt(scores_of(Method(), system))
    directions = 2 if bidirectional else 1
    Lambda_bar, B_bar = discretised(system)
    C, C_backward = np.asarray(system.C), np.asarray(system.C_backward) if bidirectional else None
    hardest = np.argmax(gains)
    tones = np.cos(np.angle(Lambda_bar[hardest]) * np.arange(400))[:, None] * np.ones(3)
    for u in (rng.normal(size=(400, 3)), tones):
        removed = rng.random(5) < 0.6
        removed[hardest] = True
        backward = None if C_backward is None else C_backward[:, removed]
        lost = simulate(u[None], Lambda_bar[removed], B_bar[removed], C[:, removed], backward)
        bound = (2 * directions * gains[removed].sum()) ** 2 * energy(u)
        assert 0 < energy(lost) <= bound


def test_the_sum_of_the_squares_bounds_nothing() -> None:
    """Two identical modes: the error energy is 4 g^2 ||u||^2, above the 2 g^2 of the published form."""
    a, steps = 0.9 * np.exp(1j), np.arange(2000)
    u = np.exp(1j * steps)  # drives the mode at its peak
    x = np.zeros(len(u), complex)
    for k in steps:
        x[k] = (a * x[k - 1] if k else 0) + u[k]
    lost, gain = 2 * x, 1 / (1 - abs(a))
    assert energy(lost) > 1.9 * (2 * gain**2) * energy(u)
    assert energy(lost) <= (2 * gain) ** 2 * energy(u)


# --- LAST -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_is_the_greedy_procedure(seed: int, bidirectional: bool) -> None:
    """One sort equals: again and again remove the state that loses the smallest share of its layer's remaining gain."""
    systems = [make_system(10 * seed + layer, bidirectional) for layer in range(3)]
    ranking = stage.rank(Method(), load_allocation("normalised"), [Layer(s) for s in systems], seed=0)
    remaining = [dict(enumerate(scores)) for scores in ranking.scores]
    removed = []
    while sum(map(len, remaining)) > len(remaining):
        _, layer, state = min(
            (h / sum(states.values()), layer, state)
            for layer, states in enumerate(remaining)
            for state, h in states.items()
            if len(states) > 1
        )
        del remaining[layer][state]
        removed.append(5 * layer + state)
    assert ranking.order[::-1][: len(removed)].tolist() == removed


def test_the_scale_of_a_layer_does_not_matter_to_last() -> None:
    systems = [make_system(layer) for layer in range(3)]
    with jax.enable_x64(True):
        scaled = [systems[0], dataclasses.replace(systems[1], B=1e3 * systems[1].B), systems[2]]
    orders = {}
    for allocation in ("normalised", "uniform", "global"):
        one, two = (
            stage.rank(Method(), load_allocation(allocation), [Layer(one) for one in s], seed=0)
            for s in (systems, scaled)
        )
        orders[allocation] = [stage.select(ranking, 0.5).orders for ranking in (one, two)]
    assert orders["normalised"][0] == orders["normalised"][1]
    assert orders["uniform"][0] == orders["uniform"][1]
    assert orders["global"][0][1] < 5 == orders["global"][1][1]  # one raw threshold serves the loud layer


# --- the published code -----------------------------------------------------------------------------------------------


def parts(system: DiagonalSSM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ||C1_i||, ||C2_i|| and ||B_bar_i||^2 / (1 - |a_i|)^2."""
    Lambda_bar, B_bar = discretised(system)
    norms = [np.linalg.norm(np.asarray(C), axis=0) for C in (system.C, system.C_backward) if C is not None]
    return norms[0], norms[-1], (np.abs(B_bar) ** 2).sum(1) / (1 - np.abs(Lambda_bar)) ** 2


def test_paper_and_released_differ_in_the_square_of_bidirectional_layers() -> None:
    one_way, two_way = make_system(0), make_system(0, bidirectional=True)
    np.testing.assert_array_equal(scores_of(Method(), one_way), scores_of(Method(score="released"), one_way))
    c1, c2, rest = parts(two_way)
    np.testing.assert_allclose(scores_of(Method(), two_way), ((c1 + c2) / 2) ** 2 * rest, rtol=1e-12)
    np.testing.assert_allclose(scores_of(Method(score="released"), two_way), (c1 + c2) / 4 * rest, rtol=1e-12)


def test_eps_is_added_to_the_squared_margin() -> None:
    system = make_system(0)
    margin = 1 - np.abs(discretised(system)[0])
    plain, shifted = scores_of(Method(), system), scores_of(Method(eps=1e-3), system)
    np.testing.assert_allclose(shifted, plain * margin**2 / (margin**2 + 1e-3), rtol=1e-12)


def test_magnitude_and_lamp_multiply_the_parameters() -> None:
    system = make_system(0, bidirectional=True)
    Lambda_bar, B_bar = discretised(system)
    c1, c2, _ = parts(system)
    size = np.abs(Lambda_bar) * np.linalg.norm(B_bar, axis=1) * (c1 + c2) / 2
    for power in (1, 2):
        method = load_method("magnitude", {"power": power})
        np.testing.assert_allclose(scores_of(method, system), size**power, rtol=1e-12)


def test_a_mode_on_the_unit_circle_counts_as_unstable() -> None:
    system = make_system(0)
    Lambda = np.array(system.Lambda)
    Lambda[2] = 0  # an integrator: |a| = 1
    with jax.enable_x64(True):
        system = dataclasses.replace(system, Lambda=jnp.asarray(Lambda))
    assert np.isinf(scores_of(Method(), system)).tolist() == [False, False, True, False, False]
