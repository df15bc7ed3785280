"""A trained model for a configuration: reused if it exists, waited for if another process makes it, else trained.

A training lives in `<results_dir>/trained/<task>-<model>-<id>`, where the id is a checksum of everything that decides
its result: the data, the model, the recipe, the seed and the protocol. Names of experiments do not enter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from s5c import config as settings
from s5c.data import padded
from s5c.data.base import Dataset, Split, Splits
from s5c.data.batching import eval_batches, padding_saved, steps_per_epoch, train_batches
from s5c.data.schema import Schema
from s5c.errors import UserError
from s5c.evaluation.metrics import Said, predict
from s5c.evaluation.unasked import unasked
from s5c.keys import WandbKeys
from s5c.metric import Metric
from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.config import ModelConfig, from_dict
from s5c.pipeline import kept
from s5c.pipeline.loaded import input_spec as input_spec
from s5c.pipeline.loaded import load_task as load_task
from s5c.pipeline.loaded import metric_of, own_data
from s5c.pipeline.provenance import environment, write_json
from s5c.tracking.metrics import read_metrics, salvage
from s5c.tracking.run import Run
from s5c.training.checkpoint import Checkpoint, CheckpointStore, load
from s5c.training.exclusive import exclusive
from s5c.training.facts import checked
from s5c.training.folder import IDENTITY_VERSION
from s5c.training.loop import Feed, Recipe, best_epoch, fit
from s5c.training.progress import training_progress

log = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
"""Of a zoo model; other checkpoints have a folder `weights`."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network with its weights and the data it belongs to.

    Attributes:
        model: the module.
        weights: `{"params": ..., "batch_stats": ...}`.
        metadata: metadata of its checkpoint.
        path: path of its checkpoint.
        id: identity of the training it comes from.
        dataset: the task.
        splits: what it was trained, selected and is tested on.
    """

    model: Classifier
    weights: dict[str, Any]
    metadata: dict[str, Any]
    path: Path
    id: str
    dataset: Dataset
    splits: Splits

    @property
    def metric(self) -> Metric:
        """What networks are compared by."""
        return metric_of(self.dataset)

    @property
    def length(self) -> int | None:
        """Steps of the sequences it runs on; None if that is not known."""
        known = self.dataset.steps is not None or len(self.dataset.train)
        return self.dataset.length if known else None

    @property
    def weights_path(self) -> Path:
        """Where the weights lie: a folder of the checkpoint, or the file of a zoo model."""
        file = self.path / WEIGHTS_FILE
        return file if file.is_file() else self.path / "weights"

    @property
    def step_rescale(self) -> float:
        """Factor on Delta that the data asks for: 2 at half the sampling rate of the training."""
        return self.dataset.step_rescale / self.metadata.get("step_rescale", 1.0)


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """A resolved training."""

    task: settings.TaskJob
    model: ModelConfig
    recipe: Recipe
    seed: int
    protocol: str
    checkpoint_minutes: float
    wandb: WandbKeys
    group: str
    folder: Path
    resume: str = "auto"


def identity(job: TrainJob, dataset: Dataset) -> dict[str, Any]:
    """Returns everything that decides the result of a training."""
    # The source is what `task.source=auto` came to.
    return {**described(job), "source": dataset.source, "data": dataset.fingerprint()}


def described(job: TrainJob) -> dict[str, Any]:
    """Returns everything that decides the result of a training, but the data."""
    return settings.jsonable(
        {
            "version": IDENTITY_VERSION,
            "task": {key: value for key, value in job.task.description.items() if key != "source"},
            "model": job.model.to_dict(),
            # Keys left at None do not enter, so that recipes without them keep their trainings.
            "recipe": {key: value for key, value in dataclasses.asdict(job.recipe).items() if value is not None},
            "seed": job.seed,
            "protocol": job.protocol,
        }
    )


def checksum(description: Mapping[str, Any]) -> str:
    """Returns a short checksum of a JSON description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:10]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A training that can start: its data is there, and what decides its result is known.

    Attributes:
        dataset: the task.
        splits: its roles.
        described: everything that decides the result.
        id: checksum of that.
        folder: where the training lives.
    """

    dataset: Dataset
    splits: Splits
    described: dict[str, Any]
    id: str
    folder: Path


def prepare(job: TrainJob) -> Prepared:
    """Loads the data of a training and finds out where it lives; writes nothing there.

    Raises:
        UserError: batch larger than the data, or no data.
    """
    dataset, splits = load_task(job.task, job.protocol)
    steps_per_epoch(splits.train, job.recipe.batch_size)
    described = identity(job, dataset)
    trained_id = checksum(described)
    folder = job.folder / f"{dataset.name}-{job.model.family}-{trained_id}"
    return Prepared(dataset, splits, described, trained_id, folder)


def obtain(job: TrainJob, console: Console, *, which: str = "best", prepared: Prepared | None = None) -> TrainedModel:
    """Returns the best, or latest, checkpoint of a training, after training it if need be.

    Args:
        job: the training.
        console: shows its progress.
        which: best | latest.
        prepared: what `prepare` returned, if it has been called already.

    Raises:
        UserError: batch larger than the data, diverging loss, full disk.
        LostModelError: the step it is known by is damaged or gone, and `job.resume` does not say what to do.
        Interrupted: stopped on request; the same call goes on.
    """
    ready = prepared or prepare(job)
    dataset, splits, folder = ready.dataset, ready.splits, ready.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder), kept.command_named():
        facts = kept.found(folder, ready.described, ready.id, which=which, resume=job.resume)
        if facts is not None:
            log.info(
                "Reusing the trained model %s (%d epochs, %.0f s, selection %s).",
                folder,
                job.recipe.epochs,
                facts["seconds"],
                metric_of(dataset).told(facts[f"selection_{dataset.metric}"]),
            )
        else:
            _train(job, dataset, splits, ready.described, ready.id, folder, console)
        checkpoint = load(folder, which=which)
    return from_checkpoint(checkpoint, dataset, splits)


def from_checkpoint(checkpoint: Checkpoint, dataset: Dataset, splits: Splits) -> TrainedModel:
    """Rebuilds the network of a checkpoint around its weights.

    Raises:
        UserError: the checkpoint expects other inputs than `dataset` has.
    """
    facts = checked(checkpoint.metadata)
    spec, given = InputSpec(*facts["input_spec"]), input_spec(dataset)
    if not spec.fits(given):
        raise UserError(
            f"{checkpoint.path} expects inputs {spec}, the data gives {given}: the task's "
            "options or its files differ from those of the training."
        )
    if "data_schema" in facts and dataset.schema is not None:
        Schema.of(facts["data_schema"]).check_alike(dataset.schema, str(checkpoint.path))
    learned, read = facts.get("vocabulary"), dataset.vocabulary
    if learned is not None and read is not None and list(learned) != list(read):
        raise UserError(
            f"{checkpoint.path} was trained with another vocabulary: {len(learned)} ids, the data has {len(read)}, and "
            f"they differ from id {_first_difference(learned, read)} on. Give the data it was trained on "
            f"[source={facts['source']}]."
        )
    model_config = from_dict(facts["model"])
    model = Classifier(model_config, spec, model_config.check_state_dims(facts["state_dims"]))
    return TrainedModel(model, checkpoint.weights, facts, checkpoint.path, facts["trained_id"], dataset, splits)


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))


def batches(split: Split, batch_size: int) -> partial[Any]:
    """Returns a function that starts the evaluation batches of a split; the batch never exceeds the split."""
    return partial(eval_batches, split, min(batch_size, len(split)))


def predictions(
    trained: TrainedModel, batch_size: int, model: Classifier, weights: Mapping[str, Any]
) -> tuple[Said, Said]:
    """Returns what a network says about the selection and the test split of a trained model's data."""

    def on(split: Split) -> Said:
        if not len(split):
            return unasked(model.spec.classes)
        return predict(model, weights, batches(split, batch_size)(), step_rescale=trained.step_rescale)

    test = on(trained.splits.test)
    return (test if trained.splits.selection is trained.splits.test else on(trained.splits.selection)), test


