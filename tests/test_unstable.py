"""Modes outside of the unit circle: what scores make of them, what is said of them, and where they are counted."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from impulse import energy, impulse_response
from reductions import SELECTIONS, make_network, rank, unstable, with_arrays
from systems import random_system

from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.family.s5 import Config, from_system
from s5c.reduction import stage
from s5c.reduction.allocation.greedy import priority as greedy
from s5c.reduction.allocation.normalised import priority as normalised
from s5c.reduction.allocation.tolerance import priority as tolerance
from s5c.reduction.contract import load_allocation, load_method
from s5c.reduction.error import layer_errors
from s5c.reduction.layer import Layer
from s5c.reduction.refit.h2 import Refit
from s5c.reduction.unstable import account, count
from s5c.ssm.modal import log_poles
from s5c.ssm.system import DiagonalSSM

P, H, LAGS = 6, 3, 40
OUTSIDE = [1, 4]
SCORES = {"hinf": {}, "aire": {}, "magnitude": {}, "aire_gram": {"variant": "gram"}}
every_score = pytest.mark.parametrize("name", SCORES)
both = pytest.mark.parametrize("bidirectional", [False, True])
discretisations = pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])


def system_of(seed: int, bidirectional: bool = False, discretisation: str = "zoh") -> DiagonalSSM:
    """Returns a layer of which two modes are unstable, by up to some percent a step."""
    rng = np.random.default_rng(seed)
    return unstable(
        random_system(rng, P, H, bidirectional=bidirectional, radius=0.98, discretisation=discretisation), OUTSIDE
    )


def scores(name: str, system: DiagonalSSM, lags: int | None = None, **options: object) -> np.ndarray:
    method = load_method(name.partition("_")[0], {**SCORES.get(name, {}), **options})
    return stage.rank(method, load_allocation("global"), [Layer(system, lags)], seed=0).scores[0]


def parts(system: DiagonalSSM) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns moduli of the poles, input gains and output norms of every direction, in NumPy."""
    Lambda, Delta, B = (np.asarray(x) for x in (system.Lambda, system.Delta, system.B))
    if system.discretisation == "zoh":
        a = np.exp(Lambda * Delta)
        B_bar = ((a - 1) / Lambda)[:, None] * B
    else:
        a, B_bar = (1 + Delta * Lambda / 2) / (1 - Delta * Lambda / 2), (Delta / (1 - Delta * Lambda / 2))[:, None] * B
    norms = [np.linalg.norm(np.asarray(C), axis=0) for C in (system.C, system.C_backward) if C is not None]
    return np.abs(a), (np.abs(B_bar) ** 2).sum(1), norms


# ---- the formulas


@both
@discretisations
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_the_formula_is_the_published_one_for_every_mode(bidirectional: bool, discretisation: str, eps: float) -> None:
    system = system_of(0, bidirectional, discretisation)
    r, gain, norms = parts(system)
    assert (np.flatnonzero(r >= 1) == OUTSIDE).all()
    mean = sum(norms) / len(norms)
    np.testing.assert_allclose(scores("hinf", system, eps=eps), mean**2 * gain / ((1 - r) ** 2 + eps), rtol=1e-9)
    squares = sum(n**2 for n in norms)
    np.testing.assert_allclose(scores("aire", system, eps=eps), squares * gain / (1 - r**2 + eps), rtol=1e-9)
    np.testing.assert_allclose(scores("magnitude", system, power=2), r**2 * gain * mean**2, rtol=1e-9)
    if bidirectional:  # the published slip in the precedence of operators
        unsquared = sum(norms) / 4 * gain
        options = {"eps": eps, "score": "released"}
        np.testing.assert_allclose(scores("hinf", system, **options), unsquared / ((1 - r) ** 2 + eps), rtol=1e-9)
        np.testing.assert_allclose(scores("aire", system, **options), unsquared / (1 - r**2 + eps), rtol=1e-9)


@every_score
@pytest.mark.parametrize("bidirectional", [True])
def test_protected_modes_score_infinity_and_the_others_as_ever(name: str, bidirectional: bool) -> None:
    system = system_of(1, bidirectional)
    found = scores(name, system, unstable="protect")
    assert np.flatnonzero(np.isinf(found)).tolist() == OUTSIDE
    others = np.setdiff1d(np.arange(P), OUTSIDE)
    with jax.enable_x64(True):
        alone = system.take(others)
    np.testing.assert_allclose(found[others], scores(name, alone), rtol=1e-12)


