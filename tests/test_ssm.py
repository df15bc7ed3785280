"""Discretisation and HiPPO against dense linear algebra; `DiagonalSSM` as a container."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.signal import cont2discrete
from systems import random_system, simulate

from s5c.ssm.discretise import METHODS, bilinear, zoh
from s5c.ssm.hippo import block_diagonal_hippo, hippo_normal
from s5c.ssm.system import DiagonalSSM, stack

REFERENCE = [
    path for path in sorted((Path(__file__).parent / "reference").glob("*.npz")) if not path.stem.startswith("unstable")
]
"""Those whose poles are as they were drawn."""


# ---- discretisation


def dense(system: DiagonalSSM) -> tuple[np.ndarray, np.ndarray]:
    """Returns A and B of the same system with its steps written into them: one step of it lasts 1 s."""
    Delta = np.asarray(system.Delta)
    return np.diag(Delta * np.asarray(system.Lambda)), Delta[:, None] * np.asarray(system.B)


def test_zoh_is_the_exponential_of_the_augmented_matrix(rng: np.random.Generator) -> None:
    system = random_system(rng, 5, 3)
    A, B = dense(system)
    exponential = expm(np.block([[A, B], [np.zeros((3, 8))]]))
    with jax.enable_x64(True):
        Lambda_bar, B_bar = zoh(system.Lambda, system.B, system.Delta)
    np.testing.assert_allclose(np.diag(Lambda_bar), exponential[:5, :5], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(B_bar, exponential[:5, 5:], rtol=1e-11, atol=1e-12)


def test_bilinear_is_scipys(rng: np.random.Generator) -> None:
    system = random_system(rng, 5, 3, discretisation="bilinear")
    A, B = dense(system)
    A_bar, B_bar, *_ = cont2discrete((A, B, np.eye(5), np.zeros((5, 3))), 1.0, method="bilinear")
    with jax.enable_x64(True):
        ours = bilinear(system.Lambda, system.B, system.Delta)
    np.testing.assert_allclose(np.diag(ours[0]), A_bar, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ours[1], B_bar, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_integrator_adds_delta_times_its_input(method: str, rng: np.random.Generator) -> None:
    Delta, B = jnp.array([0.1, 0.2]), jnp.asarray(rng.normal(size=(2, 3)), jnp.complex64)
    Lambda_bar, B_bar = METHODS[method](jnp.zeros(2, jnp.complex64), B, Delta)
    np.testing.assert_array_equal(Lambda_bar, [1, 1])
    np.testing.assert_allclose(B_bar, Delta[:, None] * B, rtol=1e-7)


def test_the_gradient_of_zoh_at_zero_is_finite() -> None:
    """Both branches of a `where` are differentiated: a division by zero in the one not taken would give NaN."""
    ones = jnp.ones((1, 1), jnp.complex64)
    gradient = jax.grad(lambda x: zoh(x, ones, jnp.ones(1))[1].real.sum(), holomorphic=False)(
        jnp.zeros(1, jnp.complex64)
    )
    assert np.isfinite(gradient).all()


# ---- HiPPO


def normal_part(order: int) -> np.ndarray:
    """HiPPO-LegS plus q q^T, element by element: -1/2 on the diagonal, skew-symmetric off it."""
    S = np.empty((order, order))
    for n in range(order):
        for k in range(order):
            S[n, k] = -0.5 if n == k else -np.sign(n - k) / 2 * np.sqrt((2 * n + 1) * (2 * k + 1))
    return S


@pytest.mark.parametrize("order", [2, 8, 64])
def test_hippo_diagonalises_the_normal_part(order: int) -> None:
    Lambda, V = hippo_normal(order)
    S = normal_part(order)
    assert Lambda.shape == (order // 2,)
    np.testing.assert_allclose(S @ V, V * Lambda, atol=1e-10 * order)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(order // 2), atol=1e-12)
    np.testing.assert_array_equal(Lambda.real, -0.5)
    assert (Lambda.imag < 0).all()
    everything = np.concatenate([Lambda, Lambda.conj()])
    np.testing.assert_allclose(np.sort(everything.imag), np.sort(np.linalg.eigvals(S).imag), atol=1e-10 * order)


def test_the_normal_part_is_hippo_legs_up_to_rank_one() -> None:
    q = np.sqrt(np.arange(4) + 0.5)
    r3, r5, r7, r15, r21, r35 = np.sqrt([3, 5, 7, 15, 21, 35])
    legs = -np.array([[1, 0, 0, 0], [r3, 2, 0, 0], [r5, r15, 3, 0], [r7, r21, r35, 4]])
    np.testing.assert_allclose(normal_part(4) - np.outer(q, q), legs, atol=1e-14)


def test_blocks_are_repeated_along_the_diagonal() -> None:
    Lambda, V = block_diagonal_hippo(24, 3)
    A = np.kron(np.eye(3), normal_part(8))
    np.testing.assert_allclose(A @ V, V * Lambda, atol=1e-12)
    np.testing.assert_array_equal(Lambda, np.tile(Lambda[:4], 3))


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_initial_eigenvalues_are_those_of_the_published_code(path: Path) -> None:
    with np.load(path) as archive:
        config = json.loads(str(archive["config"]))
        real, imaginary = (archive[f"params/encoder/layers_1/seq/Lambda_{part}"] for part in ("re", "im"))
    Lambda, _ = block_diagonal_hippo(config["P"], config["J"])
    np.testing.assert_allclose(Lambda.real, real, rtol=1e-6)
    np.testing.assert_allclose(Lambda.imag, imaginary, rtol=2e-6)


# ---- the container


@pytest.mark.parametrize("bidirectional", [False, True])
def test_take_equals_switching_the_other_states_off(bidirectional: bool, rng: np.random.Generator) -> None:
    system, kept = random_system(rng, 5, 3, bidirectional=bidirectional), np.array([3, 0])
    smaller = system.take(kept)
    assert smaller.state_dim == 2
    assert smaller.discretisation == system.discretisation
    np.testing.assert_array_equal(smaller.Lambda, system.Lambda[kept])
    np.testing.assert_array_equal(smaller.D, system.D)
    u = rng.normal(size=(2, 7, 3))
    with jax.enable_x64(True):
        (a, B), (a_small, B_small) = system.discretise(), smaller.discretise()
    silenced = np.where(np.isin(np.arange(5), kept)[:, None], B, 0)
    expected = simulate(u, np.asarray(a), silenced, system.C, system.C_backward)
    np.testing.assert_allclose(simulate(u, a_small, B_small, smaller.C, smaller.C_backward), expected, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_system_passes_through_jit_and_tree_maps(bidirectional: bool, rng: np.random.Generator) -> None:
    system = random_system(rng, 4, 3, bidirectional=bidirectional, discretisation="bilinear")
    with jax.enable_x64(True):
        passed = jax.jit(lambda s: jax.tree.map(lambda x: x, s))(system)
    assert jax.tree.structure(passed) == jax.tree.structure(system)
    assert passed.discretisation == "bilinear"
    assert (passed.C_backward is None) is not bidirectional
    for ours, original in zip(jax.tree.leaves(passed), jax.tree.leaves(system), strict=True):
        assert ours.dtype == original.dtype
        np.testing.assert_array_equal(ours, original)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(system)]
    assert names == [".Lambda", ".B", ".C", ".D", ".Delta", ".C_backward"][: 6 if bidirectional else 5]


def test_stacked_systems_are_mapped_over(rng: np.random.Generator) -> None:
    systems = [random_system(rng, 4, 3, bidirectional=True) for _ in range(3)]
    with jax.enable_x64(True):
        mapped = jax.jit(jax.vmap(lambda s: s.discretise()))(stack(systems))
        for i, system in enumerate(systems):
            for together, alone in zip(mapped, system.discretise(), strict=True):
                np.testing.assert_allclose(together[i], alone, rtol=1e-12)


def test_systems_of_different_discretisation_do_not_stack(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"discretisation|structure|metadata"):
        stack([random_system(rng, 4, 3), random_system(rng, 4, 3, discretisation="bilinear")])
