"""Impulse responses of layers, tap by tap in NumPy: what energies and errors are measured against."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from s5c.ssm.system import DiagonalSSM


def impulse_response(system: DiagonalSSM, length: int) -> np.ndarray:
    """Returns the taps from lag -length + 1 to length - 1, shape (2 length - 1, h, h); the past is on the right."""
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    h = B.shape[1]
    taps = np.zeros((2 * length - 1, h, h))
    x = B.astype(complex)
    for k in range(length):
        taps[length - 1 + k] += 2 * (np.asarray(system.C) @ x).real
        if system.C_backward is not None:
            taps[length - 1 - k] += 2 * (np.asarray(system.C_backward) @ x).real
        x = a[:, None] * x
    taps[length - 1] += np.diag(np.asarray(system.D))
    return taps


def energy(taps: Any) -> float:
    return float(np.sum(np.abs(taps) ** 2))


def relative_error(full: DiagonalSSM, reduced: DiagonalSSM, length: int, inputs: np.ndarray | None = None) -> float:
    """Returns the H2 error over the norm, of inputs that are `inputs` times white noise."""
    mix = np.eye(full.D.shape[0]) if inputs is None else inputs
    whole = impulse_response(full, length) @ mix
    return float(np.sqrt(energy(whole - impulse_response(reduced, length) @ mix) / energy(whole)))
