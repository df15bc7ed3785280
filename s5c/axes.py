"""What decides the result of a reduction, and the settings that would decide nothing, which are refused.

A setting is named by its key, nested ones with a dot; all settings of a job are `flat`, those that decided its result
`decisive`, those of them that are not its preset's own `changed`. Targets and seeds are no settings.

An `Axis` is one choice that a reduction leaves beside its method: a dataclass whose fields are keys of the yaml, and
which knows when they decide nothing. Most are stages, one a file in `s5c/pipeline/stage`, and in no other place is
anything known of their keys.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp

from s5c import lookup
from s5c.errors import UserError, unknown
from s5c.keys import ReductionKeys
from s5c.model.config import ModelConfig
from s5c.reduction.contract import Allocation, Fresh, Masking, Method, Projection, Refit, Selection, load_allocation
from s5c.reduction.target import Target
from s5c.report.arms import NEUTRAL, called

STAGES, SEARCH, CALIBRATION = "s5c.pipeline.stage", "s5c.pipeline.search", "s5c.pipeline.calibration"
"""Where axes are: imported when they are asked for, since they stand on what is here."""

LISTED_FIRST = ("refit", "sequential", "norm", "readout", "layer_sensitivity", "rounds", "max_drop")
"""The order in which names of arms list axes, so that they stay what they are; others come behind."""

SHARES = ("ratio", "params", "bytes", "max_drop")
"""Targets of the whole network, which an allocation shares out; the others say what every layer keeps."""

UNNAMED = ("ratio", "max_drop")
"""Targets that are the rule; the name of an arm says of the others that it was reduced by them."""

Idle = tuple[Sequence[str], str]
"""Settings that decide nothing as the others are, and why; a name that ends in a dot stands for all below it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One choice of a reduction, at what a job sets it to. The fields of a subclass are its keys.

    Attributes:
        GROUP: the keys are `reduction.GROUP.key`; "" for `reduction.key`.
        SWITCHES: fields of which each does nothing at its default, whatever the preset has; None: the first one.
        DECIDING: fields that may decide a result; if empty all.
        SEVERAL: fields that are about several layers, and nothing where there is one.
        METHODS: kinds of methods (`s5c.reduction.contract`) that it has a part in; with others its keys are refused.
    """

    GROUP: ClassVar[str] = ""
    SWITCHES: ClassVar[tuple[str, ...] | None] = None
    DECIDING: ClassVar[tuple[str, ...]] = ()
    SEVERAL: ClassVar[tuple[str, ...]] = ()
    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection, Masking, Fresh)

    @classmethod
    def fields(cls) -> list[str]:
        """Returns the names of the fields."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def key(cls, field: str) -> str:
        """Returns the setting that a field is."""
        return f"{cls.GROUP}.{field}" if cls.GROUP else field

    @classmethod
    def neutral(cls) -> dict[str, Any]:
        """Returns the settings of the switches where they do nothing."""
        names, usual = cls.fields()[:1] if cls.SWITCHES is None else cls.SWITCHES, _defaults(cls)
        return {cls.key(name): usual[name] for name in names}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Returns all settings that may decide a result, as they are if nothing is set."""
        return {cls.key(name): value for name, value in _defaults(cls).items() if name in (cls.DECIDING or [name])}

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that may decide a result."""
        return {self.key(name): value for name, value in _fields(self).items() if name in (self.DECIDING or [name])}

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of these settings; one for all of a group."""
        return (f"{self.GROUP}.",) if self.GROUP else tuple(self.settings)

    @property
    def off(self) -> bool:
        """Whether all of its switches do nothing."""
        every = self.settings
        return all(every[key] == value for key, value in self.neutral().items())

    @property
    def absent(self) -> bool:
        """Whether it is as if there was no such axis: off, and younger than rows and folders that lack it."""
        neutral = self.neutral()
        return bool(neutral) and self.off and not neutral.keys() & NEUTRAL.keys()

    def takes(self, method: Method) -> bool:
        """Returns whether it has a part in reductions by a method."""
        return isinstance(method, self.METHODS)

    def leaves(self, job: ReductionJob) -> str:
        """Returns why what does not take the job's method changes nothing; "" if it is not for this axis to say."""
        return ""

    def looks_at_data(self, job: ReductionJob) -> bool:
        """Returns whether it needs calibration sequences."""
        return False

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns settings, of any axis, that decide nothing as this one is set, and are in no name.

        Rows of an axis that is absent stay one arm with those from before there was one.
        """
        return self.keys if self.absent else ()

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields what is refused where it is set; as it stands all keys but the switches where these do nothing."""
        switches = self.neutral()
        if self.off:
            said = " and ".join(f"{key}={_written(value)}" for key, value in switches.items())
            yield [key for key in self.settings if key not in switches], f"{said} does nothing"

    def check(self, job: ReductionJob) -> None:
        """Raises `UserError` for what it cannot do in this job."""

    def check_network(self, job: ReductionJob, config: ModelConfig) -> None:
        """Raises `UserError` for a setting that would change nothing in a network."""

    def label(self, key: str, value: Any) -> str | None:
        """Returns the short form of a setting in names of arms; None leaves it to `s5c.report.arms`.

        The forms that stored rows without a name are read by are there, in `SHORT`; younger axes have their own here.
        """
        return None

    def row(self) -> dict[str, Any]:
        """Returns the fields of a row of results that say how it was set."""
        held = dataclasses.asdict(self)
        return {self.GROUP: held} if self.GROUP else held


