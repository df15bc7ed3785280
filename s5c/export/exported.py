"""What is exported: a network with all that is known about it, and answers that every copy of it is compared with."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from s5c.model.classifier import Classifier
from s5c.types import Params

SEQUENCES, STEPS = 2, 48
"""Of the answers that go with an export of a step."""
ROWS = 4
"""Of those that go with an export of the whole network; of pairs of documents half as many answers."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """One network.

    Attributes:
        name: a word, for file names and functions.
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`, float32.
        facts: its card.
        step_rescale: multiplies every Delta.
        bits: of the weights in matrices, for formats that round.
        lengths: steps of the sequences that formats of whole sequences are made for.
    """

    name: str
    model: Classifier
    weights: Params
    facts: dict[str, Any]
    step_rescale: float = 1.0
    bits: int = 32
    lengths: tuple[int, ...] = ()

    def inputs(self, steps: int = STEPS, sequences: int = SEQUENCES) -> np.ndarray:
        """Returns random inputs, always the same: ids (n, l), or uniform numbers from -1 to 1, (n, l, features)."""
        spec, rng = self.model.spec, np.random.default_rng(5)
        if spec.tokens:
            return rng.integers(0, spec.features, (sequences, steps)).astype(np.int32)
        return rng.uniform(-1, 1, (sequences, steps, spec.features)).astype(np.float32)