def _train(
    job: TrainJob,
    dataset: Dataset,
    splits: Splits,
    described: dict[str, Any],
    trained_id: str,
    folder: Path,
    console: Console,
) -> None:
    recipe = job.recipe
    full = (job.model.full_state_dim,) * job.model.n_layers
    model = Classifier(job.model, input_spec(dataset), full)
    facts = environment()
    write_json(folder / "identity.json", described)
    write_json(folder / "environment.json", facts)
    metadata = {
        "trained_id": trained_id,
        "model": job.model.to_dict(),
        "state_dims": list(full),
        "input_spec": input_spec(dataset).stored(),
        "task": job.task.description,
        "source": dataset.source,
        "data": dataset.fingerprint(),
        "vocabulary": dataset.vocabulary,
        padded.KEY: None if (padding := padded.Padding.of(dataset)) is None else padding.record(),
        **own_data(dataset),
        "step_rescale": dataset.step_rescale,
        "protocol": job.protocol,
        "selected_on": splits.selected_on,
        "seed": job.seed,
        "recipe": dataclasses.asdict(recipe),
        "experiment": job.group,
        "parent": None,
        "s5c": facts["s5c"],
        "git": facts["git"],
    }
    feed = Feed(
        train=lambda epoch, start: train_batches(
            splits.train, recipe.batch_size, seed=job.seed, epoch=epoch, start=start
        ),
        selection=batches(splits.selection, recipe.batch_size),
        steps_per_epoch=steps_per_epoch(splits.train, recipe.batch_size),
        batch_size=recipe.batch_size,
        metric=metric_of(dataset),
    )
    log.info(
        "Training %s on %s [source=%s]: %d epochs of %d steps, seed %d, best epoch chosen on %s -> %s",
        job.model.family,
        dataset.name,
        dataset.source,
        recipe.epochs,
        feed.steps_per_epoch,
        job.seed,
        splits.selected_on,
        folder,
    )
    if job.resume != "auto":
        salvage(folder / "metrics.jsonl")
    if saved := padding_saved(splits.train, recipe.batch_size, seed=job.seed):
        log.info("%s", saved)
    name = f"{dataset.name}-{job.model.family}-{trained_id}"
    run = Run(
        folder,
        config=described,
        mode=job.wandb.mode,
        project=job.wandb.project,
        name=name,
        group=job.group,
        job_type="train",
        tags=[dataset.name, job.model.family, f"seed{job.seed}", *job.wandb.tags],
    )
    steps = recipe.epochs * feed.steps_per_epoch
    with run, CheckpointStore(folder / "checkpoints", resume=job.resume) as store:
        with training_progress(console, steps=steps, epochs=recipe.epochs) as reporter:
            fit(
                model,
                feed,
                recipe,
                seed=job.seed,
                store=store,
                directory=folder,
                metadata=metadata,
                record=run,
                reporter=reporter,
                checkpoint_minutes=job.checkpoint_minutes,
            )
        best = best_epoch(store, folder)
        epochs = [row for row in read_metrics(run.metrics_file) if row["event"] == "epoch"]
        if len(epochs) < recipe.epochs:
            log.warning(
                "%s has %d of %d epochs: the time of the others is lost.", run.metrics_file, len(epochs), recipe.epochs
            )
        seconds = sum(row["seconds"] for row in epochs)
        result = {
            "seconds": seconds,
            "best_epoch": best.metadata["epoch"],
            **{key: value for key, value in best.metadata["metrics"].items() if key.startswith("selection_")},
        }
        run.summary(result)
        run.artifact(name, best.path / "weights", metadata={**result, "trained_id": trained_id}, aliases=["best"])
        kept.finish(folder, {**result, "environment": facts}, trained_id, best, store)
    log.info(
        "Trained in %.1f s; best epoch %d of %d, %s %s.",
        seconds,
        result["best_epoch"],
        recipe.epochs,
        splits.selected_on,
        feed.metric.told(result[f"selection_{feed.metric.name}"]),
    )
    if any(modes := surgery.unstable_modes(best.weights["params"], job.model)):
        log.info(
            "%d of its modes are unstable (|Lambda_bar| >= 1; by layer: %s): only model.clip_eigs=true prevents that. "
            "reduction.unstable says what a reduction does with them.",
            sum(modes),
            ", ".join(map(str, modes)),
        )
    if run.sync_hint:
        log.info("W&B is offline. To upload: %s", run.sync_hint)


def _exclusive(folder: Path) -> AbstractContextManager[None]:
    return exclusive(folder, "is training this model")
