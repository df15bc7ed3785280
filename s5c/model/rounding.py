"""Weights of few bits: integers and one scale for every output of a product."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from s5c.errors import UserError

BITS = (32, 8, 6, 4)
"""Bits of a weight: float32, or signed integers."""

ON_GRID = 1e-4
"""Distance from integers, of the grid's step, up to which a row counts as rounded already."""

DAMPING = 1e-2
"""Added to the second moments in `with_feedback`, relative to their mean: none of the inputs is without noise."""


class Matrix(NamedTuple):
    """A matrix of a product, as it is stored.

    Attributes:
        values: float32, or integers from -(2^{bits-1} - 1) to 2^{bits-1} - 1 as int8; (rows, columns).
        scale: what a row of integers is multiplied by, (rows,); None of float32.
        bits: of a value.
    """

    values: np.ndarray
    scale: np.ndarray | None
    bits: int

    def dense(self) -> np.ndarray:
        """Returns the matrix that the product is made with, float32."""
        return self.values if self.scale is None else self.values.astype(np.float32) * self.scale[:, None]

    @property
    def bytes(self) -> int:
        """Bytes of the stored values and scales; every row of integers begins at a whole byte."""
        rows, columns = self.values.shape
        return rows * -(-columns * self.bits // 8) + (0 if self.scale is None else 4 * rows)

    def packed(self) -> np.ndarray:
        """Returns the values as they are stored: of fewer than eight bits as a stream of bits, (rows, bytes), uint8.

        Values are 2^{bits-1} more than they are, the first in the lowest bits, every row from a byte of its own.
        """
        if self.bits in (32, 8):
            return self.values
        rows, columns = self.values.shape
        raised = (self.values.astype(np.int16) + (1 << self.bits - 1)).astype(np.uint8)
        stream = (raised[:, :, None] >> np.arange(self.bits) & 1).astype(np.uint8).reshape(rows, columns * self.bits)
        return np.packbits(stream, axis=1, bitorder="little")


def unpacked(stored: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """Returns the integers that `Matrix.packed` has stored, int8."""
    if bits == 8:
        return stored
    stream = np.unpackbits(stored, axis=1, count=columns * bits, bitorder="little").reshape(-1, columns, bits)
    raised = (stream.astype(np.int16) << np.arange(bits)).sum(axis=2)
    return (raised - (1 << bits - 1)).astype(np.int8)


def rounded(matrix: np.ndarray, bits: int) -> Matrix:
    """Returns a matrix in few bits, every row to the nearest multiple of its own scale.

        scale = max |row| / (2^{bits-1} - 1),    values = round(row / scale)

    The largest error of a weight is half of its row's scale. A row that is on such a grid already is left as it is.
    Poles are not for this: a pole of 0.999 and one of 1 differ by less than a scale of eight bits, and in memory by
    everything.

    Args:
        matrix: (rows, columns).
        bits: one of `BITS`.

    Raises:
        UserError: another number of bits.
    """
    check(bits)
    matrix = np.ascontiguousarray(matrix, np.float32)
    if bits == 32:
        return Matrix(matrix, None, bits)
    scale = _scales(matrix, bits)
    return Matrix(np.round(matrix / scale[:, None]).astype(np.int8), scale, bits)


def with_feedback(matrix: np.ndarray, moments: np.ndarray, bits: int) -> Matrix:
    """Returns a matrix in few bits whose products with what it is multiplied by are near those of the matrix.

        minimise  tr((W - Q) S (W - Q)^T)    column by column

    After a column is rounded the others, not yet rounded, move to where they make up for its error best; columns of
    much energy come first. The scales are those of `rounded`.

    Args:
        matrix: W, (rows, columns).
        moments: S, second moments of what it is multiplied by, (columns, columns).
        bits: one of `BITS`.

    Source: Frantar et al., GPTQ, arXiv 2210.17323, section 3.
    """
    check(bits)
    if bits == 32 or matrix.shape[1] == 1:
        return rounded(matrix, bits)
    scale, most = _scales(np.asarray(matrix, np.float32), bits).astype(np.float64)[:, None], 2 ** (bits - 1) - 1
    energy = np.diag(moments)
    order = np.argsort(-energy, kind="stable")
    S = moments[np.ix_(order, order)] + DAMPING * max(energy.mean(), np.finfo(float).tiny) * np.eye(len(energy))
    # The Cholesky factor of the inverse has, row by row, what the columns behind make up for an error with.
    U = np.linalg.cholesky(np.linalg.inv(S)).T
    left, values = np.array(matrix[:, order], np.float64), np.zeros(matrix.shape, np.int8)
    for j in range(len(order)):
        whole = np.clip(np.round(left[:, j : j + 1] / scale), -most, most)
        values[:, order[j]] = whole[:, 0]
        left[:, j:] -= (left[:, j : j + 1] - whole * scale) / U[j, j] * U[j, j:]
    return Matrix(values, scale[:, 0].astype(np.float32), bits)


def check(bits: int) -> None:
    """Raises `UserError` for a number of bits that weights do not have."""
    if bits not in BITS:
        raise UserError(f"bits={bits}: weights have {', '.join(map(str, BITS))} bits. Give one of these.")


def _scales(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Returns the step of every row's grid: the largest one that the row is on, else that of its largest weight."""
    most, largest = 2 ** (bits - 1) - 1, np.abs(matrix).max(axis=1, initial=0)
    found = largest / np.float32(most)
    for steps in range(most, 0, -1):
        parts = matrix / np.where(largest > 0, largest / np.float32(steps), 1)[:, None]
        on_grid = np.abs(parts - np.round(parts)).max(axis=1, initial=0) < ON_GRID
        found = np.where(on_grid, largest / np.float32(steps), found)
    return np.where(found > 0, found, 1).astype(np.float32)
