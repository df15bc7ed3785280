"""`image`: grey CIFAR-10 pixel by pixel, 1,024 steps: the Long Range Arena's Image as the S4 and S5 code reads it.

Grey is PIL's 8-bit luma; then x / 255, minus 122.6 / 255, over 61 / 255. No augmentation.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import cifar10

DECODE = Pixels(mean=(122.6 / 255,), std=(61.0 / 255,), grey=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Grey sequential CIFAR-10.

    Attributes:
        split_seed: seeds the permutation that separates 5,000 validation images.
    """

    licence: ClassVar[str] = "CIFAR-10 (Krizhevsky 2009): no licence stated, to be cited."
    split_seed: int = 42

    def load(self) -> Dataset:
        """Returns standardised grey values of shape (n, 1024, 1)."""
        return cifar10("image", self, DECODE, split_seed=self.split_seed)
