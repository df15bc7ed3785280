"""The refit of outputs against least squares on the impulse response itself, and its promise never to do harm."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from impulse import energy, impulse_response, relative_error
from scipy.linalg import solve_discrete_lyapunov
from systems import random_system

from s5c.errors import UserError
from s5c.reduction.contract import load_refit, refit_names
from s5c.reduction.layer import Layer
from s5c.reduction.moments import Moments
from s5c.reduction.refit.covariance import Refit as Covariance
from s5c.reduction.refit.h2 import Refit
from s5c.ssm.system import DiagonalSSM, stack

P, R, H, LONG, SHORT = 5, 3, 2, 700, 9
both = pytest.mark.parametrize("bidirectional", [False, True])
EXAMPLES = settings(max_examples=15, deadline=None, derandomize=True)


def make(seed: int, bidirectional: bool = False, p: int = P, h: int = H) -> DiagonalSSM:
    return random_system(np.random.default_rng(seed), p, h, bidirectional=bidirectional, radius=0.95)


def changed(system: DiagonalSSM, **arrays: np.ndarray) -> DiagonalSSM:
    with jax.enable_x64(True):
        return dataclasses.replace(system, **{name: jnp.asarray(value) for name, value in arrays.items()})


def best_error(full: DiagonalSSM, reduced: DiagonalSSM, length: int, mix: np.ndarray, feedthrough: bool) -> float:
    """Returns the relative error with the best outputs: one least-squares problem per output, on all taps."""
    whole, own = impulse_response(full, length) @ mix, np.zeros((2 * length - 1, H, H))
    own[length - 1] = mix
    # An output matrix that reads Re or Im of one state gives that state's response.
    signals, r = [], reduced.state_dim
    zeros = np.zeros((H, r), complex)
    for name in ("C", "C_backward") if reduced.C_backward is not None else ("C",):
        for state in range(r):
            for phase in (1, 1j):
                reading = zeros.copy()
                reading[0, state] = phase
                silent = {"C": zeros, "C_backward": None if reduced.C_backward is None else zeros, "D": np.zeros(H)}
                alone = changed(reduced, **{k: v for k, v in {**silent, name: reading}.items() if v is not None})
                signals.append((impulse_response(alone, length) @ mix)[:, 0].ravel())
    left = 0.0
    for i in range(H):
        target, columns = whole[:, i].ravel(), list(signals)
        if feedthrough:
            columns.append(own[:, i].ravel())
        else:
            target = target - float(reduced.D[i]) * own[:, i].ravel()
        matrix = np.array(columns).T
        left += energy(target - matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0])
    return float(np.sqrt(left / energy(whole)))


# ---- the minimum


@pytest.mark.few(1)
@both
@pytest.mark.parametrize(("feedthrough", "horizon"), [(True, None), (False, None), (True, SHORT)])
def test_no_other_outputs_are_better(bidirectional: bool, feedthrough: bool, horizon: int | None) -> None:
    full, poles = make(0, bidirectional), make(1, bidirectional, p=R)
    refit = Refit(feedthrough=feedthrough, horizon="sequence" if horizon else "infinite")
    for reduced in (full.take(np.array([0, 2, 4])), poles):
        found = refit(Layer(full, horizon), reduced)
        expected = best_error(full, reduced, horizon or LONG, np.eye(H), feedthrough)
        np.testing.assert_allclose(relative_error(full, found, horizon or LONG), expected, rtol=1e-9)
        assert expected < 0.99 * relative_error(full, reduced, horizon or LONG)
        for name in ("Lambda", "B", "Delta") if feedthrough else ("Lambda", "B", "Delta", "D"):
            np.testing.assert_array_equal(getattr(found, name), getattr(reduced, name))


def test_without_feedthrough_it_is_the_textbook_formula() -> None:
    """C X P^{-1} from scipy's Lyapunov equation of both systems together, on real states."""
    full, reduced = make(2), make(3, p=R)

    def real(system: DiagonalSSM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            a, B = (np.asarray(x) for x in system.discretise())
        C = np.asarray(system.C)
        A = np.block([[np.diag(a.real), -np.diag(a.imag)], [np.diag(a.imag), np.diag(a.real)]])
        return A, np.concatenate([B.real, B.imag]), 2 * np.concatenate([C.real, -C.imag], axis=1)

    (A, B, C), (Ar, Br, _) = real(full), real(reduced)
    both_A = np.block([[A, np.zeros((2 * P, 2 * R))], [np.zeros((2 * R, 2 * P)), Ar]])
    both_B = np.concatenate([B, Br])
    joint = solve_discrete_lyapunov(both_A, both_B @ both_B.T)
    best = np.linalg.solve(joint[2 * P :, 2 * P :], joint[: 2 * P, 2 * P :].T @ C.T).T / 2
    reduced = changed(reduced, D=np.asarray(full.D))
    found = np.asarray(Refit(feedthrough=False)(Layer(full), reduced).C)
    np.testing.assert_allclose(found, best[:, :R] - 1j * best[:, R:], rtol=1e-8)


@both
@EXAMPLES
@given(seed=st.integers(0, 2**20), share=st.floats(0.01, 1.0), feedthrough=st.booleans())
def test_it_never_raises_the_error(bidirectional: bool, seed: int, share: float, feedthrough: bool) -> None:
    """Reduced systems near to and far from the full one, of well and badly conditioned poles."""
    full, other = make(seed, bidirectional), make(seed + 1, bidirectional).take(np.arange(R))
    near = full.take(np.arange(R))
    mixed = {n: (1 - share) * np.asarray(getattr(near, n)) + share * np.asarray(getattr(other, n)) for n in ("B", "C")}
    crowded = np.asarray(near.Lambda * near.Delta) * np.array([1, share, 1 - 1e-9])
    reduced = changed(near, Lambda=crowded / np.asarray(near.Delta), **mixed)
    found = Refit(feedthrough=feedthrough)(Layer(full), reduced)
    before = relative_error(full, reduced, LONG)
    assert relative_error(full, found, LONG) <= before * (1 + 1e-9) + 1e-9


@both
def test_a_layer_of_all_its_modes_stays_as_it_is(bidirectional: bool) -> None:
    full = make(4, bidirectional)
    found = Refit()(Layer(full), full)
    for name in ("C", "D", *(("C_backward",) if bidirectional else ())):
        np.testing.assert_allclose(getattr(found, name), getattr(full, name), atol=1e-9)


# ---- what it meets in practice


@both
def test_unstable_modes_keep_their_outputs(bidirectional: bool) -> None:
    full = make(5, bidirectional)
    Lambda = np.array(full.Lambda)
    Lambda[4] = 0.3 + 1j
    stays = np.array([0, 2, 4])
    found = Refit()(Layer(changed(full, Lambda=Lambda)), changed(full, Lambda=Lambda).take(stays))
    stable = Refit()(Layer(full.take(np.arange(4))), full.take(stays[:2]))
    np.testing.assert_allclose(found.C[:, 2], full.C[:, 4], rtol=1e-14)
    np.testing.assert_allclose(found.C[:, :2], stable.C, rtol=1e-8)
    np.testing.assert_allclose(found.D, stable.D, rtol=1e-8)


def test_twins_silent_states_and_fast_states_are_survived() -> None:
    """Regressors that repeat each other, are zero, or know the input so well that D is not needed."""
    full, near = make(6), make(6).take(np.arange(R))
    log_a = np.array(near.Lambda * near.Delta)
    log_a[1] = log_a[0]
    B = np.array(near.B)
    B[1] = B[0]
    cases = [
        changed(near, Lambda=log_a / np.asarray(near.Delta), B=B),
        changed(near, B=B * np.array([[1], [0], [1]])),
        changed(near, Lambda=(-40 + 1j * np.arange(R)) / np.asarray(near.Delta)),
    ]
    for reduced in cases:
        found = Refit()(Layer(full), reduced)
        assert all(np.isfinite(np.asarray(x)).all() for x in (found.C, found.D))
        expected = best_error(full, reduced, LONG, np.eye(H), feedthrough=True)
        np.testing.assert_allclose(relative_error(full, found, LONG), expected, rtol=1e-6)


@both
@pytest.mark.slow
def test_channels_are_solved_one_by_one(bidirectional: bool) -> None:
    singles = [make(seed, bidirectional, h=1) for seed in (7, 8)]
    with jax.enable_x64(True):
        layer, reduced = Layer(stack(singles)), stack([s.take(np.arange(R)) for s in singles])
    found = Refit()(layer, reduced)
    assert found.C.shape == (2, 1, R)
    for i, single in enumerate(singles):
        alone = Refit()(Layer(single), single.take(np.arange(R)))
        np.testing.assert_allclose(found.C[i], alone.C, rtol=1e-9)
        np.testing.assert_allclose(found.D[i], alone.D, rtol=1e-9)


def test_one_program_serves_all_orders() -> None:
    from s5c.reduction.refit.h2 import best_outputs

    full = make(9)
    Refit()(Layer(full), full.take(np.arange(2)))
    before = best_outputs._cache_size()
    for order in (1, 3, 4):
        assert Refit()(Layer(full), full.take(np.arange(order))).C.shape == (H, order)
    assert best_outputs._cache_size() == before


# ---- correlated inputs


def moments_of(u: np.ndarray, states: int) -> Moments:
    z = np.concatenate([np.zeros((len(u), states)), u, np.ones((len(u), 1))], axis=1)
    with jax.enable_x64(True):
        nothing = jnp.zeros(u.shape[1])
        cross = jnp.zeros((u.shape[1], z.shape[1]))
        return Moments(
            zz=jnp.asarray(z.T @ z), yz=cross, yy=nothing, count=jnp.asarray(float(len(u))), energy=jnp.zeros(())
        )


@both
def test_correlated_inputs_count_as_they_are_correlated(bidirectional: bool) -> None:
    full, reduced = make(10, bidirectional), make(10, bidirectional).take(np.arange(R))
    u = np.random.default_rng(0).normal(size=(50, H)) @ np.array([[1.0, 0.9], [0.0, 0.2]]) + 3
    values, vectors = np.linalg.eigh(np.cov(u.T, bias=True))
    mix = vectors * np.sqrt(values)
    found = Covariance()(Layer(full, moments=moments_of(u, 2 * R)), reduced)
    expected = best_error(full, reduced, LONG, mix, feedthrough=True)
    np.testing.assert_allclose(relative_error(full, found, LONG, mix), expected, rtol=1e-8)
    white = Refit()(Layer(full), reduced)
    assert relative_error(full, white, LONG, mix) > 1.01 * expected


def test_refits_are_found_by_name_and_ask_for_what_they_need() -> None:
    assert {"none", "h2", "covariance"} <= set(refit_names())
    assert load_refit("h2") is Refit and not Refit.needs_moments and Covariance.needs_moments
    full = make(0)
    assert load_refit("none")()(Layer(full), full) is full
    with pytest.raises(UserError, match="`covariance` needs the covariance of a layer's inputs"):
        Covariance()(Layer(full), full)
    with pytest.raises(UserError, match="the length of the sequences is not known"):
        Refit(horizon="sequence")(Layer(full), full)
    with pytest.raises(UserError, match=r"(?s)horizon 'sequenz'.*nearest first: sequence, infinite"):
        Refit(horizon="sequenz")
