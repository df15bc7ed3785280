"""Weights of few bits: integers and one scale for every output of a product."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from s5c.errors import UserError

BITS = (32, 8, 4)
"""Bits of a weight: float32, or signed integers."""


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
        """Bytes of the stored values and scales; rows of four-bit values begin at whole bytes."""
        rows, columns = self.values.shape
        return rows * -(-columns * self.bits // 8) + (0 if self.scale is None else 4 * rows)


def rounded(matrix: np.ndarray, bits: int) -> Matrix:
    """Returns a matrix in few bits, every row to the nearest multiple of its own scale.

        scale = max |row| / (2^{bits-1} - 1),    values = round(row / scale)

    The largest error of a weight is half of its row's scale. Poles are not for this: a pole of 0.999 and one of 1
    differ by less than a scale of eight bits, and in memory by everything.

    Args:
        matrix: (rows, columns).
        bits: one of `BITS`.

    Raises:
        UserError: another number of bits.
    """
    if bits not in BITS:
        raise UserError(f"bits={bits}: weights have {', '.join(map(str, BITS))} bits.")
    matrix = np.ascontiguousarray(matrix, np.float32)
    if bits == 32:
        return Matrix(matrix, None, bits)
    most = 2 ** (bits - 1) - 1
    scale = np.abs(matrix).max(axis=1) / np.float32(most)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return Matrix(np.round(matrix / scale[:, None]).astype(np.int8), scale, bits)
