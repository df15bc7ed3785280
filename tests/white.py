"""Moments of a layer on white noise, from a Lyapunov equation instead of data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from s5c.reduction.moments import Moments, coefficients
from s5c.ssm.system import DiagonalSSM


def white_moments(system: DiagonalSSM) -> Moments:
    """Returns the moments per step of one stable system, uni- or bidirectional, whose input is white and of variance 1.

    In population: what data without end would give, with no sampling error.
    """
    with jax.enable_x64(True):
        a, B_bar = map(np.asarray, system.discretise())
        Theta, D = np.asarray(coefficients(system)), np.asarray(system.D)
    A = np.block([[np.diag(a.real), -np.diag(a.imag)], [np.diag(a.imag), np.diag(a.real)]])
    B = np.concatenate([B_bar.real, B_bar.imag])
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    if system.C_backward is not None:  # what both directions share is the current input
        P, B = np.block([[P, B @ B.T], [B @ B.T, P]]), np.concatenate([B, B])
    h = len(D)
    zz = scipy.linalg.block_diag(np.block([[P, B], [B.T, np.eye(h)]]), 1)
    output = np.concatenate([Theta, np.diag(D), np.zeros((h, 1))], axis=1)
    yy = np.diag(output @ zz @ output.T)
    with jax.enable_x64(True):
        return Moments(*map(jnp.asarray, (zz, output @ zz, yy, 1.0, np.sum(yy))))
