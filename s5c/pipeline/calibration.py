"""Reduction on data: moments of all layers, and the way from front to back through a network that is being reduced.

A layer behind reduced ones sees other inputs than before. `sequential` says what is made of that:

    off       every layer is measured in the full network
    refit     measured in the reduced network, against what the full layer puts out: it corrects those before it
    reselect  and its states are chosen again on these moments, as many as before
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.axes import Axis, Idle, ReductionJob, looks_at_data
from s5c.data.base import Dataset, Split, Splits
from s5c.data.batching import eval_batches
from s5c.errors import UserError, unknown
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.model.signals import BlockAt, Stream, blocks, moments
from s5c.reduction import stage
from s5c.reduction.contract import Refit, Selection, load_allocation
from s5c.reduction.layer import Layer
from s5c.reduction.moments import Moments
from s5c.reduction.slots import kept, padded, silenced
from s5c.ssm.system import DiagonalSSM
from s5c.types import Bool, Params

log = logging.getLogger(__name__)

Batches = Callable[[], Iterable[Any]]
"""Starts the calibration batches."""

STEPS_PER_BATCH = 2**15
"""Bounds the memory of the states of a batch, and fills the matrix products."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Axis):
    """Keys of reduction.calibration: the unlabelled training sequences that some choices look at.

    Attributes:
        sequences: how many.
        split: train | validation.
        seed: which ones.
        batch_size: sequences at a time, which makes no difference.
        task: another task whose sequences are taken instead, by name and options, to see what that costs.
        inputs: an `.npz` whose `inputs`, with `lengths` where some are padded, are taken instead.
    """

    GROUP: ClassVar[str] = "calibration"
    SWITCHES: ClassVar[tuple[str, ...] | None] = ()
    DECIDING: ClassVar[tuple[str, ...]] = ("sequences", "split", "seed", "task", "inputs")

    sequences: int = 256
    split: str = "train"
    seed: int = 0
    batch_size: int = 32
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: str | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation"):
            raise UserError(
                f"reduction.calibration.split={self.split}: calibration looks at `train` or `validation` sequences. "
                "The test split is what the result is measured on and must not decide it."
            )
        if self.sequences < 1 or self.batch_size < 1:
            raise UserError(
                f"reduction.calibration: sequences={self.sequences}, batch_size={self.batch_size}; at least 1 each."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that may decide a result; rows are older than `inputs`, and lack it where it is not given."""
        return {key: value for key, value in super().settings.items() if value is not None}

    def row(self) -> dict[str, Any]:
        """Returns the fields of a row of results that say how it was set."""
        held = dataclasses.asdict(self)
        return {self.GROUP: held if self.inputs is not None else {k: v for k, v in held.items() if k != "inputs"}}

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns all keys where nothing looks at the sequences."""
        return () if looks_at_data(job) else self.keys

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields all keys where nothing looks at the sequences."""
        if not looks_at_data(job):
            yield self.keys, "nothing looks at calibration sequences"
        elif self.inputs is not None:
            others = [self.key(name) for name in ("split", "task")]
            yield others, "the sequences are those of reduction.calibration.inputs"


class Refitted(NamedTuple):
    """A network's layers after a calibrated refit.

    Attributes:
        systems: one per layer, double precision.
        keep: the states that stayed, as given or chosen again; None where there was no choice of states.
    """

    systems: list[DiagonalSSM]
    keep: list[Bool[np.ndarray, "..."]] | None = None


# ---- sequences


def calibration_split(splits: Splits, *, sequences: int, split: str = "train", seed: int = 0) -> Split:
    """Returns the sequences that calibration may look at; their labels are never used.

    Args:
        splits: splits of the model that is reduced.
        sequences: how many; the first ones of a permutation, so that a smaller number is a part of a larger.
        split: train | validation.
        seed: seeds the permutation.

    Raises:
        UserError: the test split, or more sequences than there are.
    """
    if split not in ("train", "validation"):
        hint = " The test split is what the result is measured on and must not decide it." if split == "test" else ""
        raise UserError(f"{unknown('calibration split', split, ('train', 'validation'))}{hint}")
    if split == "validation" and splits.selected_on == "test":
        raise UserError(
            "reduction.calibration.split=validation: this model was selected on the test split (protocol=paper), there "
            "is no validation split. Leave it at train."
        )
    source = splits.train if split == "train" else splits.selection
    if not len(source):
        raise UserError(
            "This reduction looks at sequences, and the checkpoint belongs to no task: give "
            "reduction.calibration.inputs=FILE.npz, unlabelled ones, or the task, +task=NAME."
        )
    if not 1 <= sequences <= len(source):
        raise UserError(
            f"reduction.calibration.sequences={sequences}: the {split} split has {len(source)} sequences; choose from "
            f"1 to {len(source)}."
        )
    return source.take(np.random.default_rng(seed).permutation(len(source))[:sequences])


def check_alike(other: Dataset, own: Dataset) -> None:
    """Raises UserError unless sequences of another task can be given to a network of this one."""

    def kind(d: Dataset) -> tuple[Any, ...]:
        return d.tokens, d.pairs, d.features

    if kind(other) != kind(own):
        raise UserError(
            f"reduction.calibration.task={other.name}: its inputs are not of the kind of those of {own.name}; take a "
            "task of as many features (or ids) a step."
        )


def calibration_batches(split: Split, length: int, *, batch_size: int | None = None) -> Batches:
    """Returns a function that starts the batches of calibration sequences.

    Args:
        split: what `calibration_split` returned.
        length: steps per sequence.
        batch_size: sequences at a time; chosen by the length if None. No result depends on it beyond rounding.
    """
    size = batch_size or max(STEPS_PER_BATCH // length, 1)
    return partial(eval_batches, split, min(size, len(split)))


# ---- moments


def full_moments(model: Classifier, weights: Params, batches: Batches, *, step_rescale: float = 1.0) -> list[Moments]:
    """Returns the moments of every layer of a network: one pass per block.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        batches: starts the calibration batches.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: states that are not finite.
    """
    found: list[Moments] = []
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        stream = Stream(model, weights, batches(), Path(folder))
        systems = surgery.systems(weights["params"], model.config)
        for system, block in zip(systems, blocks(model, weights, step_rescale), strict=True):
            sums = Sum()
            for number, (u, y, _) in stream.advance(block):
                sums.add(moments(system, u, y, stream.valid(number, u.shape[1]), step_rescale))
            found.append(sums.checked(len(found)))
    return found


class Sum:
    """Moments added up in double precision, batch by batch."""

    total: Moments | None = None

    def add(self, part: Moments) -> None:
        with jax.enable_x64(True):
            self.total = part if self.total is None else self.total + part

    def checked(self, layer: int) -> Moments:
        assert self.total is not None, "no batches"
        check_sums(layer, self.total)
        return self.total


def check_sums(layer: int, sums: Any) -> None:
    """Raises `UserError` unless what was summed up of a layer's signals is finite."""
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(sums)):
        raise UserError(
            f"Layer {layer} does not stay finite on the calibration sequences: it, or what comes before it, has "
            "unstable modes. Reduce such a network by a method that needs no data, or train it with "
            "model.clip_eigs=true."
        )


