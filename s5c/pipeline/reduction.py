"""The reduction stage on a trained network: rank, share out, reduce, refit, write back, renormalise, train again."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s5c import config as settings
from s5c.model import surgery
from s5c.model.classifier import Classifier, resized
from s5c.model.config import ModelConfig
from s5c.model.normalisation import recalibrated
from s5c.model.readout import logits, refitted
from s5c.pipeline.calibration import (
    Batches,
    calibration_batches,
    calibration_split,
    check_alike,
    full_moments,
    refit_selected,
    refit_systems,
    shortage,
)
from s5c.pipeline.finetune import drawn, finetune
from s5c.pipeline.parameters import stored_after, too_many
from s5c.pipeline.sensitivity import divergence_gains, gradient_weights, measured_weights
from s5c.pipeline.trained import TrainedModel, load_task
from s5c.reduction import stage
from s5c.reduction.contract import Fitted, Fresh, Masking, OfQuadraticOutputs, Projection, Selection, load_allocation
from s5c.reduction.error import LayerError, layer_errors
from s5c.reduction.layer import check_finite
from s5c.reduction.moments import Moments
from s5c.reduction.slots import kept
from s5c.reduction.target import Target
from s5c.reduction.unstable import account
from s5c.ssm.system import DiagonalSSM

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Reduced:
    """One reduced network.

    Attributes:
        target: what was asked for.
        model: the smaller module.
        weights: its weights.
        selected: the slots that stay; None for a masked-only baseline.
        ratio_achieved: share of stored slots really removed.
        orders: slots per layer, all channels together.
        errors: how far each layer is from the full one; empty where weights were drawn anew.
        bounds: upper bounds of the layers' H-infinity errors; None where none is known.
        notes: what the user should know.
        quadratic: with a method of quadratic outputs, the errors that it minimises; None with others.
        seconds: of the reduction without calibration and training; compilation counts for the first job of a process.
        seconds_calibration: of everything that ran the network on calibration sequences.
        seconds_training: of the training afterwards.
    """

    target: Target
    model: Classifier
    weights: dict[str, Any]
    selected: stage.Selected | None
    ratio_achieved: float
    orders: list[int]
    errors: list[LayerError]
    bounds: list[float | None]
    notes: tuple[str, ...]
    seconds: float
    seconds_calibration: float = 0.0
    seconds_training: float = 0.0
    quadratic: list[float] | None = None


class Reduction:
    """A preset applied to one network; what all targets share is computed once."""

    def __init__(self, trained: TrainedModel, job: settings.ReductionJob, folder: Path) -> None:
        self.trained, self.job, self.folder = trained, job, folder
        self.config: ModelConfig = trained.model.config
        self.layers = surgery.layers(trained.weights, self.config, horizon=trained.length)
        check_finite(self.layers)
        self.parameters = stored_after(job, trained.weights["params"], self.config)
        self.measured: list[Moments] | None = None
        self.notes: list[str] = []
        self.seconds_calibration = 0.0
        began = time.perf_counter()
        if getattr(job.method, "needs_moments", False):
            self._measure()
            self.seconds_calibration = time.perf_counter() - began
            began = time.perf_counter()
        self.fitted: Fitted | None = None
        self.ranking: stage.Ranking | None = None
        if isinstance(job.method, Projection):
            self.fitted = job.method.fit(self.layers, job.keys.seed)
        if not isinstance(job.method, Masking):
            self.ranking = self._rank()
        self.seconds_ranking = time.perf_counter() - began

    def _measure(self) -> None:
        trained = self.trained
        moments = full_moments(trained.model, trained.weights, self.batches, step_rescale=trained.step_rescale)
        self.notes += shortage(moments)
        self.layers = [dataclasses.replace(l, moments=m) for l, m in zip(self.layers, moments, strict=True)]
        self.measured = moments

    @functools.cached_property
    def batches(self) -> Batches:
        """Starts the calibration sequences."""
        keys, dataset, splits = self.job.calibration, self.trained.dataset, self.trained.splits
        if keys.task:
            dataset, splits = load_task(settings.task_job(keys.task), "validation")
            check_alike(dataset, self.trained.dataset)
        split = calibration_split(splits, sequences=keys.sequences, split=keys.split, seed=keys.seed)
        return calibration_batches(split, dataset.length, batch_size=keys.batch_size)

    @functools.cached_property
    def _logits(self) -> list[np.ndarray]:
        """The full network's, on the calibration sequences."""
        trained = self.trained
        return logits(trained.model, trained.weights, self.batches(), step_rescale=trained.step_rescale)

    def _rank(self) -> stage.Ranking:
        method, keys = self.job.method, self.job.keys
        if isinstance(method, Fresh):
            method = method.ranking
        assert isinstance(method, Selection | Projection)
        allocation = load_allocation(keys.allocation)
        ranking = stage.rank(method, allocation, self.layers, seed=keys.seed, fitted=self.fitted)
        if keys.layer_sensitivity == "none":
            return ranking
        network, rescale = (self.trained.model, self.trained.weights), self.trained.step_rescale
        if keys.layer_sensitivity == "curve":
            gains = divergence_gains(*network, self.batches, ranking.scores, self._of_kept, step_rescale=rescale)
            return stage.rescored(ranking, allocation, gains)
        if keys.layer_sensitivity == "gradient":
            weights = gradient_weights(*network, self.batches, step_rescale=rescale)
        else:
            weights = measured_weights(*network, self.batches, ranking.scores, self._of_kept, step_rescale=rescale)
        log.info("%s: sensitivity of the layers %s", keys.name, ", ".join(f"{w:.3g}" for w in weights))
        return stage.weighed(ranking, allocation, weights.tolist())

    def _of_kept(self, keep: list[np.ndarray]) -> tuple[Classifier, dict[str, Any]]:
        """Returns the network of these states, each layer refitted on its own."""
        selected = stage.Selected(keep)
        systems = None if self.fitted is None else [r.system for r in self.fitted.reduce(selected.counts)]
        if self.job.keys.refit != "none":
            selected, systems = self._refitted(selected, systems, sequential="off")
        params, config = self._written(selected, systems)
        return _sized(self.trained.model, params, config), {**self.trained.weights, "params": params}

    def apply(self, target: Target) -> Reduced:
        """Returns the network at one target.

        Args:
            target: of those that `s5c.pipeline.targets.check` lets pass.

        Raises:
            UserError: the data does not fit.
        """
        method, began = self.job.method, time.perf_counter()
        if isinstance(method, Masking):
            return self._masked(method, target, began)
        assert self.ranking is not None
        selected = target.select(self.ranking, self.parameters)
        if isinstance(method, Fresh):
            return self._trained(self._fresh(selected, target, began))
        bounds: list[float | None] = [None] * len(self.layers)
        notes = [*self.notes, *selected.notes]
        systems: list[DiagonalSSM] | None = None
        if self.fitted is not None:
            found = self.fitted.reduce(selected.counts)
            systems, bounds = [r.system for r in found], [r.bound for r in found]
            notes += [note for r in found for note in r.notes]
        seconds = time.perf_counter() - began + self.seconds_ranking
        began = time.perf_counter()
        calibration = self.seconds_calibration
        if self.job.keys.refit != "none":
            selected, systems = self._refitted(selected, systems)
            bounds = [None] * len(self.layers)
            if self.job.refit.needs_moments:
                calibration += time.perf_counter() - began
            else:
                seconds += time.perf_counter() - began
        params, config = self._written(selected, systems)
        weights = {**self.trained.weights, "params": params}
        model = _sized(self.trained.model, params, config)
        if self.job.keys.norm == "recalibrate":
            began = time.perf_counter()
            weights = recalibrated(model, weights, self.batches(), step_rescale=self.trained.step_rescale)
            calibration += time.perf_counter() - began
        if self.job.keys.readout == "refit":
            began = time.perf_counter()
            weights = refitted(self._logits, model, weights, self.batches(), step_rescale=self.trained.step_rescale)
            if self.job.calibration.sequences <= self.config.d_model:
                notes.append(
                    f"readout: {self.job.calibration.sequences} sequences for {self.config.d_model + 1} unknowns a "
                    "class; raise reduction.calibration.sequences, or set reduction.readout=keep."
                )
            calibration += time.perf_counter() - began
        if isinstance(method, Selection):
            notes += account(self.layers, selected.keep, getattr(method, "unstable", "protect"))
        known = [bound is not None for bound in bounds]
        written = surgery.systems(params, config)
        errors = layer_errors(self.layers, written, hinf=known)
        quadratic = self.fitted.errors_of(written) if isinstance(self.fitted, OfQuadraticOutputs) else None
        reduced = Reduced(
            target, model, weights, selected, selected.ratio_achieved, selected.orders, errors, bounds,
            tuple(notes), seconds, calibration, quadratic=quadratic,
        )  # fmt: skip
        return self._trained(reduced)

    def _refitted(
        self, selected: stage.Selected, systems: list[DiagonalSSM] | None, sequential: str | None = None
    ) -> tuple[stage.Selected, list[DiagonalSSM]]:
        """Returns the layers with outputs solved anew, and what stays: it may be chosen again on the way."""
        trained, refit, mode = self.trained, self.job.refit, sequential or self.job.keys.sequential
        if not refit.needs_moments:
            made = systems or [kept(l.system, k) for l, k in zip(self.layers, selected.keep, strict=True)]
            return selected, [refit(l, s) for l, s in zip(self.layers, made, strict=True)]
        if systems is not None:
            found = refit_systems(
                trained.model, trained.weights, systems, self.batches, refit=refit,
                sequential="off" if mode == "off" else "refit", step_rescale=trained.step_rescale,
            )  # fmt: skip
            return selected, found.systems
        method = self.job.method if isinstance(self.job.method, Selection) and self.measured else None
        again = mode == "reselect" and method is not None
        found = refit_selected(
            trained.model, trained.weights, selected.keep, self.batches, refit=refit,
            sequential=mode if again or mode == "off" else "refit", method=method,
            measured=self.measured, step_rescale=trained.step_rescale,
        )  # fmt: skip
        assert found.keep is not None
        return dataclasses.replace(selected, keep=found.keep), found.systems

    def _written(
        self, selected: stage.Selected, systems: Sequence[DiagonalSSM] | None
    ) -> tuple[dict[str, Any], ModelConfig]:
        params = self.trained.weights["params"]
        if systems is None:
            return surgery.take(params, selected.keep, self.config)
        return surgery.with_systems(params, systems, self.config)

    def _masked(self, method: Masking, target: Target, began: float) -> Reduced:
        assert target.kind == "ratio" and isinstance(target.value, float), "checked before"
        full = [layer.system for layer in self.layers]
        masked = stage.mask(method, full, target.value, seed=self.job.keys.seed)
        params, config = surgery.with_systems(self.trained.weights["params"], masked, self.config)
        weights, model = {**self.trained.weights, "params": params}, _sized(self.trained.model, params, config)
        none: list[float | None] = [None] * len(full)
        orders = [layer.slots for layer in self.layers]
        errors = layer_errors(self.layers, masked)
        seconds = time.perf_counter() - began
        return Reduced(target, model, weights, None, target.value, orders, errors, none, (), seconds)

    def _fresh(self, selected: stage.Selected, target: Target, began: float) -> Reduced:
        """Returns the full network's other weights around sequence layers as a training would start with."""
        dims = [int(np.max(count)) for count in selected.counts]
        model = self.trained.model.clone(state_dims=tuple(dims))
        new = drawn(self.trained, model, seed=self.job.keys.seed)["params"]["encoder"]
        encoder = dict(self.trained.weights["params"]["encoder"])
        for name in surgery.layer_names(self.config):
            encoder[name] = {**encoder[name], "seq": new[name]["seq"]}
        weights = {**self.trained.weights, "params": {**self.trained.weights["params"], "encoder": encoder}}
        none: list[float | None] = [None] * len(dims)
        return Reduced(
            target,
            model,
            weights,
            selected,
            selected.ratio_achieved,
            selected.orders,
            [],
            none,
            selected.notes,
            time.perf_counter() - began,
        )

    def _trained(self, reduced: Reduced) -> Reduced:
        keys = self.job.finetune
        if not keys.epochs:
            return reduced
        began = time.perf_counter()
        weights = reduced.weights
        if keys.rest == "reinitialise":
            new = drawn(self.trained, reduced.model, seed=self.job.keys.seed)
            encoder = dict(new["params"]["encoder"])
            for name in surgery.layer_names(self.config):
                encoder[name] = {**encoder[name], "seq": weights["params"]["encoder"][name]["seq"]}
            weights = {**new, "params": {**new["params"], "encoder": encoder}}
        weights = finetune(
            self.trained, reduced.model, weights, keys,
            seed=self.job.keys.seed, folder=self.folder, label=f"{self.job.keys.name}-{reduced.target.label}",
        )  # fmt: skip
        return dataclasses.replace(reduced, weights=weights, seconds_training=time.perf_counter() - began)


