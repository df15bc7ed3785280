"""Answers to no question: of a network that belongs to no task, where there is no example to be right about."""

from __future__ import annotations

import numpy as np

from s5c.evaluation.metrics import Predictions


class Unasked(Predictions):
    """What a network says where there is no example: nothing, and there is no share of it that is right."""

    @property
    def accuracy(self) -> float | None:
        """None."""
        return None

    @property
    def loss(self) -> float | None:
        """None."""
        return None

    def agreement(self, other: Predictions) -> float | None:
        """Returns None."""
        return None


def unasked(classes: int) -> Unasked:
    """Returns the answers to no question, of shape (0, classes)."""
    return Unasked(np.zeros((0, classes)), np.zeros(0, np.int64))
