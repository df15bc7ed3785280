"""`fashion`: Fashion-MNIST pixel by pixel, 784 steps in [0, 1]. Read like `smnist`; not in the papers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import mnist


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Sequential Fashion-MNIST.

    Attributes:
        split_seed: seeds the permutation that separates 6,000 validation images.
    """

    licence: ClassVar[str] = "Fashion-MNIST (Zalando), MIT."
    split_seed: int = 42

    def load(self) -> Dataset:
        """Returns pixels of shape (n, 784, 1)."""
        return mnist("fashion", self, Pixels(), split_seed=self.split_seed, fashion=True)
