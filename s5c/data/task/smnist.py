"""`smnist`: MNIST pixel by pixel, 784 steps in [0, 1], as in the published S4 and S5 code (no mean, no deviation)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import mnist


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Sequential MNIST.

    Attributes:
        split_seed: seeds the permutation that separates 6,000 validation images.
    """

    licence: ClassVar[str] = "MNIST (LeCun, Cortes, Burges), usually given as CC BY-SA 3.0."
    split_seed: int = 42

    def load(self) -> Dataset:
        """Returns pixels of shape (n, 784, 1)."""
        return mnist("smnist", self, Pixels(), split_seed=self.split_seed)