@every_score
@pytest.mark.parametrize(("bidirectional", "discretisation"), [(False, "zoh"), (True, "bilinear")])
def test_clipped_modes_score_as_in_the_network_that_clips(name: str, bidirectional: bool, discretisation: str) -> None:
    """The oracle is S5's own rule: the parameters read back under clip_eigs."""
    system = system_of(2, bidirectional, discretisation)
    options = {"bidirectional": bidirectional, "discretisation": discretisation}
    config = Config(n_layers=1, d_model=H, state_size=2 * P, blocks=1, **options)
    params = {"encoder": {"layers_0": {"seq": from_system(system, config)}}}
    (as_stored,) = surgery.systems(params, config)
    (as_clipped,) = surgery.systems(params, dataclasses.replace(config, clip_eigs=True))
    assert count(as_stored) == 2 and count(as_clipped) == 0
    np.testing.assert_array_equal(scores(name, as_stored, unstable="clip"), scores(name, as_clipped))


@both
@pytest.mark.parametrize("name", ["aire", "aire_gram"])
@pytest.mark.slow
def test_over_the_length_of_the_sequences_every_mode_has_its_energy(name: str, bidirectional: bool) -> None:
    """Growing modes, and one on the unit circle: their responses summed lag by lag."""
    system = system_of(3, bidirectional)
    Lambda = np.array(system.Lambda)
    Lambda[2] = 1j * Lambda[2].imag
    system = with_arrays(system, Lambda=Lambda, D=0 * np.asarray(system.D))
    found = scores(name, system, LAGS, horizon="sequence")
    if name == "aire":
        r, gain, norms = parts(system)
        lags = (r[:, None] ** (2 * np.arange(LAGS))).sum(1)
        np.testing.assert_allclose(found, sum(n**2 for n in norms) * gain * lags, rtol=1e-9)
        return
    order, left, before = np.argsort(found), list(range(P)), 0.0
    gone: list[int] = []
    for k in order:  # every removal is the cheapest
        prices = {i: energy(impulse_response(system.take(np.array([*gone, i])), LAGS)) for i in left}
        assert prices[k] <= min(prices.values()) * (1 + 1e-9)
        gone, before = [*gone, int(k)], prices[k]
        left.remove(k)
    np.testing.assert_allclose(before, energy(impulse_response(system, LAGS)), rtol=1e-9)


@pytest.mark.parametrize("name", ["aire", "aire_gram"])
def test_a_mode_that_grows_out_of_all_numbers_still_has_a_score(name: str) -> None:
    system = system_of(4)
    Lambda = np.array(system.Lambda)
    Lambda[1] = 2 / np.asarray(system.Delta)[1] + 1j  # e^2 a step: e^{2000} over 1,000 of them
    found = scores(name, with_arrays(system, Lambda=Lambda), 1000, horizon="sequence")
    assert np.isfinite(found).all() and found.argmax() == 1


def test_the_elimination_of_gram_takes_modes_of_negative_energy_first() -> None:
    for seed in range(4):
        system = system_of(seed)
        found = scores("aire_gram", system)
        assert np.isfinite(found).all() and (found > 0).all()
        assert set(np.argsort(found)[:1]) <= set(OUTSIDE)
        energies = scores("aire", system)
        assert (energies[OUTSIDE] < 0).all()


# ---- where stability is decided


@pytest.mark.parametrize("name", [*SCORES, "random"])
@discretisations
def test_stability_is_decided_on_the_logarithm_of_the_pole(name: str, discretisation: str) -> None:
    """A mode that loses 1e-17 a step is stable, though |a| rounds to 1; one that gains as much is not."""
    system = random_system(np.random.default_rng(5), P, H, discretisation=discretisation)
    Delta = np.asarray(system.Delta)
    Lambda = np.array(system.Lambda)
    Lambda[:2] = np.array([-1e-17, 1e-17]) / Delta[:2] + 1e-3j
    system = with_arrays(system, Lambda=Lambda)
    with jax.enable_x64(True):
        np.testing.assert_allclose(np.abs(np.asarray(system.discretise()[0]))[:2], 1, rtol=2.3e-16)
    assert np.flatnonzero(np.isinf(scores(name, system, unstable="protect"))).tolist() == [1]
    assert count(system) == 1


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "calibrated"])  # which looks at data
def test_no_score_and_no_priority_is_nan(name: str) -> None:
    """On the circle with and without an input, outside, and a layer of nothing else."""
    first, second, third = make_network()
    Lambda, B, Delta = (np.array(getattr(first, key)) for key in ("Lambda", "B", "Delta"))
    Lambda[:3] = 0, 2j, 3j
    B[2] = 0
    Delta[4] = 0  # never sees its input
    systems = [
        with_arrays(first, Lambda=Lambda, B=B, Delta=Delta),
        unstable(second, [0]),
        unstable(third, list(range(len(Lambda)))),
    ]
    for allocation in ("normalised", "global", "greedy", "tolerance", "uniform"):
        found = rank(name, systems, allocation)
        assert not any(np.isnan(x).any() for x in (*found.scores, *found.priorities))
        for ratio in (0.3, 0.7):
            assert min(stage.select(found, ratio).orders) >= 1


