"""Training after a reduction: a smaller network started from the reduced weights, with the recipe of the full one."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from s5c import config as settings
from s5c.data.base import Split
from s5c.data.batching import steps_per_epoch, train_batches
from s5c.keys import FinetuneKeys
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.provenance import write_json
from s5c.pipeline.trained import TrainedModel, batches, checksum
from s5c.tracking.metrics import MetricsFile
from s5c.training.checkpoint import CheckpointStore
from s5c.training.loop import Feed, Recipe, fit, to_device
from s5c.training.progress import training_progress
from s5c.training.steps import Inputs
from s5c.types import Array, Float

log = logging.getLogger(__name__)


def finetune(
    trained: TrainedModel,
    model: Classifier,
    weights: dict[str, Any],
    keys: FinetuneKeys,
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
        seed: of dropout and data order, and of weights drawn anew.
        folder: the training lives in a folder below, named after all that decides its result; started again it goes on
            from its last checkpoint, or from one before a best one that was lost.
        label: of the messages.

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
    )
    teacher = None
    if keys.distill:
        full_weights = jax.tree.map(jnp.asarray, trained.weights)

        def teacher(batch: Inputs) -> Float[Array, "b c"]:
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


def tuned(recipe: Recipe, keys: FinetuneKeys) -> Recipe:
    """Returns the recipe of the training after a reduction."""
    return dataclasses.replace(
        recipe,
        epochs=keys.epochs,
        warmup_epochs=min(recipe.warmup_epochs, keys.epochs - 1),
        ssm_lr=recipe.ssm_lr * keys.lr_scale,
        dt_lr=None if recipe.dt_lr is None else recipe.dt_lr * keys.lr_scale,
    )


def drawn(trained: TrainedModel, model: Classifier, *, seed: int) -> dict[str, Any]:
    """Returns weights of a network as a training from scratch would start with."""
    train = trained.splits.train
    if not len(train):  # a network from Python without data; what is drawn depends on no input
        spec = model.spec
        blank = np.zeros((1, *([2] * spec.pairs), 1), np.int32) if spec.tokens else np.zeros((1, 1, spec.features))
        train = Split(blank, np.zeros(1, np.int32))
    batch = to_device(next(batches(train, 2)()))
    return jax.jit(model.init)(jax.random.key(seed), batch.inputs, batch.lengths)


def fingerprint(weights: dict[str, Any]) -> str:
    """Returns a short checksum of all arrays."""
    digest = hashlib.sha256()
    for path, value in jax.tree_util.tree_leaves_with_path(weights):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(jax.device_get(value).tobytes())
    return digest.hexdigest()[:12]
