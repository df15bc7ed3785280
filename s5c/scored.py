"""How a network answered: what `s5c.Model.evaluate` returns."""

from __future__ import annotations

from typing import NamedTuple

from s5c.evaluation.metrics import Predictions, Said


class Evaluation(NamedTuple):
    """How a network answered with classes.

    Attributes:
        accuracy: share of sequences classified correctly.
        loss: mean negative log-likelihood, nat.
        examples: number of sequences.
    """

    accuracy: float
    loss: float
    examples: int


class Regression(NamedTuple):
    """How a network answered with real targets, over all sequences or, of targets a step, over all of their steps.

    Attributes:
        rmse: root mean squared error, in the unit of the targets.
        mae: mean absolute error, in the unit of the targets.
        r2: coefficient of determination; None if the targets do not vary.
        fit: fit index, 1 - |error| / |targets less their mean|; None if the targets do not vary.
        loss: mean squared error of the scaled targets.
        examples: number of sequences.
    """

    rmse: float
    mae: float
    r2: float | None
    fit: float | None
    loss: float
    examples: int


def scored(said: Said) -> Evaluation | Regression:
    """Returns what answers come to, all of which are finite."""
    found, loss = said.metrics, said.loss
    assert loss is not None, "all answers are finite"
    if isinstance(said, Predictions):
        accuracy = found["accuracy"]
        assert accuracy is not None
        return Evaluation(accuracy, loss, len(said.finite))
    rmse, mae = found["rmse"], found["mae"]
    assert rmse is not None and mae is not None
    return Regression(rmse, mae, found["r2"], found["fit"], loss, len(said.finite))
