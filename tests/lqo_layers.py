"""Random gated layers, and their LQO form written out with dense matrices and impulse responses; no code of s5c."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from systems import random_system

from s5c.reduction.gate import Gate
from s5c.reduction.layer import Layer
from s5c.ssm.modal import ModalSystem
from s5c.ssm.system import DiagonalSSM

P, H = 4, 3
STEPS = 30
"""Horizon of the layers."""
ACTIVATIONS = ("gelu", "half_glu1", "half_glu2", "full_glu")
LONG = 160
"""Taps after which poles of radius 0.85 have left rounding alone."""


def gate_of(rng: np.random.Generator, activation: str, h: int = H, *, weights: float = 1.0) -> Gate:
    """Returns a gate of random weights, biases, gain and offset."""
    with jax.enable_x64(True):
        W1, W2 = (jnp.asarray(weights * rng.normal(size=(h, h))) for _ in range(2))
        b1, b2, gain, offset = (jnp.asarray(rng.normal(size=h)) for _ in range(4))
        return Gate(activation, gain=gain, offset=offset / 4, W1=W1, b1=b1, W2=W2, b2=b2)


def layer_of(
    rng: np.random.Generator,
    activation: str = "half_glu1",
    *,
    bidirectional: bool = False,
    p: int = P,
    radius: float = 0.85,
) -> Layer:
    """Returns a layer of random parameters; p slots, H features."""
    system = random_system(rng, p, H, bidirectional=bidirectional, radius=radius)
    return Layer(system, STEPS, gate_of(rng, activation))


def taps(linear: ModalSystem, count: int) -> np.ndarray:
    """Returns the impulse response of a modal system at the lags -(count - 1), ..., count - 1; stacked outputs are the
    two directions."""
    log_a, B, C, D = (np.asarray(x) for x in linear)
    h = B.shape[1]
    ahead = np.stack([2 * (C @ (np.exp(k * log_a)[:, None] * B)).real for k in range(count)])
    ahead[0] += D
    found = np.zeros((2 * count - 1, h, h))
    found[count - 1 :] = ahead[:, :h]
    if len(C) > h:
        found[:count] += ahead[::-1, h:]
    return found


def white_taps(system: DiagonalSSM, gate: Gate, count: int) -> np.ndarray:
    """Returns the impulse response of a layer from noise behind the normalisation, from its own parameters."""
    Lambda_bar, B_bar = (np.asarray(x) for x in system.discretise())
    C = [np.asarray(c) for c in (system.C, system.C_backward) if c is not None]
    log_a = np.log(Lambda_bar)
    D = np.diag(np.asarray(system.D))
    stacked = ModalSystem(log_a, B_bar, np.concatenate(C), np.concatenate([D, *(0 * D for _ in C[1:])]))
    return taps(stacked, count) * np.asarray(gate.gain)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def table(gate: Gate) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns L and the N_i of a gate's Taylor expansion at 0, each activation by its own formula."""
    W1, b1, W2, b2 = (np.asarray(x) for x in (gate.W1, gate.b1, gate.W2, gate.b2))
    h = len(b2)
    e, root = np.eye(h), np.sqrt(2 * np.pi)
    s = sigmoid(b2)
    slope, curve = s * (1 - s), s * (1 - s) * (1 - 2 * s)

    def sym(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.outer(a, b) + np.outer(b, a)) / 2

    if gate.activation == "gelu":
        return e / 2, [np.outer(e[i], e[i]) / root for i in range(h)]
    if gate.activation == "half_glu2":
        return np.diag(s), [slope[i] / 2 * sym(e[i], W2[i]) for i in range(h)]
    if gate.activation == "half_glu1":
        return np.diag(s) / 2, [s[i] / root * np.outer(e[i], e[i]) + slope[i] / 4 * sym(e[i], W2[i]) for i in range(h)]
    return (s[:, None] * W1 + (b1 * slope)[:, None] * W2) / 2, [
        slope[i] / 4 * sym(W1[i], W2[i])
        + b1[i] * curve[i] / 8 * np.outer(W2[i], W2[i])
        + np.diag(s[i] * W1[i] + b1[i] * slope[i] * W2[i]) / root
        for i in range(h)
    ]


def dense_forms(form: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns L and the N_i of a `QuadraticForm` as matrices."""
    L, F, G, K = (np.asarray(x) for x in form)
    return L, [(np.outer(f, g) + np.outer(g, f)) / 2 + np.diag(k) for f, g, k in zip(F, G, K, strict=True)]


def double_sum(
    L: np.ndarray, forms: list[np.ndarray], full: np.ndarray, reduced: np.ndarray | None = None, weight: float = 1.0
) -> float:
    """Returns the squared h2 norm of an LQO system, or of the difference of two, from both kernels at all lags."""
    other = np.zeros_like(full) if reduced is None else reduced
    total = np.sum((L @ (full - other)) ** 2)
    for N in forms:
        kernel = np.einsum("kam,ab,lbn->klmn", full, N, full, optimize=True)
        kernel -= np.einsum("kam,ab,lbn->klmn", other, N, other, optimize=True)
        total += weight * np.sum(kernel**2)
    return float(total)
