"""`scifar`: colour CIFAR-10 pixel by pixel, 1,024 steps of 3 channels, standardised as in the S4 and S5 code."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import cifar10
from s5c.data.task import image

DECODE = Pixels(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Colour sequential CIFAR-10.

    Attributes:
        split_seed: seeds the permutation that separates 5,000 validation images.
    """

    licence: ClassVar[str] = image.Task.licence
    split_seed: int = 42

    def load(self) -> Dataset:
        """Returns standardised colours of shape (n, 1024, 3)."""
        return cifar10("scifar", self, DECODE, split_seed=self.split_seed)