A = TypeVar("A", bound=Axis)


def find() -> list[type[Axis]]:
    """Returns all axes: the calibration sequences, the stages as a network passes them, the search on top.

    A file in `s5c/pipeline/stage`, or in stage/ of a folder of `S5C_PLUGINS`, is a stage. It stands where `LINE` of the
    package has it, else before the one that its class names as `BEFORE`.
    """
    package = importlib.import_module(STAGES)
    found = {name: lookup.schema(package, "stage", name, "Stage", ("apply",)) for name in lookup.names(package)}
    line = [name for name in package.LINE if name in found]
    for name in sorted(found.keys() - set(line)):
        if found[name].BEFORE not in line:
            raise unknown(f"stage that {name} stands before,", found[name].BEFORE, line)
        line.insert(line.index(found[name].BEFORE), name)
    search, calibration = importlib.import_module(SEARCH).Search, importlib.import_module(CALIBRATION).Calibration
    return [calibration, *(found[name] for name in line), search]


@dataclasses.dataclass(frozen=True)
class ReductionJob:
    """One reduction preset with all its targets.

    Attributes:
        keys: what all presets have in common.
        method: what reduces.
        options: the method's own keys.
        targets: what is asked for; empty with `max_drop`.
        refit: solves the outputs of the reduced layers again.
        allocation: makes the scores of different layers comparable.
        axes: what else may be chosen, each as it is set, in the order of `find`.
        preset: name of the preset it was made from; None if that is not known.
        usual: all settings of that preset as it is by itself.
    """

    keys: ReductionKeys
    method: Method
    options: dict[str, Any]
    targets: tuple[Target, ...]
    refit: Refit
    allocation: Allocation
    axes: tuple[Axis, ...]
    preset: str | None = None
    usual: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What says how much is removed: ratio, params, bytes, order, tolerance or max_drop."""
        return self.targets[0].kind if self.targets else "max_drop"

    def of(self, kind: type[A]) -> A:
        """Returns an axis as it is set."""
        return next(axis for axis in self.axes if isinstance(axis, kind))

    def ungrouped(self) -> dict[str, Any]:
        """Returns the keys of `reduction` itself, without those of its groups and the method's own."""
        alone = (dataclasses.asdict(axis) for axis in self.axes if not axis.GROUP)
        return dataclasses.asdict(self.keys) | {key: value for values in alone for key, value in values.items()}


def flat(job: ReductionJob) -> dict[str, Any]:
    """Returns all settings of a job, in the order in which names of arms list them."""
    found = {"method": job.keys.method, "allocation": job.keys.allocation}
    alone = {key: value for axis in job.axes if not axis.GROUP for key, value in axis.settings.items()}
    found |= {key: alone[key] for key in (*LISTED_FIRST, *alone)}
    found |= _fields(job.method)
    found |= {f"refit_options.{key}": value for key, value in _fields(job.refit).items()}
    groups = sorted((axis for axis in job.axes if axis.GROUP), key=lambda axis: axis.GROUP)
    return found | {key: value for axis in groups for key, value in axis.settings.items()}


def decisive(job: ReductionJob) -> dict[str, Any]:
    """Returns the settings that decide the result of a job."""
    unused = [key for axis in job.axes for key in axis.unused(job)]
    found = {key: value for key, value in flat(job).items() if not _among(key, unused)}
    return found if job.kind in UNNAMED else {**found, "by": job.kind}


