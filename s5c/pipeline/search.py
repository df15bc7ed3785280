"""What stands on the stages: all targets of a preset, a target in several rounds, the largest ratio within a limit."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.axes import UNNAMED, Axis, ReductionJob
from s5c.errors import UserError, bounded
from s5c.evaluation import cost
from s5c.model.classifier import Classifier
from s5c.model.rounding import BITS
from s5c.pipeline.context import Context
from s5c.pipeline.line import run, stages
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.packing import packed
from s5c.pipeline.parameters import bits_of, too_many, with_bits
from s5c.pipeline.provenance import read_json, write_json
from s5c.pipeline.stage import choose, precision, train
from s5c.pipeline.trained import TrainedModel, checksum
from s5c.reduction import stage
from s5c.reduction.target import Target

log = logging.getLogger(__name__)

Validate = Callable[[Classifier, Mapping[str, Any]], float | None]
"""The task's metric of a network on validation data; None if some of its answers are not finite."""

SEARCH_STEPS = 6
"""Halvings of the interval in which the largest ratio is searched: to 1/64 of all states."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Axis):
    """How a target is found, and come to.

    Attributes:
        rounds: reduce in so many steps of equal ratio, training in between.
        max_drop: instead of a ratio: points of validation accuracy that may be lost, or percent by which an error such
            as the RMSE may grow; the largest ratio is searched.
    """

    SWITCHES: ClassVar[tuple[str, ...] | None] = ("rounds", "max_drop")

    rounds: int = 1
    max_drop: float | None = bounded(None, least=0)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"reduction.rounds={self.rounds}: at least one round is needed.")

    def check(self, job: ReductionJob) -> None:
        """Raises `UserError` for rounds of anything but ratios, or without training."""
        if self.rounds > 1 and not job.of(train.Stage).epochs:
            raise UserError(
                f"reduction.rounds={self.rounds}: without training in between, rounds change nothing. Add "
                "reduction.finetune.epochs=1, or leave rounds at 1."
            )
        if self.rounds > 1 and job.kind not in UNNAMED:
            raise UserError(
                f"reduction.rounds={self.rounds} removes states and takes a ratio, not reduction.{job.kind}."
            )


def candidates(job: ReductionJob) -> tuple[int, ...]:
    """Returns the bits of a weight that come into question: with a limit of bytes all, unless some are given."""
    given = job.of(precision.Stage).bits
    return BITS if job.kind == "bytes" and given is None else (bits_of(job),)


def validates(job: ReductionJob) -> bool:
    """Returns whether networks are compared on validation data."""
    return job.of(Search).max_drop is not None or len(candidates(job)) > 1


def reductions(
    trained: TrainedModel,
    job: ReductionJob,
    targets: Sequence[Target],
    *,
    folder: Path,
    validate: Validate | None = None,
) -> tuple[Iterator[ReducedNetwork], stage.Ranking | None]:
    """Applies a preset at some targets.

    Args:
        trained: the model to reduce.
        job: the preset.
        targets: what is asked for.
        folder: trainings after the reduction live below.
        validate: metric on the validation split; only where bits are to be chosen (`validates`).

    Returns:
        The networks, made one by one; the ranking they are cuts of (None for a masked-only baseline).
    """
    context = Context(trained, job, folder)
    ranked = any(isinstance(part, choose.Stage) for part in stages(job))
    ranking = choose.ranking(context) if ranked else None

    def made() -> Iterator[ReducedNetwork]:
        for target in targets:
            if len(candidates(job)) > 1:
                assert validate is not None, "bits are chosen by answers"
                network = in_bytes(context, target, validate)
            else:
                network = run(context, target) if job.of(Search).rounds == 1 else in_rounds(context, target)
            if target.kind == "ratio" and network.selected is not None:
                assert isinstance(target.value, float)
                network = network.noting(stage.shortfall(target.value, network.selected))
            if target.kind == "params":
                params, config = network.weights["params"], network.model.config
                network = network.noting(too_many(context.parameters, params, config, target))
            if target.kind == "bytes":
                assert isinstance(target.value, float)
                network = network.noting(_too_large(network, target.value, trained.step_rescale))
            for note in network.notes:
                log.warning("%s: %s", job.keys.name, note)
            yield network

    return made(), ranking


def in_bytes(context: Context, target: Target, validate: Validate) -> ReducedNetwork:
    """Returns the network of at most some bytes, of as many bits a weight as answer best on validation data.

    Fewer bits leave room for more states. Of equals the one with more bits is taken; the test split is not looked at.

    Args:
        context: the network and the preset.
        target: of kind `bytes`.
        validate: metric on the validation split.

    Raises:
        UserError: no number of bits reaches the target.
    """
    job, metric = context.job, context.trained.metric
    found: dict[int, ReducedNetwork] = {}
    score: dict[int, float] = {}
    for bits in candidates(job):
        tried = with_bits(job, bits)
        try:
            network = run(context.of(tried), target)
        except UserError as error:
            log.info("%s: %s", job.keys.name, error)
            continue
        value = validate(network.model, network.weights)
        found[bits], score[bits] = network, -math.inf if value is None else metric.score(value)
        told = "no answer that is finite" if value is None else metric.told(value)
        log.info("%s: %d bits, %d states: %s on validation data.", job.keys.name, bits, sum(network.orders), told)
    if not found:
        raise UserError(f"reduction.bytes={target.value}: no number of bits reaches it; see the messages above.")
    seconds = {clock: sum(one.seconds[clock] for one in found.values()) for clock in next(iter(found.values())).seconds}
    best = max(found, key=lambda bits: (score[bits], bits))
    return dataclasses.replace(found[best], seconds=seconds)


def _too_large(network: ReducedNetwork, limit: float, rescale: float) -> list[str]:
    """Returns what to say where the weights of a network take up more bytes than were asked for."""
    taken = cost.stored(packed(network.model, network.weights, network.bits, rescale)).arrays
    return [f"{limit:,.0f} bytes were asked for and {taken:,} are taken up."] if taken > limit else []


def in_rounds(first: Context, target: Target) -> ReducedNetwork:
    """Reduces in `rounds` steps of equal ratio, each followed by training, each starting from the last one's result.

    Args:
        first: reduction of the network before the first round.
        target: a ratio.
    """
    job, rounds = first.job, first.job.of(Search).rounds
    assert target.kind == "ratio" and isinstance(target.value, float), "checked before"
    slots = sum(layer.slots for layer in first.layers)
    trained, network, part = first.trained, None, first
    keep = [np.ones(layer.system.Lambda.shape, bool) for layer in first.layers]
    for i in range(1, rounds + 1):
        left = sum(layer.slots for layer in part.layers)
        wanted = slots - stage.budget(1 - (1 - target.value) ** (i / rounds), slots, len(part.layers))
        network = run(part, Target("ratio", max((wanted - (slots - left)) / left, 0.0)))
        assert network.selected is not None, "rounds of masking"
        keep = [_composed(before, now) for before, now in zip(keep, network.selected.keep, strict=True)]
        trained = dataclasses.replace(trained, model=network.model, weights=network.weights)
        if i < rounds:
            part = Context(trained, job, first.folder / f"round{i}")
    assert network is not None and network.selected is not None
    achieved = 1 - sum(network.orders) / slots
    selected = dataclasses.replace(network.selected, keep=keep)
    return dataclasses.replace(network, target=target, selected=selected, ratio_achieved=achieved)


def _composed(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Returns which of the first states are left after one more round; of channels only how many, the first ones."""
    if before.ndim == 1 and before.sum() == now.size:
        after = before.copy()
        after[before] = now
        return after
    return np.arange(before.shape[-1]) < now.sum(-1, keepdims=True)


