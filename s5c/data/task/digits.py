"""`digits`: 1,797 handwritten digits of 8 x 8 pixels, read row by row as sequences of 64 steps. Ships with s5c.

The images are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine
Learning Repository, doi 10.24432/C50P49, CC BY 4.0), as distributed with scikit-learn (BSD 3-Clause); values 0 to 16.
They are stored unchanged in digits.npz.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from s5c.data.base import Dataset, Split

TEST_EXAMPLES = 360


@dataclasses.dataclass(frozen=True)
class Task:
    """Sequential digits.

    Attributes:
        split_seed: seeds the permutation that separates the 360 test images from the 1,437 others. The set has no
            official split; results are comparable only for the same seed.
    """

    licence: ClassVar[str] = "UCI Optical Recognition of Handwritten Digits (Alpaydin, Kaynak), CC BY 4.0."
    split_seed: int = 0

    def load(self) -> Dataset:
        """Returns pixels in [0, 1] of shape (n, 64, 1)."""
        with np.load(Path(__file__).with_suffix(".npz")) as archive:
            images, labels = archive["images"], archive["labels"].astype(np.int32)
        inputs = (images.astype(np.float32) / 16)[..., None]
        order = np.random.default_rng(self.split_seed).permutation(len(labels))
        train, test = order[TEST_EXAMPLES:], order[:TEST_EXAMPLES]
        return Dataset(
            name="digits",
            source="uci-digits (embedded)",
            train=Split(inputs[train], labels[train]),
            test=Split(inputs[test], labels[test]),
            features=1,
            classes=10,
        )
