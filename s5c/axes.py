"""What decides the result of a reduction, and the settings that would decide nothing, which are refused.

A setting is named by its key, nested ones with a dot; all settings of a job are `flat`, those that decided its result
`decisive`, those of them that are not its preset's own `changed`. Targets and seeds are no settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from s5c.errors import UserError
from s5c.keys import CalibrationKeys, FinetuneKeys, ReductionKeys
from s5c.model.config import ModelConfig
from s5c.reduction.contract import Allocation, Fresh, Masking, Method, Refit, Selection, load_allocation
from s5c.reduction.target import Target
from s5c.report.arms import NEUTRAL

AXES = ("refit", "sequential", "norm", "readout", "layer_sensitivity", "rounds", "max_drop")
DATA = ("sequences", "split", "seed", "task")
"""Which sequences are looked at; how many at a time makes no difference."""
TRAINING = ("epochs", "lr_scale", "rest", "distill")

OF_STATES = (
    *("allocation", "refit", "refit_options.", "sequential", "norm", "readout", "layer_sensitivity", "rounds"),
    *("calibration.", "finetune."),
)
"""Settings that mean something where states are removed."""

SHARES = ("ratio", "params", "max_drop")
"""Targets of the whole network, which an allocation shares out; the others say what every layer keeps."""

UNNAMED = ("ratio", "max_drop")
"""Targets that are the rule; the name of an arm says of the others that it was reduced by them."""


@dataclasses.dataclass(frozen=True)
class ReductionJob:
    """One reduction preset with all its targets.

    Attributes:
        keys: what all presets have in common.
        method: what reduces.
        options: the method's own keys.
        targets: what is asked for; empty with `max_drop`.
        refit: solves the outputs of the reduced layers anew.
        calibration: which sequences are looked at.
        finetune: the training afterwards.
        allocation: makes the scores of different layers comparable.
        preset: name of the preset it was made from; None if that is not known.
        usual: all settings of that preset as it is by itself.
    """

    keys: ReductionKeys
    method: Method
    options: dict[str, Any]
    targets: tuple[Target, ...]
    refit: Refit
    calibration: CalibrationKeys
    finetune: FinetuneKeys
    allocation: Allocation
    preset: str | None = None
    usual: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What says how much is removed: ratio, params, order, tolerance or max_drop."""
        return self.targets[0].kind if self.targets else "max_drop"


def flat(job: ReductionJob) -> dict[str, Any]:
    """Returns all settings of a job, in the order in which names of arms list them."""
    found = {"method": job.keys.method, "allocation": job.keys.allocation}
    found |= {key: getattr(job.keys, key) for key in AXES}
    found |= _fields(job.method)
    found |= {f"refit_options.{key}": value for key, value in _fields(job.refit).items()}
    found |= {f"calibration.{key}": getattr(job.calibration, key) for key in DATA}
    return found | {f"finetune.{key}": getattr(job.finetune, key) for key in TRAINING}


def decisive(job: ReductionJob) -> dict[str, Any]:
    """Returns the settings that decide the result of a job."""
    unused: list[str] = [] if looks_at_data(job) else ["calibration."]
    unused += [] if job.finetune.epochs else ["finetune."]
    unused += [] if job.kind in SHARES else ["allocation", "layer_sensitivity"]
    found = {key: value for key, value in flat(job).items() if not _among(key, unused)}
    return found if job.kind in UNNAMED else {**found, "by": job.kind}


def changed(job: ReductionJob) -> dict[str, Any]:
    """Returns the deciding settings that are not the preset's own."""
    usual = _usual(job)
    unknown = ("method", "allocation") if job.usual is None else ()  # the name of the arm stands for them
    found = {key: value for key, value in decisive(job).items() if key not in unknown}
    return {key: value for key, value in found.items() if key not in usual or usual[key] != value}


def looks_at_data(job: ReductionJob) -> bool:
    """Returns whether calibration sequences are needed."""
    keys = job.keys
    needed = getattr(job.method, "needs_moments", False) or job.refit.needs_moments
    return needed or (keys.norm, keys.readout, keys.layer_sensitivity) != ("keep", "keep", "none")


def check(job: ReductionJob) -> None:
    """Raises `UserError` for a setting that would change nothing."""
    for setting, reason in _idle(job):
        key, _, _ = setting.partition("=")
        usual = {**_usual(job), **NEUTRAL}.get(key)
        raise UserError(f"reduction.{setting} changes nothing: {reason}. Leave it at {_written(usual)}.")
    keys = job.keys
    if isinstance(job.method, Masking) and job.kind not in UNNAMED:
        raise UserError(f"reduction={keys.name} silences parameters and takes a ratio only, not reduction.{job.kind}.")
    if keys.rounds > 1 and not job.finetune.epochs:
        raise UserError(
            f"reduction.rounds={keys.rounds}: without training in between, rounds change nothing. Add "
            "reduction.finetune.epochs=1, or leave rounds at 1."
        )
    if keys.rounds > 1 and job.kind not in UNNAMED:
        raise UserError(f"reduction.rounds={keys.rounds} removes states and takes a ratio, not reduction.{job.kind}.")


def check_network(job: ReductionJob, config: ModelConfig) -> None:
    """Raises `UserError` for a setting that would change nothing in a network."""
    if job.keys.norm == "recalibrate" and config.norm != "batch":
        raise UserError(
            f"reduction.norm=recalibrate changes nothing: model.norm={config.norm} has no statistics. Leave it at keep."
        )
    if config.n_layers == 1:
        every, own = flat(job), _usual(job)
        for key in ("sequential", "layer_sensitivity", *(() if config.per_channel else ("allocation",))):
            if every[key] != own.get(key, every[key]):
                said = f"reduction.{key}={every[key]} changes nothing: it is about several layers, and there is one."
                raise UserError(f"{said} Leave it at {own[key]}.")
    usual = job.keys.allocation if job.usual is None else str(job.usual["allocation"])
    if usual != job.keys.allocation and not config.per_channel and _alike(job.allocation, load_allocation(usual)):
        raise UserError(
            f"reduction.allocation={job.keys.allocation} changes nothing: of layers that are one system it makes the "
            f"same as {usual}. Leave it at that."
        )