def _besides_states(job: ReductionJob) -> dict[str, str]:
    """Returns what a reduction does even where no state is removed, in words, each with the way out."""
    found, features = {}, job.ungrouped()["features"]
    if bits_of(job) != 32:
        found[f"weights of {bits_of(job)} bits"] = "Give more bits, or reduction.bits_fit=calibrated."
    if features is not None:
        found[f"{100 * features:g} % fewer features"] = "Remove fewer features."
    return found


class Memory:
    """The validation accuracies that a search has found, each kept as it is found.

    Args:
        file: JSON.
        identity: checksum of what is searched; accuracies of another are not used.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self._file, self._identity = file, identity
        found = read_json(file)
        whole = found.pop("checksum", None) == checksum(found) and found.get("identity") == identity
        self._known: dict[str, float | None] = dict(found["validation_accuracy"]) if whole else {}

    def recall(self, ratio: float | str, measure: Callable[[], float | None]) -> float | None:
        """Returns the accuracy at a ratio, measured unless it is known."""
        if (key := str(ratio)) not in self._known:
            self._known[key] = measure()
            facts = {"identity": self._identity, "validation_accuracy": self._known}
            write_json(self._file, {**facts, "checksum": checksum(facts)})
        return self._known[key]


def largest_ratio(trained: TrainedModel, job: ReductionJob, folder: Path, validate: Validate, memory: Memory) -> Target:
    """Returns the largest ratio found whose validation accuracy is at most `max_drop` points below the full model's.

    Of tasks with targets it is their metric, and the points are those of `s5c.metric`.

    Bisection, which takes the drop for monotone in the ratio. The test split is not looked at.

    Args:
        trained: the model to reduce.
        job: the preset, with `max_drop`.
        folder: trainings after the reduction live below.
        validate: metric on the validation split.
        memory: what an earlier search has measured, which this one goes on with.
    """
    allowed = job.of(Search).max_drop
    assert allowed is not None and allowed >= 0, "checked before"
    context = functools.cache(lambda: Context(trained, job, folder))

    def accuracy(ratio: float) -> float | None:
        found = run(context(), Target("ratio", ratio))
        return validate(found.model, found.weights)

    full = memory.recall(0.0, lambda: validate(trained.model, trained.weights))
    assert full is not None, "the full model was checked before"
    metric = trained.metric
    low, high = 0.0, 1.0
    if besides := _besides_states(job):
        alone = memory.recall("rounded", functools.partial(accuracy, 0.0))
        if (drop := math.inf if alone is None else metric.lost(full, alone)) > allowed + 1e-9:
            raise UserError(
                f"reduction.max_drop={allowed:g}: {' and '.join(besides)} alone cost {drop:.3g} {metric.points} of "
                f"validation {metric.words}. {' '.join(besides.values())} Or allow a larger max_drop."
            )
    for _ in range(SEARCH_STEPS):
        ratio = (low + high) / 2
        found = memory.recall(ratio, functools.partial(accuracy, ratio))
        drop = math.inf if found is None else metric.lost(full, found)
        told = job.keys.name, ratio, drop, metric.points, metric.words
        log.info("%s: %.4g of the states removed costs %.2f %s of validation %s.", *told)
        low, high = (ratio, high) if drop <= allowed + 1e-9 else (low, ratio)
    return Target("ratio", low)
