"""What the stages of a reduction share: the trained network, its layers, the calibration sequences, and the clock."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from s5c import config as settings
from s5c.axes import ReductionJob
from s5c.evaluation import cost
from s5c.model import surgery
from s5c.model.config import ModelConfig
from s5c.pipeline.calibration import (
    Batches,
    Calibration,
    calibration_batches,
    calibration_split,
    check_alike,
    full_moments,
    shortage,
)
from s5c.pipeline.network import CALIBRATION, REDUCTION, TRAINING, ReducedNetwork
from s5c.pipeline.parameters import stored_after
from s5c.pipeline.trained import TrainedModel, load_task
from s5c.reduction.layer import Layer, check_finite
from s5c.reduction.moments import Moments
from s5c.reduction.parameters import Parameters
from s5c.reduction.target import Target
from s5c.ssm.system import DiagonalSSM

T = TypeVar("T")


class Clock:
    """Seconds by clock, of one network and of what all share; what runs inside of something else counts alone."""

    def __init__(self) -> None:
        self._own, self._shared = (dict.fromkeys((REDUCTION, CALIBRATION, TRAINING), 0.0) for _ in range(2))
        self._running: list[tuple[dict[str, float], str]] = []
        self._last = 0.0

    @contextmanager
    def counting(self, clock: str | None, *, shared: bool = False) -> Iterator[None]:
        """Counts what runs inside.

        Args:
            clock: one of the three; None for what is counted nowhere.
            shared: for every network.
        """
        self._lap()
        self._running.append((self._shared if shared else self._own, clock or ""))
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def read(self) -> dict[str, float]:
        """Returns what one network cost, and starts at zero for the next."""
        found = {clock: own + self._shared[clock] for clock, own in self._own.items()}
        self._own = dict.fromkeys(self._own, 0.0)
        return found

    def _lap(self) -> None:
        now = time.perf_counter()
        if self._running and self._running[-1][1]:
            seconds, clock = self._running[-1]
            seconds[clock] += now - self._last
        self._last = now


class Context:
    """One network and one preset; what all targets share is made once, when it is asked for.

    Args:
        trained: the network that is reduced, with its data.
        job: the preset.
        folder: trainings after the reduction live below.
    """

    def __init__(self, trained: TrainedModel, job: ReductionJob, folder: Path) -> None:
        self.trained, self.job, self.folder = trained, job, folder
        self.clock = Clock()
        self._made: dict[Callable[[Context], Any], Any] = {}

    @property
    def config(self) -> ModelConfig:
        """The configuration of the network that is reduced."""
        return self.trained.model.config

    def once(self, make: Callable[[Context], T], clock: str = REDUCTION) -> T:
        """Returns what all targets share.

        Args:
            make: makes it of the context, the first time.
            clock: that this is counted on, for every target.
        """
        if make not in self._made:
            with self.clock.counting(clock, shared=True):
                self._made[make] = make(self)
        return self._made[make]

    def start(self, target: Target) -> ReducedNetwork:
        """Returns the network before the first stage."""
        trained, orders = self.trained, [layer.slots for layer in self.layers]
        none: list[float | None] = [None] * len(orders)
        return ReducedNetwork(target, trained.model, trained.weights, None, 0.0, orders, bounds=none)

    def written(self, network: ReducedNetwork, systems: Sequence[DiagonalSSM] | None) -> ReducedNetwork:
        """Returns a network with other layers, all else kept.

        Args:
            network: of this context.
            systems: one per layer; None gathers the parameters of the states that stay, bit for bit.
        """
        if systems is None:
            assert network.selected is not None, "something was chosen"
            params, config = surgery.take(self.trained.weights["params"], network.selected.keep, self.config)
        else:
            params, config = surgery.with_systems(network.weights["params"], systems, self.config)
        model = cost.resized(self.trained.model.clone(config=config), surgery.state_dims(params, config))
        return dataclasses.replace(network, model=model, weights={**network.weights, "params": params}, systems=systems)

    # ---- what is shared

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers in double precision, with what was measured where the method asks for it."""
        if self.moments is None:
            return self._bare
        return [dataclasses.replace(l, moments=m) for l, m in zip(self._bare, self.moments, strict=True)]

    @cached_property
    def _bare(self) -> list[Layer]:
        layers = surgery.layers(self.trained.weights, self.config, horizon=self.trained.length)
        check_finite(layers)
        return layers

    @cached_property
    def moments(self) -> list[Moments] | None:
        """Second moments of every layer of the full network; None if the method looks at none."""
        if not getattr(self.job.method, "needs_moments", False):
            return None
        with self.clock.counting(CALIBRATION, shared=True):
            trained = self.trained
            return full_moments(trained.model, trained.weights, self.batches, step_rescale=trained.step_rescale)

    @cached_property
    def notes(self) -> list[str]:
        """What is to be said of the calibration sequences."""
        return [] if self.moments is None else shortage(self.moments)

    @cached_property
    def batches(self) -> Batches:
        """Starts the calibration sequences."""
        keys, dataset, splits = self.job.of(Calibration), self.trained.dataset, self.trained.splits
        if keys.task:
            dataset, splits = load_task(settings.task_job(keys.task), "validation")
            check_alike(dataset, self.trained.dataset)
        split = calibration_split(splits, sequences=keys.sequences, split=keys.split, seed=keys.seed)
        return calibration_batches(split, dataset.length, batch_size=keys.batch_size)

    @cached_property
    def parameters(self) -> Parameters:
        """How many parameters are stored at every cut."""
        return stored_after(self.job, self.trained.weights["params"], self.config)