def reductions(
    trained: TrainedModel, job: settings.ReductionJob, targets: Sequence[Target], *, folder: Path
) -> tuple[Iterator[Reduced], stage.Ranking | None]:
    """Applies a preset at some targets.

    Args:
        trained: the model to reduce.
        job: the preset.
        targets: what is asked for.
        folder: trainings after the reduction live below.

    Returns:
        The networks, made one by one; the ranking they are cuts of (None for a masked-only baseline).
    """
    first = Reduction(trained, job, folder)

    def made() -> Iterator[Reduced]:
        for target in targets:
            reduced = first.apply(target) if job.keys.rounds == 1 else in_rounds(first, target)
            if target.kind == "ratio" and reduced.selected is not None:
                assert isinstance(target.value, float)
                notes = (*reduced.notes, *stage.shortfall(target.value, reduced.selected))
                reduced = dataclasses.replace(reduced, notes=notes)
            if target.kind == "params":
                reduced = dataclasses.replace(
                    reduced,
                    notes=(
                        *reduced.notes,
                        *too_many(first.parameters, reduced.weights["params"], reduced.model.config, target),
                    ),
                )
            for note in reduced.notes:
                log.warning("%s: %s", job.keys.name, note)
            yield reduced

    return made(), first.ranking


def in_rounds(first: Reduction, target: Target) -> Reduced:
    """Reduces in `rounds` steps of equal ratio, each followed by training, each starting from the last one's result."""
    job, rounds = first.job, first.job.keys.rounds
    assert target.kind == "ratio" and isinstance(target.value, float), "checked before"
    slots = sum(layer.slots for layer in first.layers)
    trained, reduced, part = first.trained, None, first
    keep = [np.ones(layer.system.Lambda.shape, bool) for layer in first.layers]
    for i in range(1, rounds + 1):
        left = sum(layer.slots for layer in part.layers)
        wanted = slots - stage.budget(1 - (1 - target.value) ** (i / rounds), slots, len(part.layers))
        step = Target("ratio", max((wanted - (slots - left)) / left, 0.0))
        reduced = part.apply(step)
        assert reduced.selected is not None, "rounds of masking"
        keep = [_composed(before, now) for before, now in zip(keep, reduced.selected.keep, strict=True)]
        trained = dataclasses.replace(trained, model=reduced.model, weights=reduced.weights)
        if i < rounds:
            part = Reduction(trained, job, first.folder / f"round{i}")
    assert reduced is not None and reduced.selected is not None
    achieved = 1 - sum(reduced.orders) / slots
    selected = dataclasses.replace(reduced.selected, keep=keep)
    return dataclasses.replace(reduced, target=target, selected=selected, ratio_achieved=achieved)


def _composed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Returns which of the first states are left after one more round; of channels only how many, the first ones."""
    if before.ndim == 1 and before.sum() == now.size:
        after = before.copy()
        after[before] = now
        return after
    return np.arange(before.shape[-1]) < now.sum(-1, keepdims=True)


def _sized(model: Classifier, params: dict[str, Any], config: ModelConfig) -> Classifier:
    return resized(model.clone(config=config), surgery.state_dims(params, config))
