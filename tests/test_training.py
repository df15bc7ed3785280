"""What one training does: it learns, compiles once, reuses its buffers, stops when it diverges, keeps its record."""

from __future__ import annotations

import io
import itertools
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import optax
import pytest
from rich.console import Console

from s5c.errors import UserError
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.family.s5 import Config
from s5c.pipeline import trained
from s5c.pipeline.trained import TrainedModel, obtain
from s5c.tracking.metrics import read_metrics
from s5c.train import resolve
from s5c.training import loop
from s5c.training.checkpoint import load
from s5c.training.progress import training_progress
from s5c.training.steps import Inputs, TrainState, make_train_step

LEARNING = ("train.epochs=6", "train.batch_size=100", "train.ssm_lr=0.01", "train.warmup_epochs=0")
COLUMNS = {"event", "step", "time", "epoch", "seconds", "lr", "ssm_lr", "selection_loss", "selection_accuracy"}
COLUMNS |= {"unstable_modes"}
COLUMNS |= {f"train_{name}" for name in ("loss", "accuracy", "gradient_norm", "parameter_norm")}


def train(results: Path, *overrides: str, console: Console | None = None) -> TrainedModel:
    """Trains the tiny network in this process, without the command line around it."""
    values = jobs.compose("train", *jobs.merged(jobs.TINY, (*overrides, f"results_dir={results}")))
    return obtain(resolve(values)[0], console or Console(file=io.StringIO()))


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["event"] == "epoch"]