def test_a_mode_on_the_circle_has_no_finite_norm_and_one_without_input_none_to_lose() -> None:
    system = random_system(np.random.default_rng(6), P, H)
    Lambda, B = np.array(system.Lambda), np.array(system.B)
    Lambda[:2], B[1] = 2j, 0
    system = with_arrays(system, Lambda=Lambda, B=B)
    for name in ("hinf", "aire"):
        found = scores(name, system)
        assert np.isposinf(found[0]) and found[1] == 0
        assert np.isfinite(scores(name, system, eps=1e-8)).all()


# ---- how negative scores compete


def test_negative_scores_compete_as_published() -> None:
    ranked = np.array([3.0, 1.0, -0.5, -2.0, -9.0])
    with jax.enable_x64(True):
        found = np.asarray(normalised(jnp.asarray(ranked)))
        np.testing.assert_allclose(found, [1, 0.25, -0.5 / 3.5, -2 / 1.5, 9 / 7.5], rtol=1e-14)
        np.testing.assert_allclose(greedy(jnp.asarray(ranked)), ranked / 4, rtol=1e-14)
        ours = np.asarray(tolerance(jnp.asarray(ranked)))
    np.testing.assert_allclose(ours, [1, 0.25, -0.5 / 4, -2 / 4, -9 / 4], rtol=1e-14)


def test_modes_of_negative_energy_go_first_and_cost_nothing() -> None:
    ranking = rank("aire", [system_of(7, True), random_system(np.random.default_rng(8), P, H, bidirectional=True)])
    assert (ranking.scores[0][OUTSIDE] < 0).all()
    selected = stage.select(ranking, 2 / (2 * P))
    assert np.flatnonzero(~selected.keep[0]).tolist() == OUTSIDE and selected.keep[1].all()
    free = stage.select_tolerance(ranking, 0.0)
    assert np.flatnonzero(~free.keep[0]).tolist() == OUTSIDE and free.keep[1].all()


# ---- what is said


def test_what_became_of_unstable_modes_is_told() -> None:
    layers = [Layer(system_of(9)), Layer(random_system(np.random.default_rng(9), P, H)), Layer(system_of(10))]
    keep = [np.ones(P, bool) for _ in layers]
    keep[2][[0, 1]] = False
    (said,) = account(layers, keep, "formula")
    assert said == (
        "4 unstable modes (|Lambda_bar| >= 1) are scored by the formula, and 1 of them are removed (layer 0: 0 of 2, "
        "layer 2: 1 of 2). reduction.unstable=protect keeps them all."
    )
    assert "as if clipped" in account(layers, keep, "clip")[0]
    assert account(layers, keep, "protect") == [] and account(layers[1:2], keep[1:2], "formula") == []


def test_a_wrong_treatment_is_refused() -> None:
    for name in ("hinf", "aire", "magnitude"):
        with pytest.raises(UserError, match=r"(?s)reduction.unstable 'keep'.*nearest first: .*protect"):
            load_method(name, {"unstable": "keep"})
    with pytest.raises(UserError, match=r"(?s)reduction.unstable 'clip'.*formula, protect|protect, formula"):
        load_method("random", {"unstable": "clip"})


def test_an_error_without_the_removed_unstable_modes_is_no_number() -> None:
    """Their norm is infinite: what is left of the difference says nothing of the layer."""
    system = system_of(11)
    with jax.enable_x64(True):
        without_stable, without_unstable = (
            system.take(np.array([0, 1, 2, 4, 5])),
            system.take(np.array([0, 2, 3, 4, 5])),
        )
        silent = with_arrays(system, B=np.where(np.arange(P)[:, None] == 3, 0, np.asarray(system.B)))
    layer = Layer(system)
    found = [layer_errors([layer], [s])[0].h2 for s in (without_stable, silent, without_unstable)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    assert 0 < found[0] < 1 and np.isnan(found[2])
    assert count(system) == 2 and count(without_unstable) == 1


def test_a_refit_does_not_make_up_for_removed_unstable_modes() -> None:
    system = system_of(12)
    with jax.enable_x64(True):
        reduced = system.take(np.array([0, 2, 3]))
    deaf = with_arrays(system, B=np.where(np.isin(np.arange(P), OUTSIDE)[:, None], 0, np.asarray(system.B)))
    found, expected = Refit()(Layer(system), reduced), Refit()(Layer(deaf), reduced)
    np.testing.assert_allclose(found.C, expected.C, rtol=1e-9)
    np.testing.assert_allclose(found.D, expected.D, rtol=1e-9)


def test_unstable_modes_of_channels_are_counted_together() -> None:
    with jax.enable_x64(True):
        channels = jax.tree.map(lambda *x: jnp.stack(x), *(system_of(seed) for seed in range(3)))
        assert count(channels) == 6 and (np.asarray(log_poles(channels).real) >= 0).sum() == 6
