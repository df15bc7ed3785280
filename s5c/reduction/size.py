"""How many bytes a network takes up at every cut of a removal order, with weights of few bits."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from s5c.errors import UserError
from s5c.reduction.parameters import Parameters
from s5c.reduction.stage import Ranking, Selected, cut
from s5c.types import Int

UNITS = {"": 1, "k": 1000, "ki": 1024, "m": 1000**2, "mi": 1024**2, "g": 1000**3, "gi": 1024**3}


@dataclasses.dataclass(frozen=True)
class Bytes:
    """The bytes of the numbers of a network, as a function of how many states its arrays have room for.

    Matrices that are multiplied by (`s5c.model.products`) have weights of `bits` and a float32 scale a row, each row
    begins at a whole byte; everything else is float32.

    Attributes:
        parameters: numbers of parameters.
        bits: of a weight; 32 for float32 without scales.
        features: features h between the layers.
        directions: 2 where layers have a backward direction, else 1.
        per_channel: every channel has a system of its own, whose input matrix its outputs take in.
        own_inputs: these channels store an input matrix, which goes.
        dense: shapes (rows, columns) of all other matrices.
        statistics: numbers that are no parameters: those of the norms.
    """

    parameters: Parameters
    bits: int
    features: int
    directions: int
    per_channel: bool
    own_inputs: bool
    dense: tuple[tuple[int, int], ...]
    statistics: int

    def at_every_cut(self, ranking: Ranking) -> Int[np.ndarray, "cuts"]:
        """Returns the bytes stored with the first 0, 1, ..., n slots of the removal order kept."""
        numbers = self.parameters.at_every_cut(ranking) + self.statistics
        if self.bits == 32:
            return 4 * numbers
        numbers = numbers - sum(rows * columns for rows, columns in self.dense)
        packed = np.full(len(numbers), sum(rows * self._row(columns) for rows, columns in self.dense))
        for width in self.parameters.widths(ranking):
            states, h = 2 * width, self.features
            packed = packed + h * self._row(states * self.directions)
            numbers = numbers - h * states * self.directions
            if not self.per_channel:
                packed = packed + states * self._row(h)
            if not self.per_channel or self.own_inputs:
                numbers = numbers - h * states
        return packed + 4 * numbers

    def _row(self, columns: Int[np.ndarray, "cuts"] | int) -> Int[np.ndarray, "cuts"] | int:
        return -(-columns * self.bits // 8) + 4


def number_of_bytes(value: float | str) -> float:
    """Returns a number of bytes, given as such or as 32k (32,000), 32Ki (32,768), 1.5M, 1Mi.

    Raises:
        UserError: it is none.
    """
    if isinstance(value, bool) or value is None:
        found = None
    elif isinstance(value, int | float):
        return float(value)
    else:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(k|ki|m|mi|g|gi|)b?", str(value).strip().lower())
    if found is None:
        raise UserError(f"reduction.bytes={value}: write a number of bytes, such as 32000, 32k or 32Ki.")
    return float(found[1]) * UNITS[found[2]]


def check_bytes(limit: float) -> float:
    """Returns `limit`, or raises `UserError` unless it is a positive number."""
    if not 0 < limit < math.inf:
        raise UserError(f"reduction.bytes={limit:g}: give a positive number of bytes, such as 32000, 32k or 32Ki.")
    return limit


def select_bytes(ranking: Ranking, limit: float, stored: Bytes) -> Selected:
    """Cuts the removal order where the network takes up no more than some bytes, and no later.

    Args:
        ranking: what `s5c.reduction.stage.rank` returned.
        limit: bytes.
        stored: bytes of the network.

    Raises:
        UserError: the smallest network takes up more.
    """
    found, least = stored.at_every_cut(ranking), max(ranking.protected, 1)
    fitting = np.flatnonzero(found[least:] <= check_bytes(limit))
    if len(fitting):
        return cut(ranking, least + int(fitting[-1]))
    smallest = int(found[least:].min())
    raise UserError(
        f"reduction.bytes={limit:g} cannot be reached with weights of {stored.bits} bits: the smallest network that "
        f"this reduction makes takes up {smallest:,} bytes, since only states are removed, and one of every layer and "
        f"all that are protected stay. Give fewer bits, or reduction.bytes={smallest}."
    )