def shortage(found: Sequence[Moments]) -> list[str]:
    """Returns one sentence per layer whose calibration steps are fewer than the unknowns of its refit."""
    notes = []
    for layer, measured in enumerate(found):
        steps, unknowns = int(np.asarray(measured.count).max()), measured.states + 2
        if steps < unknowns:
            notes.append(
                f"layer {layer}: {steps} calibration steps for {unknowns} unknowns per output, {unknowns - steps} too "
                "few; the ridge alone decides the rest. Raise reduction.calibration.sequences."
            )
    return notes


# ---- refits


def refit_selected(
    model: Classifier,
    weights: Params,
    keep: Sequence[Bool[np.ndarray, "..."]],
    batches: Batches,
    *,
    refit: Refit,
    sequential: str = "refit",
    method: Selection | None = None,
    measured: Sequence[Moments] | None = None,
    step_rescale: float = 1.0,
) -> Refitted:
    """Keeps some states of every layer and solves for their outputs on calibration data.

    Args:
        model: the full network.
        weights: its weights.
        keep: per layer, which states stay, (p,) or (channels, p).
        batches: starts the calibration batches.
        refit: solves for the outputs of one layer.
        sequential: off | refit | reselect (see the module).
        method: chooses again, with "reselect".
        measured: `full_moments`, if they are there: "off" then looks at no data.
        step_rescale: multiplies every Delta.
    """
    if sequential not in ("off", "refit", "reselect"):
        raise unknown("value for reduction.sequential", sequential, ("off", "refit", "reselect"))
    layers = surgery.layers(weights, model.config)
    chosen = [np.asarray(mask) for mask in keep]

    def solve(i: int, found: Moments) -> DiagonalSSM:
        if sequential == "reselect":
            assert method is not None, "reselect needs a method"
            chosen[i] = _reselected(method, dataclasses.replace(layers[i], moments=found), chosen[i])
        mask = jnp.asarray(chosen[i])
        with jax.enable_x64(True):
            layer = dataclasses.replace(layers[i], moments=found.of_states(mask))
            return refit(layer, silenced(layers[i].system, mask))

    systems = [layer.system for layer in layers]
    if sequential == "off":
        measured = measured or full_moments(model, weights, batches, step_rescale=step_rescale)
        solved = [solve(i, found) for i, found in enumerate(measured)]
    else:
        solved = _front_to_back(model, weights, systems, batches, solve, step_rescale=step_rescale)
    with jax.enable_x64(True):
        return Refitted([kept(system, mask) for system, mask in zip(solved, chosen, strict=True)], chosen)


