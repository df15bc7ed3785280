"""The training loop, read from top to bottom: `fit` is the whole of it.

Everything random is a function of (seed, epoch, step), every finished epoch is a checkpoint, and the loop starts by
looking for one: a killed training that is started again ends in the same parameters, bit for bit on CPU.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, bounded, unknown
from s5c.metric import ACCURACY, Metric
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.model.roles import parameters_of
from s5c.training.checkpoint import Checkpoint, CheckpointStore
from s5c.training.interrupt import Interrupted, StopRequest
from s5c.training.objective import CLASSES, Inputs, Objective, Teacher, objective_of
from s5c.training.optimiser import GROUPINGS, held, optimiser, schedule
from s5c.training.prefetch import prefetch
from s5c.training.progress import Reporter
from s5c.training.steps import Step, TrainState, init_state, make_eval_step, make_train_step
from s5c.types import Array, Params

log = logging.getLogger(__name__)

CHECK_EVERY = 50
"""Steps between two looks at the losses. A look waits for the device, so not every step."""

IN_FLIGHT = 2
"""Steps handed to the device and not finished: one is running, one keeps it busy. With more of them, a request to stop
would only be seen after all had run, which for long steps is minutes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the fields are the keys of conf/train.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples per step; the rest of an epoch is dropped.
        ssm_lr: learning rate of the state-space parameters.
        lr_factor: the others train at lr_factor * ssm_lr.
        weight_decay: weight decay of the AdamW groups.
        warmup_epochs: linear warm-up.
        lr_min: end of the cosine.
        grouping: standard | BandCdecay | BfastandCdecay | noBCdecay | noCdecay (`s5c.training.optimiser`).
        dt_global: treat log_step as an ordinary parameter.
        dt_lr: learning rate of log_step; None: ssm_lr (or, with dt_global, that of the others).
    """

    epochs: int
    batch_size: int
    ssm_lr: float = 1e-3
    lr_factor: float = 4.0
    weight_decay: float = bounded(0.05, least=0)
    warmup_epochs: int = 1
    lr_min: float = bounded(0.0, least=0)
    grouping: str = "standard"
    dt_global: bool = False
    dt_lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 <= self.warmup_epochs <= self.epochs:
            raise UserError(
                f"train.epochs={self.epochs}, train.warmup_epochs={self.warmup_epochs}: at least one epoch is needed "
                "and no more warm-up epochs than epochs."
            )
        if self.grouping not in GROUPINGS:
            raise unknown("value for train.grouping", self.grouping, GROUPINGS)
        if self.ssm_lr <= 0 or self.lr_factor <= 0:
            raise UserError(f"train.ssm_lr={self.ssm_lr}, train.lr_factor={self.lr_factor}: both must be positive.")
        if self.dt_lr is not None and (self.dt_lr <= 0 or self.dt_global):
            raise UserError(
                f"train.dt_lr={self.dt_lr}, train.dt_global={self.dt_global}: a learning rate of log_step's own is "
                "positive and excludes dt_global=true. Leave one of the two out (train.dt_lr=null)."
            )


@runtime_checkable
class Record(Protocol):
    """Where the metrics go (`s5c.tracking`)."""

    def log(self, values: Mapping[str, float], *, step: int | None = None, event: str = "metrics") -> None:
        """Appends one row."""

    def truncate_after(self, step: int) -> None:
        """Forgets the rows written after a checkpoint that is now resumed from."""


Batches = Iterable[Any]

NO_ANSWERS = "not all answers on the selection split are finite numbers"


@dataclasses.dataclass(frozen=True)
class Feed:
    """The data as the loop needs it: functions that give batches of fixed shape.

    Attributes:
        train: (epoch, start) -> the batches of that epoch from number `start` on.
        selection: () -> the batches the best epoch is chosen on.
        steps_per_epoch: number of training batches.
        batch_size: examples per training batch.
        metric: what the best epoch is chosen by.
    """

    train: Callable[[int, int], Batches]
    selection: Callable[[], Batches]
    steps_per_epoch: int
    batch_size: int
    metric: Metric = ACCURACY


def to_device(batch: Any) -> Inputs:
    """Copies a batch to the default device."""
    lengths = None if batch.lengths is None else jnp.asarray(batch.lengths)
    return Inputs(jnp.asarray(batch.inputs), jnp.asarray(batch.labels), lengths, jnp.asarray(batch.weights))


def evaluate(
    eval_step: Callable[[Params, Params, Inputs], Any],
    params: Params,
    batch_stats: Params,
    batches: Batches,
    objective: Objective = CLASSES,
) -> dict[str, float]:
    """Returns mean loss and metrics over all examples, exact for a partial last batch.

    They are NaN where some answers are not finite: such a network has no accuracy (`s5c.evaluation.metrics`).
    """
    with closing(prefetch(batches, to_device)) as ready:
        sums = [jax.device_get(eval_step(params, batch_stats, batch)) for batch in ready]
    return objective.results(sums)


def fit(
    model: Classifier,
    feed: Feed,
    recipe: Recipe,
    *,
    seed: int,
    store: CheckpointStore,
    directory: Path,
    metadata: Mapping[str, Any],
    record: Record,
    reporter: Reporter,
    checkpoint_minutes: float = 10.0,
    initial: Params | None = None,
    teacher: Teacher | None = None,
    frozen: Params | None = None,
) -> None:
    """Trains `model`, or goes on with a training found in `store`; leaves best and latest checkpoints there.

    Args:
        model: the network.
        feed: its data.
        recipe: how to train.
        seed: seeds initialisation, dropout and data order.
        store: checkpoints are written to, and resumed from, here.
        directory: named in messages.
        metadata: what a checkpoint must carry besides arrays; step, epoch and metrics are added.
        record: gets one row per epoch.
        reporter: gets the progress.
        checkpoint_minutes: longest time between two checkpoints within a long epoch.
        initial: weights to start from; drawn if None.
        teacher: predictions to learn instead of the labels.
        frozen: marks the entries of parameters that keep their values, broadcastable to them.

    Raises:
        UserError: the loss is not finite any more; the last good checkpoint stays.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    # ---- model and optimiser
    total_steps = recipe.epochs * feed.steps_per_epoch
    rate = partial(schedule, warmup_steps=recipe.warmup_epochs * feed.steps_per_epoch, total_steps=total_steps)
    lr = rate(recipe.lr_factor * recipe.ssm_lr, minimum=recipe.lr_min)
    ssm_lr = rate(recipe.ssm_lr, minimum=recipe.lr_min)
    make = partial(
        optimiser,
        lr=lr,
        ssm_lr=ssm_lr,
        weight_decay=recipe.weight_decay,
        grouping=recipe.grouping,
        dt_global=recipe.dt_global,
        dt_lr=None if recipe.dt_lr is None else rate(recipe.dt_lr, minimum=recipe.lr_min),
        declared=parameters_of(model.config),
    )
    if frozen is not None:
        make = partial(held, make, frozen)
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    state, transform = init_state(model, make, to_device(next(iter(feed.train(0, 0)))), init_key, initial)
    train_step, eval_step = make_train_step(model, transform, teacher), make_eval_step(model)
    objective, metric = objective_of(model.spec), feed.metric

    # ---- restore
    state, sums = _restore(store, state)
    record.truncate_after(int(state.step))

    # ---- loop
    with StopRequest() as stop:
        for epoch in range(int(state.step) // feed.steps_per_epoch, recipe.epochs):
            began = time.monotonic()
            save = partial(_save, store, metadata=metadata, epoch=epoch)
            state, sums = _run_epoch(
                train_step, state, feed, epoch, dropout_key, sums, stop, reporter, save, checkpoint_minutes, directory
            )
            step = int(state.step)
            selected = evaluate(eval_step, state.params, state.batch_stats, feed.selection(), objective)
            score = metric.score(selected[metric.name])
            row = {
                "epoch": epoch + 1,
                **{f"train_{name}": value / feed.steps_per_epoch for name, value in sums.items()},
                **{f"selection_{name}": value for name, value in selected.items()},
                "unstable_modes": sum(surgery.unstable_modes(state.params, model.config)),
                "lr": float(lr(step - 1)),
                "ssm_lr": float(ssm_lr(step - 1)),
            }
            record.log({**row, "seconds": time.monotonic() - began}, step=step, event="epoch")
            sums = {}
            save(state, sums, metrics=row, score=score)
            message = _told(row, metric)
            log.debug("epoch %d/%d · %s", epoch + 1, recipe.epochs, message)
            if not math.isfinite(score):
                log.warning("Epoch %d cannot be the best: %s.", epoch + 1, NO_ANSWERS)
            reporter.epoch(message)
            if stop.requested:
                store.wait()
                raise Interrupted(
                    f"Stopped after epoch {epoch + 1} of {recipe.epochs}, step {step}; saved in {directory}."
                )
    store.wait()


def _told(row: Mapping[str, float], metric: Metric) -> str:
    """Returns the result of an epoch in a line."""
    value = row[f"selection_{metric.name}"]
    said = f"selection {metric.told(value)}" if math.isfinite(value) else f"no selection {metric.words}"
    modes = int(row["unstable_modes"])
    return f"loss {row['train_loss']:.4f} · {said}" + (f" · {modes} unstable mode{'s' * (modes > 1)}" if modes else "")


def best_epoch(store: CheckpointStore, directory: Path) -> Checkpoint:
    """Returns the best epoch of a finished training.

    Args:
        store: its checkpoints.
        directory: named in the message.

    Raises:
        UserError: no epoch has an accuracy.
    """
    if (best := store.best()) is None:
        raise UserError(
            f"The training in {directory} ended without a best epoch: {NO_ANSWERS}, in any epoch.\nLower train.ssm_lr, "
            "or set model.clip_eigs=true (nothing else keeps S5's modes stable), and train again."
        )
    return best


def _run_epoch(
    train_step: Step,
    state: TrainState,
    feed: Feed,
    epoch: int,
    key: Array,
    sums: dict[str, float],
    stop: StopRequest,
    reporter: Reporter,
    save: Callable[..., None],
    checkpoint_minutes: float,
    directory: Path,
) -> tuple[TrainState, dict[str, float]]:
    """Runs the rest of one epoch; returns the state and the sums of the per-step metrics."""
    done = int(state.step)
    start = done - epoch * feed.steps_per_epoch
    pending: list[dict[str, Array]] = []
    saved_at = time.monotonic()
    with closing(prefetch(feed.train(epoch, start), to_device)) as batches:
        for position, batch in enumerate(batches, start=start + 1):
            state, metrics = train_step(state, batch, key)
            pending.append(metrics)
            jax.block_until_ready(pending[-IN_FLIGHT:][0])
            done += 1
            last = position == feed.steps_per_epoch
            stopping = stop.requested  # read once: a signal between the sums and the save must not part them
            overdue = time.monotonic() - saved_at > 60 * checkpoint_minutes
            if last or stopping or overdue or len(pending) == CHECK_EVERY:
                sums = _add(sums, pending, done, epoch, directory)
                pending = []
            reporter.step(done, epoch=epoch, examples=feed.batch_size)
            if (stopping or overdue) and not last:
                save(state, sums, metrics={}, score=None, wait=stopping)
                saved_at = time.monotonic()
            if stopping and not last:
                raise Interrupted(f"Stopped in epoch {epoch + 1}, step {done}; saved in {directory}.")
    return state, sums


def _add(
    sums: dict[str, float], pending: list[dict[str, Array]], done: int, epoch: int, directory: Path
) -> dict[str, float]:
    """Adds per-step metrics to the sums, in step order, and refuses those that are not finite."""
    sums = dict(sums)
    for i, metrics in enumerate(jax.device_get(pending)):
        # A finite loss may have an infinite gradient; the parameters after it must not become a checkpoint.
        wrong = next((name for name in ("loss", *metrics) if not np.isfinite(metrics[name])), None)
        if wrong:
            raise UserError(
                f"Training diverged: the {wrong.replace('_', ' ')} is {metrics[wrong]} in epoch {epoch + 1}, step "
                f"{done - len(pending) + i + 1}.\nWhat was saved before it stays in {directory}. Lower train.ssm_lr or "
                "train.lr_factor, lengthen train.warmup_epochs, or set model.clip_eigs=true (nothing else keeps S5's "
                "modes stable), and train again."
            )
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _save(
    store: CheckpointStore,
    state: TrainState,
    sums: dict[str, float],
    *,
    metadata: Mapping[str, Any],
    epoch: int,
    metrics: Mapping[str, float],
    score: float | None,
    wait: bool = False,
) -> None:
    step = int(state.step)
    store.save(
        step,
        weights={"params": state.params, "batch_stats": state.batch_stats},
        training={"opt_state": state.opt_state},
        metadata={**metadata, "step": step, "epoch": epoch + 1, "metrics": dict(metrics), "epoch_sums": sums},
        score=score,
        wait=wait,
    )


def _restore(store: CheckpointStore, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """Returns the newest intact state of the store, or the given one, and the sums of a half-finished epoch."""
    restored = store.restore_training({"opt_state": state.opt_state})
    if restored is None:
        return state, {}
    checkpoint, training = restored
    log.info("Resuming from step %d (%s).", checkpoint.step, checkpoint.path)
    weights = jax.tree.map(jnp.asarray, checkpoint.weights)
    resumed = TrainState(
        jnp.asarray(checkpoint.step, jnp.int32),
        weights["params"],
        weights["batch_stats"],
        jax.tree.map(jnp.asarray, training["opt_state"]),
    )
    return resumed, dict(checkpoint.metadata["epoch_sums"])
