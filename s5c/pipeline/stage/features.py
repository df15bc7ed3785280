"""A narrower network: features between the layers removed, before anything else is."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from s5c.axes import Idle, ReductionJob
from s5c.errors import UserError
from s5c.model.config import ModelConfig
from s5c.pipeline.calibration import Batches
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.narrowed import narrowed
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.trained import TrainedModel
from s5c.reduction.contract import Projection, Selection

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Removes features, those that the others tell best, and solves all that read them again.

    States are removed from the narrow network afterwards, and shares of states are of those that it has: all of them
    in networks whose layers are one system each; S4D and DSS lose the states of a channel with it.

    Attributes:
        features: share of the features between the layers to remove.
    """

    OUTSIDE: ClassVar[bool] = True
    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection)

    features: float | None = None

    def __post_init__(self) -> None:
        if self.features is not None and not 0 < self.features < 1:
            raise UserError(
                f"reduction.features={self.features:g}: the share of the features between the layers to remove lies "
                "between 0 and 1; for instance reduction.features=0.5. Leave it at null to remove none."
            )

    def prepared(self, trained: TrainedModel, batches: Batches) -> tuple[TrainedModel, list[str]]:
        """Returns the narrow network, and how wide it is."""
        if self.features is None:
            return trained, []
        if trained.model.spec.pairs:
            raise UserError(
                "reduction.features removes none from networks that compare two documents: their readout reads "
                "products of features. Leave it at null."
            )
        before = trained.model.config.d_model
        found = narrowed(
            trained.model, trained.weights, self.left(before), batches, step_rescale=trained.step_rescale
        )  # fmt: skip
        said = f"{self.left(before)} of {before} features between the layers stay."
        return dataclasses.replace(trained, model=found.model, weights=found.weights), [said]

    def left(self, features: int) -> int:
        """Returns how many features stay; at least one."""
        assert self.features is not None, "some are removed"
        return max(round((1 - self.features) * features), 1)

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network as it is: narrow already, since all targets are made of the narrow one."""
        return network

    def check(self, job: ReductionJob) -> None:
        """Raises `UserError` for rounds, of which each would narrow the network."""
        if self.features is not None and job.ungrouped()["rounds"] > 1:
            raise UserError(
                f"reduction.features={self.features:g} with reduction.rounds={job.ungrouped()['rounds']}: features are "
                "removed once. Reduce the narrow network, checkpoint=FOLDER, in rounds."
            )

    def check_network(self, job: ReductionJob, config: ModelConfig) -> None:
        """Raises `UserError` for blocks that cannot be narrowed, and where nothing would go."""
        if self.features is None:
            return
        if config.activation == "geglu":
            raise UserError(
                f"reduction.features={self.features:g}: the blocks of s5-pytorch (activation=geglu) keep their width. "
                "Leave it at null."
            )
        if self.left(config.d_model) == config.d_model:
            raise UserError(
                f"reduction.features={self.features:g} changes nothing: it is less than half of one of "
                f"{config.d_model} features. Give at least {0.5 / config.d_model:.2g}."
            )

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether features are removed."""
        return self.features is not None

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns its key where nothing is removed."""
        return () if self.features is not None else self.keys

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields nothing: there is one key, which removes features or is null."""
        yield from ()

    def label(self, key: str, value: Any) -> str | None:
        """Returns how much narrower the network is."""
        return f"+{100 * value:g} % fewer features"
