"""`chirps`: does a tone rise or fall? Drawn."""

from __future__ import annotations

import dataclasses

import numpy as np

from s5c.data.base import Dataset, Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Tones whose frequency changes.

    Attributes:
        steps: length of a sequence.
        examples: for training and for the test.
        seed: seeds the drawing.
    """

    steps: int = 40
    examples: tuple[int, int] = (200, 100)
    seed: int = 0

    def load(self) -> Dataset:
        """Returns real inputs (n, steps, 1)."""
        rng = np.random.default_rng(self.seed)
        train, test = (self._drawn(rng, n) for n in self.examples)
        return Dataset("chirps", f"drawn by s5c-example, seed {self.seed}", train, test, features=1, classes=2)

    def _drawn(self, rng: np.random.Generator, n: int) -> Split:
        labels, t = rng.integers(0, 2, n).astype(np.int32), np.linspace(0, 1, self.steps)
        phase = 2 * np.pi * (8 * t + (2 * labels[:, None] - 1) * 6 * (t - 1) * t)
        return Split(np.sin(phase + rng.uniform(0, 6, (n, 1)))[..., None].astype(np.float32), labels)
