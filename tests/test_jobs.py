"""Whole jobs on the embedded digits with a tiny network: what they write, and that all of it agrees."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import jax
import jobs
import numpy as np
import pytest
import wandb_file

from s5c.pipeline.trained import _exclusive, checksum, identity, load_task
from s5c.train import resolve
from s5c.training.checkpoint import load
from s5c.training.loop import Recipe


class Main(NamedTuple):
    """The main job, run once for this file."""

    folder: Path
    run: Path
    trained: Path
    rows: list[dict[str, Any]]
    done: jobs.Outcome


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Main:
    folder = tmp_path_factory.mktemp("main")
    measured = ("evaluation.latency=true", "evaluation.rounds=1")
    done = jobs.run("train", "+experiment=digits_last", "reduction.ratio=[0.25,0.5]", *measured, folder=folder)
    assert done.code == 0, done.err
    run = jobs.only(folder, "results/digits_last/*")
    return Main(folder, run, jobs.only(folder, "results/trained/*"), jobs.rows(run / "rows.jsonl"), done)


def last_row(folder: Path, name: str) -> dict[str, Any]:
    """Returns the last row of the only job of that name."""
    return jobs.rows(jobs.only(folder, f"results/{name}/*") / "rows.jsonl")[-1]


class TestMainJob:
    def test_one_row_per_model_the_unpruned_one_first(self, main: Main) -> None:
        assert [(row["reduction"], row["ratio"]) for row in main.rows] == [("full", 0.0), ("last", 0.25), ("last", 0.5)]
        assert [row["states"] for row in main.rows] == [8, 6, 4]
        assert [sum(row["orders"]) for row in main.rows] == [8, 6, 4]
        assert all(row["trained_id"] in main.trained.name and row["experiment"] == "digits_last" for row in main.rows)
        for size in ("params", "state_params", "macs"):
            values = [row[size] for row in main.rows]
            assert values == sorted(values, reverse=True) and values[0] > values[2]
        assert all(row["latency_ms"] > 0 and row["speedup"] > 0 for row in main.rows)

    def test_returns_what_a_sweeper_may_optimise(self, main: Main) -> None:
        assert main.done.value == main.rows[-1]["val_accuracy"]

    def test_table_shows_the_rows(self, main: Main) -> None:
        table = main.done.out.partition("──")[2].replace("unpruned", "").replace("last", "")
        lines = [line.split() for line in table.splitlines()]
        for row in main.rows:
            cells = next(cells for cells in lines if cells[:1] == [f"{row['ratio']:g}"])
            assert cells[1:3] == [str(row["states"]), str(row["params"])]
            assert f"{100 * row['test_accuracy']:.1f}" in cells and f"{100 * row['agreement']:.1f}%" in cells
        assert f"Run folder: {main.run}" in main.done.out

    def test_files(self, main: Main) -> None:
        resolved = (main.run / "config.resolved.yaml").read_text()
        assert "${" not in resolved and "state_size: 8" in resolved
        assert '"jax"' in (main.run / "environment.json").read_text()
        assert f"{100 * main.rows[2]['test_accuracy']:.1f}" in (main.run / "report.md").read_text()
        figures = {path.stem for path in (main.run / "figures").glob("*.png")}
        assert figures >= {"accuracy_vs_ratio", "eigenvalues", "states_per_layer"}
        with np.load(main.run / "spectra.npz") as spectra:
            kept = [int(spectra[f"keep_0.5_layer{i}"].sum()) for i in (0, 1)]
        assert kept == main.rows[2]["orders"]

    def test_reduced_checkpoints_are_smaller(self, main: Main) -> None:
        full = load(main.trained).weights["params"]
        for row in main.rows[1:]:
            checkpoint = load(main.folder / row["checkpoint"])
            assert checkpoint.metadata["state_dims"] == row["orders"]
            assert checkpoint.metadata["parent"] == str(main.folder / main.rows[0]["checkpoint"])
            assert checkpoint.metadata["metrics"]["test_accuracy"] == row["test_accuracy"]
            params = checkpoint.weights["params"]
            sizes = [leaf.shape[0] for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "Lambda_re"]
            assert sizes == row["orders"]
            assert sum(map(np.size, jax.tree.leaves(params))) == row["params"]
        assert sum(map(np.size, jax.tree.leaves(full))) == main.rows[0]["params"]

    def test_metrics_of_training(self, main: Main) -> None:
        epochs = [row for row in jobs.rows(main.trained / "metrics.jsonl") if row["event"] == "epoch"]
        assert [(row["epoch"], row["step"]) for row in epochs] == [(1, 5), (2, 10)]
        assert main.rows[0]["val_accuracy"] == pytest.approx(max(row["selection_accuracy"] for row in epochs))


class TestReuse:
    def test_a_reduced_checkpoint_evaluates_to_its_row(self, main: Main) -> None:
        row = main.rows[2]
        done = jobs.run("evaluate", f"checkpoint={row['checkpoint']}", folder=main.folder)
        assert done.code == 0, done.err
        found = last_row(main.folder, "evaluate")
        for key in ("test_accuracy", "test_loss", "val_accuracy", "states", "orders", "params", "macs"):
            assert found[key] == row[key], key
        assert done.value == row["val_accuracy"]

    def test_reduce_does_what_the_train_job_did(self, main: Main) -> None:
        row = main.rows[2]
        assert jobs.run("reduce", f"checkpoint={main.trained}", "reduction.ratio=0.5", folder=main.folder).code == 0
        found = last_row(main.folder, "reduce")
        for key in ("test_accuracy", "test_loss", "val_accuracy", "agreement", "orders", "trained_id", "parent"):
            assert found[key] == row[key], key
        ours, theirs = (load(main.folder / r["checkpoint"]).weights for r in (row, found))
        assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))

    @pytest.mark.slow
    def test_a_reduced_network_is_reduced_again(self, main: Main) -> None:
        row = main.rows[1]
        done = jobs.run("reduce", f"checkpoint={row['checkpoint']}", "name=again", folder=main.folder)
        assert done.code == 0, done.err
        found = last_row(main.folder, "again")
        assert (found["states_full"], found["states"]) == (6, 3)
        assert all(1 <= new <= old for new, old in zip(found["orders"], row["orders"], strict=True))
        assert found["parent"] == row["checkpoint"]
        assert load(main.folder / found["checkpoint"]).metadata["parent"] == str(main.folder / row["checkpoint"])

    def test_latest_weights(self, main: Main) -> None:
        best, latest = (load(main.trained, which=which).path for which in ("best", "latest"))
        assert best != latest, "or this test shows nothing"
        options = ("reduction.weights=latest", "reduction.save=false", "name=latest")
        done = jobs.run("train", *options, folder=main.folder)
        assert done.code == 0 and "Reusing the trained model" in done.err
        row = last_row(main.folder, "latest")
        assert main.folder / row["parent"] == latest and row["checkpoint"] is None

    @pytest.mark.slow
    def test_a_sweep_over_presets_takes_a_key_that_the_experiment_s_own_preset_lacks(self, tmp_path: Path) -> None:
        options = ("reduction=last,aire", "reduction.unstable=protect", "reduction.ratio=[0.25,0.5]", "name=sweep")
        done = jobs.run("train", "-m", "+experiment=digits_s5", *options, folder=tmp_path)
        assert done.code == 0, done.err
        rows = [row for path in tmp_path.glob("results/sweep/*/rows.jsonl") for row in jobs.rows(path)]
        assert {row["arm"] for row in rows} == {"unpruned", "last +protect", "aire +protect"}
        assert all("choice" not in row["command"] for row in rows)

    def test_a_sweep_trains_once_and_again_not_at_all(self, tmp_path: Path) -> None:
        for ratios, trainings in (("0.25,0.5", 1), ("0.5", 0)):
            done = jobs.run("train", "--multirun", f"reduction.ratio={ratios}", "name=sweep", folder=tmp_path)
            assert done.code == 0, done.err
            assert done.err.count("Training s5 on digits") == trainings
            assert done.err.count("Reusing the trained model") == 1
        done = jobs.run("report", "runs=results/sweep", folder=tmp_path)
        assert done.code == 0, done.err
        report = tmp_path / "results/sweep/report"
        # A job given again replaces its rows, and all jobs of a sweep have the unpruned model in common.
        assert (report / "table.csv").read_text().count("\n") == 1 + 3
        assert "unpruned" in (report / "report.md").read_text() and list(report.rglob("accuracy_vs_ratio.png"))
        assert "3 rows -> " in done.out

    def test_selection_on_test_data_is_marked(self, tmp_path: Path) -> None:
        done = jobs.run("train", "protocol=paper", "reduction.save=false", folder=tmp_path)
        rows = jobs.rows(jobs.only(tmp_path, "results/digits/*") / "rows.jsonl")
        assert {(row["protocol"], row["selected_on"]) for row in rows} == {("paper", "test")}
        assert all(row["val_accuracy"] == row["test_accuracy"] for row in rows)
        assert "selected on test data" in done.out and "best epoch chosen on test" in done.err

    def test_masked_only_baseline(self, main: Main, tmp_path: Path) -> None:
        preset = ("reduction=unstructured_random", "reduction.ratio=0.5")
        done = jobs.run("reduce", f"checkpoint={main.trained}", *preset, folder=tmp_path)
        assert done.code == 0, done.err
        row = last_row(tmp_path, "reduce")
        assert row["masked_only"] and (row["states"], row["params"]) == (main.rows[0]["states"], main.rows[0]["params"])


class TestIdentity:
    @staticmethod
    def of(*overrides: str) -> str:
        job = resolve(jobs.compose("train", *overrides))[0]
        return checksum(identity(job, load_task(job.task, job.protocol)[0]))

    TRAINING = (
        *("seed=1", "protocol=paper", "task.split_seed=1", "task.validation_seed=1", "task.validation_fraction=0.2"),
        *(
            "train.epochs=26",
            "train.batch_size=49",
            "train.ssm_lr=0.002",
            "train.lr_factor=3",
            "train.weight_decay=0.3",
        ),
        *("train.warmup_epochs=0", "train.lr_min=0.1", "train.grouping=BandCdecay"),
        *("train.dt_global=true", "train.dt_lr=0.01"),
        *("model.dropout=0", "model.backend=associative", "model.state_size=32", "model.bidirectional=true"),
    )
    OTHER = ("name=x", "wandb=offline", "wandb.tags=[a]", "reduction=random", "reduction.ratio=0.1", "reduction.seed=1")
    OTHER = (*OTHER, "evaluation.rounds=1", "results_dir=x", "train.checkpoint_minutes=0", "+experiment=digits_last")

    def test_changes_with_everything_that_decides_a_training(self) -> None:
        identities = [self.of(override) for override in self.TRAINING]
        assert len({self.of(), *identities}) == 1 + len(identities)
        recipe = {override.split("=")[0] for override in self.TRAINING if override.startswith("train.")}
        assert recipe == {f"train.{field.name}" for field in dataclasses.fields(Recipe)}, "no key is left out above"

    def test_stays_for_everything_else(self) -> None:
        assert {self.of(override) for override in self.OTHER} == {self.of()}


@pytest.mark.slow
class TestTwoAtOnce:
    def test_one_trains_and_both_finish(self, tmp_path: Path) -> None:
        both = [jobs.spawn("train", f"name={name}", "reduction=none", folder=tmp_path) for name in ("a", "b")]
        said = [process.communicate(timeout=240)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert sum(err.count("Training s5 on digits") for err in said) == 1
        assert sum(err.count("Reusing the trained model") for err in said) == 1
        accuracy = [last_row(tmp_path, name)["test_accuracy"] for name in ("a", "b")]
        assert accuracy[0] == accuracy[1]

    def test_the_second_says_whom_it_waits_for(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / ".lock-holder").write_text("4711\n")
        entered = threading.Event()

        def second() -> None:
            with _exclusive(tmp_path):
                entered.set()

        with caplog.at_level(logging.INFO, "s5c"), filelock.FileLock(tmp_path / ".lock"):
            thread = threading.Thread(target=second)
            thread.start()
            deadline = time.monotonic() + 10
            while "waiting" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "Process 4711 is training this model" in caplog.text
            assert not entered.is_set()
        thread.join(10)
        assert entered.is_set()
        assert (tmp_path / ".lock-holder").read_text() == f"{os.getpid()}\n"


@pytest.mark.slow
class TestWandbOffline:
    @pytest.fixture(scope="class")
    def recorded(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
        folder = tmp_path_factory.mktemp("offline")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "NETRC"))}
        several = "reduction.ratio=[0.5,0.6]"  # one point makes no figure
        process = jobs.spawn(
            "train", "wandb=offline", several, folder=folder, env={**inherited, "HOME": str(folder / "home")}
        )
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return jobs.only(folder, "results/trained/*"), jobs.only(folder, "results/digits/*"), err

    def test_two_runs_of_one_group(self, recorded: tuple[Path, Path, str]) -> None:
        for folder, kind in zip(recorded[:2], ("train", "reduce"), strict=True):
            run = wandb_file.only(wandb_file.wandb_records(folder), "run")[0]
            assert (run.project, run.run_group, run.job_type) == ("s5c", "digits", kind)
            config = wandb_file.items(run.config.update)
            assert config["model"]["state_size"] == 8 and config["task"]["name"] == "digits"
            assert f"wandb sync {folder}" in recorded[2]
        assert config["reduction"]["allocation"] == "normalised"

    def test_curves_table_and_figures(self, recorded: tuple[Path, Path, str]) -> None:
        trained, reduced = (wandb_file.only(wandb_file.wandb_records(folder), "history") for folder in recorded[:2])
        curve = [wandb_file.items(row.item) for row in trained]
        assert [row["epoch"] for row in curve if "train_loss" in row] == [1, 2]
        history: dict[str, Any] = {}
        for row in reduced:
            history |= wandb_file.items(row.item)
        assert (history["rows/_type"], history["rows/nrows"]) == ("table-file", 3)
        assert history["accuracy_vs_ratio/_type"] == "image-file"
        assert history["test_accuracy"] == jobs.rows(recorded[1] / "rows.jsonl")[2]["test_accuracy"]

    def test_lineage_from_trained_to_reduced(self, recorded: tuple[Path, Path, str]) -> None:
        (made,) = wandb_file.models(wandb_file.wandb_records(recorded[0]))
        found = wandb_file.models(wandb_file.wandb_records(recorded[1]))
        used, derived = ([one for one in found if one.use_after_commit is kind] for kind in (True, False))
        assert {(one.type, one.name, one.digest) for one in used} == {(made.type, made.name, made.digest)}
        assert [one.name.rpartition("-")[2] for one in derived] == ["0.5", "0.6"]
        assert len({made.digest, *(one.digest for one in derived)}) == 3
