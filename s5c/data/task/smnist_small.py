"""`smnist_small`: MNIST averaged over 2 x 2 blocks, 196 steps in [0, 1]. A benchmark of ours that needs no GPU."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.base import Dataset
from s5c.data.decode import Pixels
from s5c.data.origin import Located
from s5c.data.pixels import mnist
from s5c.data.task import smnist
from s5c.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Sequential MNIST of a quarter of the length.

    Attributes:
        split_seed: seeds the permutation that separates 6,000 validation images.
        pool: side of the blocks that are averaged: 2, or 4 for 49 steps.
    """

    licence: ClassVar[str] = smnist.Task.licence
    split_seed: int = 42
    pool: int = 2

    def __post_init__(self) -> None:
        if self.pool not in (2, 4):
            raise UserError(f"task.pool={self.pool}: 28 pixels a side are divided by 2 or 4.")

    def load(self) -> Dataset:
        """Returns pixels of shape (n, 784 / pool**2, 1)."""
        return mnist("smnist_small", self, Pixels(pool=self.pool), split_seed=self.split_seed)