def _idle(job: ReductionJob) -> Iterator[tuple[str, str]]:
    """Yields settings that are set and decide nothing, with the reason."""
    keys, method, usual, every = job.keys, job.method, _usual(job), flat(job)
    # Axes are set where they do something at all, other settings where they are not as usual.
    given = {key: value for key, value in every.items() if NEUTRAL.get(key, usual.get(key, value)) != value}

    def idle(names: Sequence[str], reason: str) -> Iterator[tuple[str, str]]:
        yield from ((f"{key}={_written(value)}", reason) for key, value in given.items() if _among(key, names))

    if keys.method == "none":
        yield from idle(OF_STATES, "method=none leaves the model as it is")
    if isinstance(method, Masking):
        yield from idle(OF_STATES, f"{keys.method} silences parameters of a network that stays as it is")
    if isinstance(method, Fresh):
        reason = f"{keys.method} draws new layers, which nothing but a training makes anything of"
        yield from idle(("refit", "sequential", "norm", "readout"), reason)
    if hasattr(method, "solved") and method.solved(job.refit):
        yield from idle(("refit",), f"the outputs that {keys.method} solves for are those of this refit")
    if not job.refit.needs_moments:
        yield from idle(("sequential",), f"refit={keys.refit} solves every layer by itself")
    elif keys.sequential == "reselect" and not _chooses_on_data(method):
        yield from idle(("sequential",), f"{keys.method} does not choose states on data; refit is what it would do")
    # What is measured per unit of a score, or in place of one, undoes any scale that it had.
    shared, undone = job.kind in SHARES, keys.layer_sensitivity in ("measured", "curve")
    weighed = shared and not blind_to_scale(job.allocation) and not undone
    if job.kind not in SHARES:
        reason = f"{job.kind} says what every layer keeps, so that nothing is shared out"
        yield from idle(("allocation", "layer_sensitivity"), reason)
    elif blind_to_scores(job.allocation) or (blind_to_scale(job.allocation) and keys.layer_sensitivity != "curve"):
        reason = f"allocation={keys.allocation} does not see on what scale the scores of a layer are"
        yield from idle(("layer_sensitivity",), reason)
    if not looks_at_data(job):
        yield from idle(("calibration.",), "nothing looks at calibration sequences")
    if not job.finetune.epochs:
        yield from idle(("finetune.",), "there is no training afterwards, epochs being 0")
    elif job.finetune.rest == "reinitialise":
        yield from idle(("norm", "readout"), "finetune.rest=reinitialise replaces all but the sequence layers")
    if not (
        job.kind == "tolerance"
        or (shared and not blind_to_scores(job.allocation) and keys.layer_sensitivity != "curve")
    ):
        yield from idle(getattr(method, "SHARING", ()), "the scores of a layer do not decide how much it keeps")
    if hasattr(method, "idle"):
        yield from idle(method.idle(weighed), "another setting makes it superfluous")


def blind_to_scale(allocation: Allocation) -> bool:
    """Returns whether an allocation gives a layer the same priorities on whatever scale its scores are; it is tried."""
    ranked = jnp.asarray([7.0, 5.0, 2.5, 1.0, 0.125])
    return bool(jnp.all(allocation.priority(ranked) == allocation.priority(4 * ranked)))


def blind_to_scores(allocation: Allocation) -> bool:
    """Returns whether an allocation sees the ranks of the scores in a layer alone; it is tried."""
    one, other = jnp.asarray([7.0, 5.0, 2.5, 1.0, 0.125]), jnp.asarray([9.0, 2.0, 1.75, 1.5, 1.0])
    return bool(jnp.all(allocation.priority(one) == allocation.priority(other)))


def _alike(one: Allocation, other: Allocation) -> bool:
    """Returns whether two allocations differ in nothing but what competes, a layer or each of its channels."""
    ranked = jnp.asarray([7.0, 5.0, 2.5, 1.0, 0.125])
    return bool(jnp.all(one.priority(ranked) == other.priority(ranked)))


def _among(key: str, names: Sequence[str]) -> bool:
    """Returns whether a key is one of some names, or below one that ends in a dot."""
    return key in names or key.startswith(tuple(name for name in names if name.endswith(".")))


def _chooses_on_data(method: Method) -> bool:
    return isinstance(method, Selection) and bool(getattr(method, "needs_moments", False))


def _usual(job: ReductionJob) -> dict[str, Any]:
    """Returns all settings as they would be if nothing had been set: the preset's, else those of the code."""
    found = {**NEUTRAL, **_defaults(job.method)}
    if job.keys.method == "none" or isinstance(job.method, Masking):
        found["allocation"] = "global"  # there has to be one
    found |= {f"refit_options.{key}": value for key, value in _defaults(job.refit).items()}
    found |= {f"calibration.{key}": value for key, value in _defaults(CalibrationKeys).items()}
    found |= {f"finetune.{key}": value for key, value in _defaults(FinetuneKeys).items()}
    return {**found, **(job.usual if job.usual is not None else {})}


def _fields(values: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(values, field.name)) for field in dataclasses.fields(values)}


def _defaults(schema: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(schema):
        if field.default is not dataclasses.MISSING:
            found[field.name] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _written(value: Any) -> str:
    """Returns a value as the command line takes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
