"""`psmnist`: MNIST pixel by pixel in bit-reversed order, 784 steps: the permutation of the S4 and S5 code.

It is not a random one: the numbers 0 to 1023 with their ten bits reversed, those from 784 on left out.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import mnist
from s5c.data.task import smnist


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Permuted sequential MNIST.

    Attributes:
        split_seed: seeds the permutation that separates 6,000 validation images.
    """

    licence: ClassVar[str] = smnist.Task.licence
    split_seed: int = 42

    def load(self) -> Dataset:
        """Returns permuted pixels of shape (n, 784, 1)."""
        return mnist("psmnist", self, Pixels(bit_reversal=True), split_seed=self.split_seed)
