"""From stored bytes to what the network reads, one batch at a time.

Decoders are frozen dataclasses: what they do to the data shows in their `repr`, which enters the data's fingerprint.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Decode(Protocol):
    """Turns a batch of stored examples into inputs."""

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Returns (b, l) ids or (b, l, features) real channels."""
        ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Images as sequences of pixels: x / 255, then (x - mean) / std, row by row.

    Attributes:
        mean, std: one number for each channel.
        grey: weigh red, green and blue to one channel, rounded to 8 bits as PIL does.
        pool: side of the square blocks that are averaged first.
        bit_reversal: permute the steps by `bit_reversal`.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    grey: bool = False
    pool: int = 1
    bit_reversal: bool = False

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Maps uint8 (b, h, w) or (b, h, w, 3) to float32 (b, l, channels)."""
        images = luma(raw) if self.grey else raw
        if self.pool > 1:
            corners = np.ndindex(self.pool, self.pool)
            blocks = [images[:, i :: self.pool, j :: self.pool] for i, j in corners]
            images = np.stack(blocks).sum(axis=0, dtype=np.uint16)
        b, h, w = images.shape[:3]
        x = images.reshape(b, h * w, -1).astype(np.float32) / np.float32(255 * self.pool**2)
        if self.bit_reversal:
            x = x[:, bit_reversal(x.shape[1])]
        if self.mean == (0.0,) and self.std == (1.0,):
            return x
        return (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


@dataclasses.dataclass(frozen=True)
class Wave:
    """Sound as one channel: x * scale, then (x - mean) / (std + eps) for each time step, then every `stride`-th.

    Attributes:
        scale: factor on the 16-bit integers.
        stride: 2 reads the sound at half its sampling rate.
        mean, std: per time step, after scaling; None to leave out.
        eps: added to std.
    """

    scale: float = 2.0**-15
    stride: int = 1
    mean: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    std: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    eps: float = 1e-5

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Maps int16 (b, t) to float32 (b, l, 1)."""
        steps = slice(None, None, self.stride)
        x = raw[:, steps].astype(np.float32) * np.float32(self.scale)
        if self.mean is not None and self.std is not None:
            x = (x - self.mean[steps]) / (self.std[steps] + np.float32(self.eps))
        return x[..., None]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Several tokens a step: one-hot vectors of the tokens in a window that moves `stride` tokens a step.

    Attributes:
        ids: number of token ids.
        window: tokens per step.
        stride: tokens between steps.
    """

    ids: int
    window: int
    stride: int

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """Maps ids (b, t) to float32 (b, ceil(t / stride), window * ids); beyond the end there is padding."""
        b, t = raw.shape
        steps = -(-t // self.stride)
        ids = np.pad(raw, ((0, 0), (0, (steps - 1) * self.stride + self.window - t)))
        windows = np.lib.stride_tricks.sliding_window_view(ids, self.window, axis=1)[:, :: self.stride]
        x = np.zeros((b, steps, self.window, self.ids), np.float32)
        x.reshape(-1)[np.arange(windows.size) * self.ids + windows.reshape(-1)] = 1
        return x.reshape(b, steps, -1)

    def steps(self, lengths: np.ndarray) -> np.ndarray:
        """Returns the valid steps of sequences of `lengths` tokens."""
        return -(-lengths // self.stride)


def luma(images: np.ndarray) -> np.ndarray:
    """Returns the 8-bit luma of uint8 (..., 3), with the integer weights (ITU-R 601-2, 16 bits) and rounding of PIL."""
    r, g, b = (images[..., channel].astype(np.uint32) for channel in range(3))
    return ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16).astype(np.uint8)


@functools.cache
def bit_reversal(length: int) -> np.ndarray:
    """Returns the bit-reversed numbers of 0 .. 2**k - 1 that are below `length`, 2**k the next power of two."""
    bits = max(length - 1, 1).bit_length()
    numbers = np.arange(2**bits)
    reversed_ = np.zeros_like(numbers)
    for bit in range(bits):
        reversed_ |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return reversed_[reversed_ < length]
