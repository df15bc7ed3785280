"""HiPPO-N initialisation of the state matrix.

Source: S5 (arXiv 2208.04933), section 4.3 and appendix B.1.1: the normal part of HiPPO-LegS, block-diagonal,
diagonalised by a unitary matrix V.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex


class Eigenbasis(NamedTuple):
    """Kept half of the eigenpairs: A V = V diag(Lambda), V^H V = I."""

    Lambda: Complex[np.ndarray, "p"]
    V: Complex[np.ndarray, "n p"]


def hippo_normal(order: int) -> Eigenbasis:
    """Diagonalises the normal part of one HiPPO-LegS block and keeps one of each conjugate pair.

        A[n, k] = -sqrt((2n+1)(2k+1)) for n > k,  -(n+1) for n = k,  0 above;    S = A + q q^T,  q_n = sqrt(n + 1/2)

    S = -I/2 + skew-symmetric, so every eigenvalue has real part -1/2 and the eigenvectors are those of the Hermitian
    matrix -i (S + I/2). The half with negative imaginary part is kept, as in the published code.

    Args:
        order: number of real states of the block, even.

    Returns:
        `Lambda` (order/2,) and `V` (order, order/2), complex128.
    """
    n = np.arange(order)
    root = np.sqrt(2 * n + 1)
    A = -np.tril(np.outer(root, root), -1) - np.diag(n + 1.0)
    S = A + np.outer(root, root) / 2
    imaginary, V = np.linalg.eigh(-1j * (S + np.eye(order) / 2))
    half = order // 2
    return Eigenbasis(-0.5 + 1j * imaginary[:half], V[:, :half])


def block_diagonal_hippo(state_size: int, blocks: int) -> Eigenbasis:
    """Repeats one HiPPO-N block along the diagonal.

    Args:
        state_size: real states P of the layer.
        blocks: number of blocks J; 2J divides P.

    Returns:
        `Lambda` (P/2,) and the block-diagonal `V` (P, P/2), complex128.
    """
    Lambda, V = hippo_normal(state_size // blocks)
    return Eigenbasis(np.tile(Lambda, blocks), np.kron(np.eye(blocks), V))
