"""Sequences of different lengths, end to end in one array."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, usually memory-mapped; a batch of them is padded on the right.

    Attributes:
        flat: all sequences, one after the other, (steps,) or (steps, channels).
        offsets: (k + 1,): sequence i is flat[offsets[i] : offsets[i + 1]].
        length: what they are padded to; none is longer.
        members: (n,) or, for pairs, (n, 2): the sequences of each example; None if each is one.
        fill: what padding holds, one number per channel; None for 0.
    """

    flat: np.ndarray
    offsets: np.ndarray
    length: int
    members: np.ndarray | None = None
    fill: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1 if self.members is None else len(self.members)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of the sequences of each example: (n,), or (n, 2) for pairs."""
        lengths = np.diff(self.offsets).astype(np.int32)
        return lengths if self.members is None else lengths[self.members]

    def take(self, members: np.ndarray) -> Ragged:
        """Returns examples that consist of the given sequences."""
        return dataclasses.replace(self, members=members)

    def read(self, rows: np.ndarray, pad_to: int | None = None) -> np.ndarray:
        """Returns padded examples, (b, pad_to) or (b, 2, pad_to), and another axis where there are channels."""
        length = self.length if pad_to is None else pad_to
        wanted = np.asarray(rows) if self.members is None else self.members[rows]
        starts, ends = self.offsets[wanted].ravel(), self.offsets[wanted + 1].ravel()
        padded = np.zeros((wanted.size, length, *self.flat.shape[1:]), self.flat.dtype)
        if self.fill is not None:
            padded[:] = self.fill
        for row, start, end in zip(padded, starts.tolist(), ends.tolist(), strict=True):
            row[: end - start] = self.flat[start:end]
        return padded.reshape(*wanted.shape, *padded.shape[1:])
