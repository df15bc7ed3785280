"""Training after a reduction: a smaller network started from the reduced weights, with the recipe of the full one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from rich.console import Console

from s5c import config as settings
from s5c.axes import Idle, ReductionJob
from s5c.data.batching import steps_per_epoch, train_batches
from s5c.errors import UserError, bounded, unknown
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.clock import TRAINING
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage as Base
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.provenance import write_json
from s5c.pipeline.trained import TrainedModel, batches, checksum
from s5c.pipeline.weights import drawn, fingerprint
from s5c.reduction.contract import Fresh, Projection, Selection
from s5c.tracking.metrics import MetricsFile
from s5c.training.checkpoint import CheckpointStore
from s5c.training.loop import Feed, Recipe, fit
from s5c.training.progress import training_progress
from s5c.training.steps import Inputs
from s5c.types import Array, Float

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(Base):
    """Trains the network.

    Attributes:
        epochs: 0 for none.
        init_epochs: what the presets `*_init` set epochs to, so that an experiment can set it for all of its arms.
        lr_scale: multiplies both learning rates.
        rest: keep | reinitialise all weights but those of the sequence layers.
        distill: learn the full model's predictions instead of the labels.
    """

    GROUP: ClassVar[str] = "finetune"
    DECIDING: ClassVar[tuple[str, ...]] = ("epochs", "lr_scale", "rest", "distill")
    CLOCK: ClassVar[str | None] = TRAINING
    METHODS: ClassVar[tuple[type, ...]] = (Selection, Projection, Fresh)

    epochs: int = 0
    init_epochs: int = bounded(5, least=0)
    lr_scale: float = 1.0
    rest: str = "keep"
    distill: bool = False

    def __post_init__(self) -> None:
        if self.rest not in ("keep", "reinitialise"):
            raise unknown("value for reduction.finetune.rest", self.rest, ("keep", "reinitialise"))
        if self.epochs < 0 or self.lr_scale <= 0:
            raise UserError(
                f"reduction.finetune.epochs={self.epochs}, reduction.finetune.lr_scale={self.lr_scale:g}: epochs must "
                "not be negative, and the scale must be positive."
            )

    def apply(self, network: ReducedNetwork, context: Context) -> ReducedNetwork:
        """Returns the network after its training."""
        if not self.epochs:
            return network
        trained, keys, weights = context.given, context.job.keys, network.weights
        if self.rest == "reinitialise":
            new = drawn(trained, network.model, seed=keys.seed)
            weights = {**new, "params": surgery.with_layers_of(weights["params"], new["params"], context.config)}
        weights = finetune(
            trained, network.model, weights, self,
            seed=keys.seed, folder=context.folder, label=f"{keys.name}-{network.target.label}",
        )  # fmt: skip
        return dataclasses.replace(network, weights=weights)

    def unused(self, job: ReductionJob) -> Sequence[str]:
        """Returns its own keys where there is no training."""
        return () if self.epochs else self.keys

    def idle(self, job: ReductionJob) -> Iterator[Idle]:
        """Yields its own keys where there is no training, and what one from new weights undoes."""
        if not self.epochs:
            yield self.keys, "there is no training afterwards, epochs being 0"
        elif self.rest == "reinitialise":
            undone = [key for axis in job.axes if isinstance(axis, Base) and axis.OUTSIDE for key in axis.keys]
            yield undone, "finetune.rest=reinitialise replaces all but the sequence layers"


def finetune(
    trained: TrainedModel,
    model: Classifier,
    weights: dict[str, Any],
    keys: Stage,
    *,
    seed: int,
    folder: Path,
    label: str,
) -> dict[str, Any]:
    """Trains a reduced network and returns the weights of its best epoch.

    Args:
        trained: the full model: its recipe, its data and, with `distill`, its predictions.
        model: the smaller network.
        weights: where its training starts.
        keys: epochs, learning rate and loss.
        seed: seeds dropout and data order, and new weights.
        folder: the training lives in a folder below, named after all that decides its result; started again it goes on
            from its last checkpoint, or from one before a best one that was lost.
        label: label of the messages.

    Raises:
        UserError: the loss diverges, or the disk is full.
        Interrupted: stopped on request; the same call goes on.
    """
    recipe = tuned(Recipe(**trained.metadata["recipe"]), keys)
    described = settings.jsonable(
        {
            "trained_id": trained.id,
            "label": label,
            "state_dims": model.state_dims,
            "start": fingerprint(weights),
            "recipe": dataclasses.asdict(recipe),
            "keys": dataclasses.asdict(keys),
            "seed": seed,
        }
    )
    directory = folder / f"{label}-{checksum(described)}"
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "identity.json", described)
    feed = Feed(
        train=lambda epoch, start: train_batches(
            trained.splits.train, recipe.batch_size, seed=seed, epoch=epoch, start=start
        ),
        selection=batches(trained.splits.selection, recipe.batch_size),
        steps_per_epoch=steps_per_epoch(trained.splits.train, recipe.batch_size),
        batch_size=recipe.batch_size,
        metric=trained.metric,
    )
    teacher = None
    if keys.distill:
        full_weights = jax.tree.map(jnp.asarray, trained.weights)

        def teacher(batch: Inputs) -> Float[Array, "b *l c"]:
            return trained.model.apply(full_weights, batch.inputs, batch.lengths)

    steps = recipe.epochs * feed.steps_per_epoch
    log.info("Training %s: %d epochs of %d steps -> %s", label, recipe.epochs, feed.steps_per_epoch, directory)
    with CheckpointStore(directory / "checkpoints", resume="rebuild") as store:
        with training_progress(Console(stderr=True), steps=steps, epochs=recipe.epochs) as reporter:
            fit(
                model,
                feed,
                recipe,
                seed=seed,
                store=store,
                directory=directory,
                metadata={**trained.metadata, "state_dims": list(model.state_dims), "model": model.config.to_dict()},
                record=MetricsFile(directory / "metrics.jsonl"),
                reporter=reporter,
                initial=weights,
                teacher=teacher,
                frozen=surgery.silent(weights["params"], model.config) if model.config.per_channel else None,
            )
        best = store.best() or store.latest()  # without an accuracy in any epoch the last one shows that it has none
        assert best is not None, "every finished epoch is saved"
        store.drop_superseded()
        return {**weights, **best.weights}


def check_recipe(job: ReductionJob, metadata: Mapping[str, Any]) -> None:
    """Raises `UserError` if a checkpoint that is to be trained on does not say how."""
    if job.of(Stage).epochs and metadata["recipe"] is None:
        raise UserError(
            f"reduction.finetune.epochs={job.of(Stage).epochs}: the checkpoint does not say how it was trained. Add "
            "recipe=NAME, an experiment of conf/experiment, or leave the epochs at 0."
        )


def tuned(recipe: Recipe, keys: Stage) -> Recipe:
    """Returns the recipe of the training after a reduction."""
    return dataclasses.replace(
        recipe,
        epochs=keys.epochs,
        warmup_epochs=min(recipe.warmup_epochs, keys.epochs - 1),
        ssm_lr=recipe.ssm_lr * keys.lr_scale,
        dt_lr=None if recipe.dt_lr is None else recipe.dt_lr * keys.lr_scale,
    )