class Watched:
    """The compiled functions of a training, and the states that went into its steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: list[Any] = []
        self.compiled: dict[str, Any] = {}
        for name in ("make_train_step", "make_eval_step"):
            monkeypatch.setattr(loop, name, self._recording(name, getattr(loop, name)))

    def _recording(self, name: str, make: Any) -> Any:
        def made(*args: Any) -> Any:
            function = self.compiled[name] = make(*args)

            def call(state: Any, *rest: Any) -> Any:
                if name == "make_train_step":
                    self.states.append(state)
                return function(state, *rest)

            return call

        return made


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watched]:
    """A training with a partial last batch in training (1257 = 12 x 100 + 57) and in selection (180)."""
    results = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as monkeypatch:
        watched = Watched(monkeypatch)
        train(results, *LEARNING)
    return jobs.only(results, "trained/*"), watched


def test_learns(learned: tuple[Path, Watched]) -> None:
    rows = epochs(learned[0])
    losses = [row["train_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.3
    assert rows[-1]["selection_accuracy"] > 0.25, "chance is 0.1"


def test_one_row_per_epoch_with_the_documented_columns(learned: tuple[Path, Watched]) -> None:
    rows = epochs(learned[0])
    assert [(row["epoch"], row["step"]) for row in rows] == [(n, 12 * n) for n in range(1, 7)]
    for row in rows:
        assert set(row) == COLUMNS
        assert all(math.isfinite(row[column]) for column in COLUMNS - {"event"})
    assert [row["lr"] for row in rows] == pytest.approx([8 * row["ssm_lr"] for row in rows])
    assert rows[-1]["ssm_lr"] < 1e-4 < rows[0]["ssm_lr"] <= 0.01


def test_compiles_each_step_once(learned: tuple[Path, Watched]) -> None:
    counts = {name: function._cache_size() for name, function in learned[1].compiled.items()}
    assert counts == {"make_train_step": 1, "make_eval_step": 1}


def test_old_states_are_given_to_the_next_step(learned: tuple[Path, Watched]) -> None:
    states = learned[1].states
    assert len(states) == 72
    assert all(leaf.is_deleted() for state in states for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_an_error_in_the_data_leaves_no_thread_and_the_next_run_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = trained.train_batches

    def failing(*args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from itertools.islice(sound(*args, **kwargs), 3 if kwargs["epoch"] == 1 else None)
        if kwargs["epoch"] == 1:
            raise OSError("the data are gone")

    with monkeypatch.context() as patch:
        patch.setattr(trained, "train_batches", failing)
        with pytest.raises(OSError, match="gone"):
            train(tmp_path, "train.checkpoint_minutes=0")
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    watched = Watched(monkeypatch)
    train(tmp_path)
    assert len(watched.states) == 2, "steps 9 and 10 of 10"
    assert {name: f._cache_size() for name, f in watched.compiled.items()} == {
        "make_train_step": 1,
        "make_eval_step": 1,
    }


def compiled_step(**options: Any) -> tuple[Any, TrainState]:
    """Compiles the training step of a deep network; nothing is run."""
    network = {"n_layers": 6, "d_model": 16, "state_size": 4, "blocks": 2, "backend": "sequential", **options}
    model = Classifier(Config(**network), InputSpec(3, 2), (2,) * 6)
    zeros = jnp.zeros(4)
    batch = Inputs(jnp.zeros((4, 512, 3)), zeros.astype(jnp.int32), None, zeros)
    transform = optax.adam(1e-3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch.inputs, None)
    params, stats = (
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes[name]) for name in ("params", "batch_stats")
    )
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, transform.init(params))
    return make_train_step(model, transform).lower(state, batch, jax.random.key(1)).compile().memory_analysis(), state


@pytest.mark.slow
def test_memory_of_a_step() -> None:
    """Kept per block: the input of the norm, of the operator and of the activation, and the product in it (4 arrays).

    Rematerialised, the first of them alone.
    """
    array = 4 * 512 * 16 * 4
    kept, state = compiled_step(activation="half_glu2")
    remade, _ = compiled_step(activation="half_glu2", remat=True)
    assert kept.temp_size_in_bytes < (6 * 4 + 8) * array
    assert remade.temp_size_in_bytes < (6 * 1.5 + 8) * array
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert kept.alias_size_in_bytes >= size, "the new state is written over the old one"


def test_chooses_the_best_epoch_the_earlier_of_equals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.2, 0.5, 0.5, 0.4])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"loss": 1.0, "accuracy": next(scores)})
    best = train(tmp_path, "train.epochs=4")
    assert best.metadata["epoch"] == 2 and best.path.name == "10"
    assert load(jobs.only(tmp_path, "trained/*"), which="latest").step == 20


class TestDivergence:
    @staticmethod
    def poison(monkeypatch: pytest.MonkeyPatch, *, epoch: int, position: int) -> None:
        """Makes one training batch infinite; `position` counts from 1."""
        sound = trained.train_batches

        def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for i, batch in enumerate(sound(*args, **kwargs), start=kwargs["start"] + 1):
                bad = (kwargs["epoch"] + 1, i) == (epoch, position)
                yield batch._replace(inputs=np.full_like(batch.inputs, np.inf)) if bad else batch

        monkeypatch.setattr(trained, "train_batches", batches)

    @pytest.mark.parametrize(
        "position", [3, pytest.param(5, marks=pytest.mark.slow)], ids=["amid an epoch", "at its end"]
    )
    def test_stops_where_it_happens_and_keeps_what_was_good(
        self, position: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            self.poison(patch, epoch=2, position=position)
            with pytest.raises(UserError, match=rf"loss is nan in epoch 2, step {5 + position}\.(.|\n)*train\.ssm_lr"):
                train(tmp_path)
        folder = jobs.only(tmp_path, "trained/*")
        latest = load(folder, which="latest")
        assert latest.step == 5
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(latest.weights))
        assert not (folder / "trained.json").exists() and len(epochs(folder)) == 1
        whole = train(tmp_path / "whole")
        again = train(tmp_path)
        assert jax.tree.all(jax.tree.map(np.array_equal, again.weights, whole.weights))

    def test_no_checkpoint_of_parameters_that_are_not_finite(self, tmp_path: Path) -> None:
        """The loss of a step is that before its update: a huge rate ruins the parameters of a step with a good loss."""
        with pytest.raises(UserError, match=r"parameter norm is inf in epoch 1, step 1\."):
            train(tmp_path, "train.ssm_lr=1e30", "train.checkpoint_minutes=0")
        assert [path.name for path in tmp_path.glob("trained/*/checkpoints/*")] == []


class TestProgress:
    def test_says_one_line_per_epoch_in_a_pipe(self) -> None:
        console = Console(file=io.StringIO())
        with training_progress(console, steps=10, epochs=2) as reporter:
            reporter.step(5, epoch=0, examples=500)
            reporter.epoch("loss 1.0")
            reporter.step(10, epoch=1, examples=500)
            reporter.epoch("loss 0.5")
        assert console.file.getvalue() == "epoch 1/2 · loss 1.0\nepoch 2/2 · loss 0.5\n"
        with training_progress(console, steps=10, epochs=2, done=5) as reporter:
            reporter.epoch("loss 0.5")
        assert console.file.getvalue().endswith("\nepoch 2/2 · loss 0.5\n"), "counted from where it goes on"

    def test_shows_a_training_on_a_terminal(self, tmp_path: Path) -> None:
        terminal = Console(file=io.StringIO(), force_terminal=True, width=160)
        train(tmp_path, console=terminal)
        shown = terminal.file.getvalue()
        for part in ("epoch 2/2", "step 10/10", "samples/s", "eta", "loss 2.", "selection accuracy "):
            assert part in shown

    def test_starts_where_a_resumed_training_stands(self) -> None:
        terminal = Console(file=io.StringIO(), force_terminal=True, width=160)
        with training_progress(terminal, steps=10, epochs=2, done=5) as reporter:
            reporter._progress.refresh()
            task = reporter._progress.tasks[0]
            assert (task.completed, task.total) == (5, 10)


@pytest.mark.slow
def test_few_steps_are_under_way_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a stop waits for the steps already handed to the device, so there must not be fifty of them."""
    running: list[int] = []

    def slowly(*args: Any) -> Any:
        step = make_train_step(*args)
        losses: list[jax.Array] = []

        @jax.jit
        def delayed(loss: jax.Array) -> jax.Array:
            return jax.pure_callback(lambda value: (time.sleep(0.05), value)[1], loss, loss)

        def call(*inputs: Any) -> Any:
            running.append(1 + sum(not loss.is_ready() for loss in losses))
            state, metrics = step(*inputs)
            metrics["loss"] = delayed(metrics["loss"])
            losses.append(metrics["loss"])
            return state, metrics

        return call

    monkeypatch.setattr(loop, "make_train_step", slowly)
    train(tmp_path, "train.epochs=1", "train.batch_size=100", "train.warmup_epochs=0")
    assert len(running) > 10
    assert max(running) <= loop.IN_FLIGHT
