"""`tones`: sine tones in noise, told apart by their pitch; drawn in a moment."""

from __future__ import annotations

import dataclasses

import numpy as np

from s5c.data.base import Dataset, Split
from s5c.errors import bounded


@dataclasses.dataclass(frozen=True)
class Task:
    """Tones of random phase.

    Attributes:
        length: steps.
        pitches: classes; the k-th has k + 1 periods in a sequence.
        noise: standard deviation, of tones with amplitude 1.
        data_seed: of the draw.
    """

    length: int = bounded(48, least=8)
    pitches: int = bounded(4, least=2)
    noise: float = bounded(0.3, least=0)
    data_seed: int = 0

    def load(self) -> Dataset:
        """Returns sequences of shape (n, length, 1), 256 for training and 64 each for validation and test."""
        rng = np.random.default_rng(self.data_seed)
        train, validation, test = (self._draw(rng, n) for n in (256, 64, 64))
        source = f"tones ({self.length} steps, noise {self.noise:g}, seed {self.data_seed})"
        return Dataset("tones", source, train, test, features=1, classes=self.pitches, validation=validation)

    def _draw(self, rng: np.random.Generator, n: int) -> Split:
        labels = np.arange(n, dtype=np.int32) % self.pitches
        periods, phase = labels[:, None] + 1, rng.uniform(size=(n, 1))
        waves = np.sin(2 * np.pi * (periods * np.arange(self.length) / self.length + phase))
        inputs = waves + self.noise * rng.normal(size=waves.shape)
        return Split(inputs[..., None].astype(np.float32), labels)
