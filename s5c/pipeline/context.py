"""What the stages of a reduction share: the trained network, its layers, the calibration sequences, and the clock."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from s5c import config as settings
from s5c.axes import ReductionJob
from s5c.model import surgery
from s5c.pipeline.calibration import (
    Batches,
    Calibration,
    calibration_batches,
    calibration_split,
    check_alike,
    full_moments,
    shortage,
)
from s5c.pipeline.clock import CALIBRATION, Clock, shared
from s5c.pipeline.parameters import bits_of, bytes_after, stored_after
from s5c.pipeline.trained import TrainedModel, load_task
from s5c.pipeline.untasked import chosen
from s5c.reduction.contract import Fitted, Method, Projection
from s5c.reduction.layer import check_finite
from s5c.reduction.moments import Moments
from s5c.reduction.size import Bytes


@runtime_checkable
class Preparing(Protocol):
    """A stage that makes another network of the given one, once, before all targets: `prepared`, besides `apply`."""

    def takes(self, method: Method) -> bool:
        """Returns whether it has a part in reductions by a method."""

    def prepared(self, trained: TrainedModel, batches: Batches) -> tuple[TrainedModel, list[str]]:
        """Returns the network that all targets are made of, and what is to be said of it.

        Args:
            trained: the network that is reduced, after the stages before.
            batches: starts the calibration sequences.
        """


class Context:
    """One network and one preset.

    Args:
        given: the network that is reduced, with its data.
        job: the preset.
        folder: trainings after the reduction live below.

    Attributes:
        trained: the network that all targets are made of: the given one, after what stages do once (`Preparing`).
        config: configuration of that network.
        clock: counts what is done.
        made: what targets share (`s5c.pipeline.clock.shared`).
        layers: of that network, double precision, with what was measured where the method asks for it.
        moments: what was measured; None if the method looks at no data.
        notes: what is to be said of it.
        parameters: how many are stored at every cut.

    Raises:
        UserError: a parameter is not finite, or the calibration sequences do not fit.
    """

    def __init__(self, given: TrainedModel, job: ReductionJob, folder: Path) -> None:
        self.given, self.job, self.folder, self.clock = given, job, folder, Clock()
        self.made: dict[Callable[[Context], Any], Any] = {}
        self.notes: list[str] = []
        self.trained = trained = self._prepared()
        self.config = trained.model.config
        self.layers = surgery.layers(trained.weights, self.config, horizon=trained.length)
        check_finite(self.layers)
        full = surgery.parameters(given.weights["params"], given.model.config).total
        stored = stored_after(job, trained.weights["params"], self.config)
        self.parameters = dataclasses.replace(stored, total=full)
        self.moments: list[Moments] | None = None
        if getattr(job.method, "needs_moments", False):
            self.moments = measured(self)
            self.notes += shortage(self.moments)
            self.layers = [dataclasses.replace(l, moments=m) for l, m in zip(self.layers, self.moments, strict=True)]

    def _prepared(self) -> TrainedModel:
        found = self.given
        with self.clock.counting(CALIBRATION, shared=True):
            for axis in self.job.axes:
                if isinstance(axis, Preparing) and axis.takes(self.job.method):
                    found, notes = axis.prepared(found, lambda: self.batches())
                    self.notes += notes
        return found

    def of(self, job: ReductionJob) -> Context:
        """Returns the same for a job that differs in what comes after all that is shared."""
        other = copy.copy(self)
        other.job = job
        return other

    def stored(self) -> Bytes:
        """Returns how many bytes are taken up at every cut."""
        return bytes_after(
            self.job, self.trained.weights["params"], self.config, bits_of(self.job),
            tokens=self.trained.model.spec.tokens,
        )  # fmt: skip

    @cached_property
    def batches(self) -> Batches:
        """Starts the calibration sequences."""
        keys, dataset, splits = self.job.of(Calibration), self.given.dataset, self.given.splits
        if keys.inputs is not None:
            given = chosen(keys, self.given.model.spec)
            steps = given.read(np.zeros(1, np.int64)).shape[2 if dataset.pairs else 1]
            return calibration_batches(given, steps, batch_size=keys.batch_size)
        if keys.task:
            dataset, splits = load_task(settings.task_job(keys.task), "validation")
            check_alike(dataset, self.given.dataset)
        split = calibration_split(splits, sequences=keys.sequences, split=keys.split, seed=keys.seed)
        return calibration_batches(split, dataset.length, batch_size=keys.batch_size)


@shared(CALIBRATION)
def measured(context: Context) -> list[Moments]:
    """Returns the second moments of every layer of the full network."""
    trained = context.trained
    return full_moments(trained.model, trained.weights, context.batches, step_rescale=trained.step_rescale)


@shared()
def fitted(context: Context) -> Fitted:
    """Returns the job's projection, fitted to the network: every order of every layer can be asked for."""
    method = context.job.method
    assert isinstance(method, Projection)
    return method.fit(context.layers, context.job.keys.seed)
