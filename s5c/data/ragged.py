"""Sequences of different lengths, end to end in one array."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Sequences of different lengths, usually memory-mapped; a batch of them is padded on the right with 0.

    Attributes:
        flat: all sequences, one after the other.
        offsets: (k + 1,): sequence i is flat[offsets[i] : offsets[i + 1]].
        length: what they are padded to; none is longer.
        group: sequences per example: 1, or 2 for pairs, which stand next to each other.
    """

    flat: np.ndarray
    offsets: np.ndarray
    length: int
    group: int = 1

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.group

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each sequence: (n,), or (n, group) for groups."""
        lengths = np.diff(self.offsets).astype(np.int32)
        return lengths if self.group == 1 else lengths.reshape(-1, self.group)

    def read(self, rows: np.ndarray, pad_to: int | None = None) -> np.ndarray:
        """Returns padded examples, (b, pad_to) or (b, group, pad_to)."""
        length = self.length if pad_to is None else pad_to
        first = np.asarray(rows)[:, None] * self.group + np.arange(self.group)
        starts, ends = self.offsets[first].ravel(), self.offsets[first + 1].ravel()
        padded = np.zeros((first.size, length), self.flat.dtype)
        for row, start, end in zip(padded, starts.tolist(), ends.tolist(), strict=True):
            row[: end - start] = self.flat[start:end]
        return padded if self.group == 1 else padded.reshape(len(rows), self.group, length)
