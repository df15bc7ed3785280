"""Random modal systems, their dense matrices, and pyMOR's view of them."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import strategies as st
from pymor.core.logger import set_log_levels
from pymor.models.iosys import LTIModel
from systems import complex_normal

from s5c.ssm.modal import ModalSystem

set_log_levels({"pymor": "ERROR"})

P = 5
SHAPES = ((1, 1), (3, 2))
"""(outputs, inputs). Few shapes, so that little is compiled."""


def modal_system(
    rng: np.random.Generator, *batch: int, p: int = P, shape: tuple[int, int] = (1, 1), slowest: float = 1e-3
) -> ModalSystem:
    """Returns random systems in NumPy whose poles have 1 - |a| between `slowest` and 0.7, evenly in its logarithm."""
    q, m = shape
    decay = np.exp(rng.uniform(np.log(slowest), np.log(0.7), (*batch, p)))
    log_a = np.log1p(-decay) + 1j * rng.uniform(0.05, 3.1, (*batch, p))
    return ModalSystem(
        log_a, complex_normal(rng, *batch, p, m), complex_normal(rng, *batch, q, p), rng.normal(size=(*batch, q, m))
    )


def with_real_poles(system: ModalSystem, count: int) -> ModalSystem:
    """Makes the first poles real, of alternating sign, with real B and C."""
    log_a, B, C, D = (x.copy() for x in system)
    log_a[..., :count] = log_a[..., :count].real + 1j * np.pi * (np.arange(count) % 2)
    B[..., :count, :], C[..., :count] = B[..., :count, :].real, C[..., :count].real / 2
    return ModalSystem(log_a, B, C, D)


@st.composite
def modal_systems(draw: st.DrawFn, shape: tuple[int, int] = (1, 1), slowest: float = 1e-3) -> ModalSystem:
    """Draws systems of P slots with up to three real poles, poles as near to each other as it likes."""
    exponents = st.floats(float(np.log10(slowest)), -0.15)
    decay = 10 ** np.array(draw(st.lists(exponents, min_size=P, max_size=P)))
    angles = np.array(draw(st.lists(st.floats(0.01, 3.13), min_size=P, max_size=P)))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    system = modal_system(rng, shape=shape)._replace(log_a=np.log1p(-decay) + 1j * angles)
    return with_real_poles(system, draw(st.integers(0, 3)))


def dense(system: ModalSystem, time: str = "discrete") -> tuple[np.ndarray, ...]:
    """Returns real A, B, C, D, written down pair by pair in the basis sqrt(2) (Re x, Im x); no code of s5c."""
    pole = np.exp(system.log_a) if time == "discrete" else system.log_a
    A = np.block([[np.diag(pole.real), -np.diag(pole.imag)], [np.diag(pole.imag), np.diag(pole.real)]])
    B = np.sqrt(2) * np.concatenate([system.B.real, system.B.imag])
    C = np.sqrt(2) * np.concatenate([system.C.real, -system.C.imag], axis=1)
    return A, B, C, system.D


def pymor_model(system: ModalSystem, time: str = "discrete") -> LTIModel:
    """Returns C (z - A)^{-1} B: one step behind the layer, and without D."""
    A, B, C, _ = dense(system, time)
    return LTIModel.from_matrices(A, B, C, sampling_time=1 if time == "discrete" else 0)


def response(system: ModalSystem, angles: np.ndarray) -> np.ndarray:
    """Returns the transfer function of the layer from its dense matrices."""
    A, B, C, D = dense(system)
    return np.stack([D + C @ np.linalg.solve(np.eye(len(A)) - np.exp(-1j * w) * A, B.astype(complex)) for w in angles])


def pymor_response(model: LTIModel, angles: np.ndarray) -> np.ndarray:
    """Returns the same of a strictly proper pyMOR model, shifted to the layer's convention."""
    return np.stack([np.exp(1j * w) * model.transfer_function.eval_tf(np.exp(1j * w)) for w in angles])


def one(batch: ModalSystem, index: int = 0) -> ModalSystem:
    """Returns one system of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[index], batch)


def batched(system: ModalSystem) -> ModalSystem:
    """Returns a batch of one."""
    return jax.tree.map(lambda x: np.asarray(x)[None], system)