def refit_systems(
    model: Classifier,
    weights: Params,
    systems: Sequence[DiagonalSSM],
    batches: Batches,
    *,
    refit: Refit,
    sequential: str = "refit",
    step_rescale: float = 1.0,
) -> Refitted:
    """Solves for the outputs of any reduced layers on calibration data, whatever their poles.

    Args:
        model: the full network.
        weights: its weights.
        systems: what a method made of its layers, double precision.
        batches: starts the calibration batches.
        refit: solves for the outputs of one layer.
        sequential: off | refit (see the module; "reselect" counts as "refit").
        step_rescale: multiplies every Delta.
    """
    layers = surgery.layers(weights, model.config)
    slots = max(system.state_dim for system in (*systems, *(layer.system for layer in layers)))
    with jax.enable_x64(True):
        wide = [padded(system, slots) for system in systems]

    def solve(i: int, found: Moments) -> DiagonalSSM:
        return refit(dataclasses.replace(layers[i], moments=found), wide[i])

    driven = sequential != "off"
    solved = _front_to_back(model, weights, wide, batches, solve, driven=driven, step_rescale=step_rescale)
    with jax.enable_x64(True):
        first = [np.arange(slots) < system.state_dim for system in systems]
        return Refitted([kept(s, np.broadcast_to(f, s.Lambda.shape)) for s, f in zip(solved, first, strict=True)])


def _front_to_back(
    model: Classifier,
    weights: Params,
    candidates: Sequence[DiagonalSSM],
    batches: Batches,
    solve: Callable[[int, Moments], DiagonalSSM],
    *,
    driven: bool = True,
    step_rescale: float = 1.0,
) -> list[DiagonalSSM]:
    """Replaces layer after layer by `solve(layer, moments of the candidate's states against the full output)`.

    Two streams of activations run in parallel: the full network's, which gives the targets, and the reduced one's,
    which gives the inputs (with `driven`; else the full one's are the inputs too). All systems keep the candidates'
    shapes, so that few programs are compiled.
    """
    full_blocks = blocks(model, weights, step_rescale)
    systems = surgery.systems(weights["params"], model.config)
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        full = Stream(model, weights, batches(), Path(folder, "full"))
        reduced = Stream(model, weights, batches(), Path(folder, "reduced")) if driven else None
        for i, block in enumerate(full_blocks):
            sums = Sum()
            for number, (u, y, _) in full.advance(block):
                u = u if reduced is None else block.layer_input(reduced[number], full.valid(number, u.shape[1]))
                sums.add(moments(candidates[i], u, y, full.valid(number, u.shape[1]), step_rescale))
            systems[i] = solve(i, sums.checked(i))
            if reduced is not None and i + 1 < len(full_blocks):
                for _ in reduced.advance(_block_of(model, weights, systems, i, step_rescale)):
                    pass
    return systems


def _block_of(
    model: Classifier, weights: Params, systems: Sequence[DiagonalSSM], layer: int, step_rescale: float
) -> BlockAt:
    """Returns the block that layer `layer` becomes."""
    params, config = surgery.with_systems(weights["params"], systems, model.config)
    model = model.clone(config=config, state_dims=surgery.state_dims(params, config))
    return blocks(model, {**weights, "params": params}, step_rescale)[layer]


def _reselected(method: Selection, layer: Layer, keep: Bool[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Chooses as many states as before, in every channel, by new scores."""
    (scores,) = stage.rank(method, load_allocation("global"), [layer], seed=0).scores
    by_rank = np.argsort(-scores, axis=-1, kind="stable")
    return np.argsort(by_rank, axis=-1, kind="stable") < keep.sum(-1, keepdims=True)