def changed(job: ReductionJob) -> dict[str, Any]:
    """Returns the deciding settings that are not the preset's own."""
    usual = _usual(job)
    unknown = ("method", "allocation") if job.usual is None else ()  # the name of the arm stands for them
    found = {key: value for key, value in decisive(job).items() if key not in unknown}
    return {key: value for key, value in found.items() if key not in usual or usual[key] != value}


def name(job: ReductionJob, given: Mapping[str, Any] | None = None) -> str:
    """Returns the name of a job's arm: its preset, short forms of what it differs in, the rest in parentheses.

    Args:
        job: the job.
        given: settings that say which network is reduced.
    """
    of = {key: axis for axis in job.axes for key in axis.settings}
    words, others = [], {}
    for key, value in {**changed(job), **(given or {})}.items():
        if key in of and (short := of[key].label(key, value)) is not None:
            words.append(short)
        else:
            others[key] = value
    front, opened, rest = called(job.keys.name, others).partition(" (")
    return " ".join([front, *words]) + opened + rest


def looks_at_data(job: ReductionJob) -> bool:
    """Returns whether calibration sequences are needed."""
    return getattr(job.method, "needs_moments", False) or any(axis.looks_at_data(job) for axis in job.axes)


def check(job: ReductionJob) -> None:
    """Raises `UserError` for a setting that would change nothing."""
    for setting, reason in _idle(job):
        key, _, _ = setting.partition("=")
        usual = {**_usual(job), **_neutral(job)}.get(key)
        raise UserError(f"reduction.{setting} changes nothing: {reason}. Leave it at {_written(usual)}.")
    for axis in job.axes:
        axis.check(job)


def check_network(job: ReductionJob, config: ModelConfig) -> None:
    """Raises `UserError` for a setting that would change nothing in a network."""
    for axis in job.axes:
        axis.check_network(job, config)
    if config.n_layers == 1:
        every, own = flat(job), _usual(job)
        several = {axis.key(name) for axis in job.axes for name in axis.SEVERAL}
        for key in (*(key for key in every if key in several), *(() if config.per_channel else ("allocation",))):
            if every[key] != own.get(key, every[key]):
                said = f"reduction.{key}={every[key]} changes nothing: it is about several layers, and there is one."
                raise UserError(f"{said} Leave it at {own[key]}.")
    usual = job.keys.allocation if job.usual is None else str(job.usual["allocation"])
    if usual != job.keys.allocation and not config.per_channel and _alike(job.allocation, load_allocation(usual)):
        raise UserError(
            f"reduction.allocation={job.keys.allocation} changes nothing: of layers that are one system it makes the "
            f"same as {usual}. Leave it at that."
        )


def states_only(job: ReductionJob) -> list[str]:
    """Returns the settings that mean something where states are removed."""
    targets = ("max_drop",)
    return ["allocation", "refit_options.", *(key for axis in job.axes for key in axis.keys if key not in targets)]


def _idle(job: ReductionJob) -> Iterator[tuple[str, str]]:
    """Yields settings that are set and decide nothing, with the reason."""
    usual, every, neutral = _usual(job), flat(job), _neutral(job)
    # Axes are set where they do something at all, other settings where they are not as usual.
    given = {key: value for key, value in every.items() if neutral.get(key, usual.get(key, value)) != value}
    found: list[Idle] = []
    if job.keys.method == "none":
        found.append((states_only(job), "method=none leaves the model as it is"))
    taking = [axis for axis in job.axes if axis.takes(job.method)]
    for axis in taking:
        if reason := axis.leaves(job):
            found += [*axis.idle(job), *((other.keys, reason) for other in job.axes if other not in taking)]
    found += [idle for axis in taking for idle in axis.idle(job)]
    for names, reason in found:
        yield from ((f"{key}={_written(value)}", reason) for key, value in given.items() if _among(key, names))


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


def _neutral(job: ReductionJob) -> dict[str, Any]:
    """Returns the settings of all switches where they do nothing."""
    return {key: value for axis in job.axes for key, value in axis.neutral().items()}


def _usual(job: ReductionJob) -> dict[str, Any]:
    """Returns all settings as they would be if nothing had been set: the preset's, else those of the code."""
    found = {key: value for axis in job.axes for key, value in axis.defaults().items()} | _defaults(job.method)
    if job.keys.method == "none" or isinstance(job.method, Masking):
        found["allocation"] = "global"  # there has to be one
    found |= {f"refit_options.{key}": value for key, value in _defaults(job.refit).items()}
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
