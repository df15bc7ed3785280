"""Norms and responses of single systems against dense matrices: SciPy's Gramians, pyMOR, a sweep of the circle."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from pymor.models.iosys import LTIModel
from systems import random_system

import s5c
from s5c.ssm.system import DiagonalSSM


def dense(system: DiagonalSSM, C: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Both halves of every pair in the textbook's form x' = A x + B u, y = C x + D u, with the input at lag 0 in D."""
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    C = np.asarray(system.C) if C is None else C
    A, B = np.diag(np.concatenate([a, a.conj()])), np.concatenate([B, B.conj()])
    C = np.concatenate([C, C.conj()], axis=1)
    return A, B, C @ A, (C @ B).real + np.diag(np.asarray(system.D))


def swept(system: DiagonalSSM, angles: np.ndarray) -> np.ndarray:
    def one(C: np.ndarray | None = None) -> np.ndarray:
        A, B, C, D = dense(system, C)
        shifted = np.exp(1j * angles)[:, None, None] * np.eye(len(A)) - A
        return C @ np.linalg.solve(shifted, np.broadcast_to(B, (len(angles), *B.shape))) + D

    if system.C_backward is None:
        return one()
    backward = one(np.asarray(system.C_backward)) - np.diag(np.asarray(system.D))
    return one() + backward.conj()


@pytest.fixture(params=["one direction", "both directions"])
def system(request: pytest.FixtureRequest, rng: np.random.Generator) -> DiagonalSSM:
    return random_system(rng, 6, 2, bidirectional=request.param == "both directions")


def test_the_response_is_that_of_the_dense_system(system: DiagonalSSM) -> None:
    angles = np.linspace(0, np.pi, 50)
    np.testing.assert_allclose(s5c.frequency_response(system, angles), swept(system, angles), rtol=1e-9, atol=1e-9)


def test_norms_of_the_dense_system(system: DiagonalSSM) -> None:
    """H2: SciPy's Gramian, of a bidirectional layer the mean over the circle. H-infinity: a dense sweep."""
    fine = swept(system, np.linspace(0, np.pi, 20001))
    energy = np.sum(np.abs(fine) ** 2, axis=(1, 2))
    mean = np.sqrt(np.trapezoid(energy, dx=1 / 20000))
    assert s5c.h2_norm(system) == pytest.approx(mean, rel=1e-4)
    if system.C_backward is None:
        A, B, C, D = dense(system)
        P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)
        assert s5c.h2_norm(system) == pytest.approx(np.sqrt(np.trace(C @ P @ C.conj().T).real + np.sum(D**2)), rel=1e-9)
    peak = np.linalg.norm(fine, 2, axis=(1, 2)).max()
    assert peak * (1 - 1e-9) <= s5c.hinf_norm(system) <= peak * (1 + 1e-3)


def test_the_norms_of_pymor(rng: np.random.Generator) -> None:
    """Its Hankel singular values are those of s5c for the system one step later, whose D is 0: all lags count."""
    system = random_system(rng, 5, 1)
    A, B, C, D = dense(system)
    turn = np.kron(np.array([[1, 1j], [1, -1j]]) / np.sqrt(2), np.eye(5))  # to real states
    before = (C / np.diag(A) @ turn).real
    A, B, C = (x.real for x in (turn.conj().T @ A @ turn, turn.conj().T @ B, C @ turn))
    assert s5c.h2_norm(system) == pytest.approx(LTIModel.from_matrices(A, B, C, D, sampling_time=1).h2_norm(), rel=1e-6)
    later = LTIModel.from_matrices(A, B, before, sampling_time=1)
    np.testing.assert_allclose(s5c.hankel_singular_values(system)[:5], later.hsv()[:5], rtol=1e-6)


def test_an_error_is_the_norm_of_a_difference(system: DiagonalSSM) -> None:
    small = s5c.reduce_system(system, order=3)
    angles = np.linspace(0, np.pi, 2001)
    gap = np.linalg.norm(swept(system, angles) - swept(small, angles), 2, axis=(1, 2)).max()
    assert s5c.hinf_norm(system - small) == pytest.approx(gap, rel=1e-3)
    assert s5c.hinf_norm(system - system) < 1e-9 * s5c.hinf_norm(system)
    assert (system - small).state_dim == 9


def test_the_bound_of_balanced_truncation_holds_as_the_notebook_says(rng: np.random.Generator) -> None:
    system = random_system(rng, 12, 1)
    values = s5c.hankel_singular_values(system)
    for order in (3, 8):
        assert s5c.hinf_norm(system - s5c.reduce_system(system, order=order)) <= 2 * values[2 * order :].sum()


def test_channels_have_norms_of_their_own(rng: np.random.Generator) -> None:
    one, two = random_system(rng, 4, 1), random_system(rng, 4, 1)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, two)
    for norm in (s5c.h2_norm, s5c.hinf_norm):
        np.testing.assert_allclose(norm(both), [norm(one), norm(two)], rtol=1e-9)
    assert s5c.frequency_response(both, [0.0, 1.0]).shape == (2, 2, 1, 1)


def test_an_unstable_mode_has_no_norm(rng: np.random.Generator) -> None:
    system = random_system(rng, 3, 1)
    growing = dataclasses.replace(system, Lambda=system.Lambda * -1)
    assert s5c.h2_norm(growing) == s5c.hinf_norm(growing) == np.inf


def test_wrong_input_is_a_message(system: DiagonalSSM, rng: np.random.Generator) -> None:
    with pytest.raises((s5c.UserError, TypeError), match="DiagonalSSM"):  # annotations may be checked first
        s5c.h2_norm(np.eye(3))
    with pytest.raises(s5c.UserError, match="one kind"):
        _ = system - random_system(rng, 6, 1)
    with pytest.raises(s5c.UserError, match="finite"):
        s5c.hinf_norm(dataclasses.replace(system, B=system.B * np.nan))
