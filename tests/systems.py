"""Random systems, and the sequence operator written out as a loop: what several tests need."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from s5c.ssm.system import DiagonalSSM


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Returns standard complex normal numbers."""
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


def random_system(
    rng: np.random.Generator,
    p: int,
    h: int,
    *,
    bidirectional: bool = False,
    radius: float = 0.99,
    discretisation: str = "zoh",
) -> DiagonalSSM:
    """Returns a system in double precision whose discretised modes lie between radius/2 and `radius`.

    Args:
        rng: source of all numbers.
        p: stored states.
        h: features.
        bidirectional: with a C_backward.
        radius: the largest |Lambda_bar| possible; below 1 for a stable system.
        discretisation: zoh | bilinear.
    """
    Lambda_bar = rng.uniform(radius / 2, radius, p) * np.exp(1j * rng.uniform(-3, 3, p))
    Delta = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), p))
    undone = {"zoh": np.log(Lambda_bar), "bilinear": 2 * (Lambda_bar - 1) / (Lambda_bar + 1)}[discretisation]
    # B of the size of 1 / Delta: B_bar is then of the size of 1, whatever the step.
    B = complex_normal(rng, p, h) / Delta[:, None]
    arrays = [undone / Delta, B, complex_normal(rng, h, p), rng.normal(size=h), Delta]
    if bidirectional:
        arrays.append(complex_normal(rng, h, p))
    with jax.enable_x64(True):
        return DiagonalSSM(*map(jnp.asarray, arrays), discretisation=discretisation)


def simulate(
    u: ArrayLike,
    Lambda_bar: ArrayLike,
    B_bar: ArrayLike,
    C: ArrayLike,
    C_backward: ArrayLike | None = None,
    *,
    x0: ArrayLike | None = None,
    reverse: bool = False,
) -> np.ndarray:
    """Returns what `diagonal_ssm` should: the recurrence step by step, in double precision."""
    inputs, a, B = np.asarray(u, float), np.asarray(Lambda_bar, complex), np.asarray(B_bar, complex)
    length = inputs.shape[1]
    y = np.zeros((*inputs.shape[:2], np.shape(C)[0]))
    for matrix, backwards in ((C, reverse), (C_backward, True)):
        if matrix is None:
            continue
        x = np.zeros((len(inputs), len(a)), complex) if x0 is None else np.asarray(x0, complex)
        for k in reversed(range(length)) if backwards else range(length):
            x = a * x + inputs[:, k] @ B.T
            y[:, k] += 2 * (x @ np.asarray(matrix, complex).T).real
    return y
