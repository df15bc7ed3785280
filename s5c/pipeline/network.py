"""What goes through the stages of a reduction: a network, whole after every stage, and what has been said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from s5c.model import surgery
from s5c.model.classifier import Classifier, resized
from s5c.pipeline.trained import TrainedModel
from s5c.reduction.error import LayerError
from s5c.reduction.stage import Selected
from s5c.reduction.target import Target
from s5c.ssm.system import DiagonalSSM


@dataclasses.dataclass(frozen=True)
class ReducedNetwork:
    """One reduced network.

    Attributes:
        target: what was asked for.
        model: the smaller module.
        weights: its weights.
        selected: the slots that stay; None for a masked-only baseline, and before there was a choice.
        ratio_achieved: share of stored slots really removed.
        orders: slots per layer, all channels together.
        systems: the layers as they were made, double precision; None where their parameters were gathered or drawn.
        errors: how far each layer is from the full one; empty where weights were drawn again.
        bounds: upper bounds of the layers' H-infinity errors; None where none is known.
        notes: what the user should know.
        quadratic: with a method of quadratic outputs, the errors that it minimises; None with others.
        seconds: by clock (`s5c.pipeline.clock`); compilation counts for the first job of a process. What all targets
            share counts for each.
        facts: what stages of third parties add to the row of results.
        bits: of its weights in matrices.
    """

    target: Target
    model: Classifier
    weights: dict[str, Any]
    selected: Selected | None
    ratio_achieved: float
    orders: list[int]
    systems: Sequence[DiagonalSSM] | None = None
    errors: Sequence[LayerError] = ()
    bounds: Sequence[float | None] = ()
    notes: tuple[str, ...] = ()
    quadratic: list[float] | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bits: int = 32

    def keeping(self, selected: Selected) -> ReducedNetwork:
        """Returns it with the slots that stay."""
        achieved, orders = selected.ratio_achieved, selected.orders
        return dataclasses.replace(self, selected=selected, ratio_achieved=achieved, orders=orders)

    def noting(self, notes: Sequence[str]) -> ReducedNetwork:
        """Returns it with more notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def written(self, trained: TrainedModel, systems: Sequence[DiagonalSSM] | None) -> ReducedNetwork:
        """Returns it with other layers, all else kept.

        Args:
            trained: the network that is reduced.
            systems: one per layer; None gathers the parameters of the states that stay, bit for bit.
        """
        if systems is None:
            assert self.selected is not None, "something was chosen"
            params, config = surgery.take(trained.weights["params"], self.selected.keep, trained.model.config)
        else:
            params, config = surgery.with_systems(self.weights["params"], systems, trained.model.config)
        model = resized(trained.model.clone(config=config), surgery.state_dims(params, config))
        return dataclasses.replace(self, model=model, weights={**self.weights, "params": params}, systems=systems)
