"""The reduction stage on a whole network: targets, refits, norms, and training afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest

from s5c.training.checkpoint import load

CALIBRATION = ("reduction.calibration.sequences=40", "reduction.calibration.batch_size=20")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained once for the module: two layers of four stored states."""
    folder = tmp_path_factory.mktemp("flow")
    done = jobs.run("train", "reduction=none", folder=folder)
    assert done.code == 0, done.err
    return jobs.only(folder, "results/trained/*")


def outcome(checkpoint: Path, folder: Path, *overrides: str) -> jobs.Outcome:
    return jobs.run("reduce", f"checkpoint={checkpoint}", *overrides, folder=folder)


def rows(checkpoint: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """Runs a reduction and returns its rows."""
    done = outcome(checkpoint, folder, *overrides)
    assert done.code == 0, done.err
    return jobs.rows(jobs.only(folder, "results/reduce/*") / "rows.jsonl")


class TestTargets:
    @pytest.mark.slow
    def test_orders(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, "reduction=last", "reduction.order=[3,[2,1]]")
        assert [row["orders"] for row in found] == [[4, 4], [3, 3], [2, 1]]
        assert [row["ratio"] for row in found[1:]] == [0.25, 0.625]

    @pytest.mark.slow
    def test_tolerance(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, "reduction=bt", "reduction.tolerance=[0.0,0.3]")
        assert found[1]["orders"] == [4, 4] and sum(found[2]["orders"]) < 8
        for bound, error in zip(found[2]["error_bound"], found[2]["error_hinf"], strict=True):
            assert 0 < error <= bound

    @pytest.mark.few(3)
    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("reduction.order=5", "from 1 to what is there"),
            ("reduction.order=[[1,2,3]]", "one number per layer"),
            ("reduction.order=0.5", "whole numbers"),
            ("reduction.tolerance=1.5", "reduction.tolerance=1.5"),
            ("reduction.max_drop=-1", "reduction.max_drop=-1"),
            ("reduction.calibration.split=test", "must not decide it"),
            ("reduction.rounds=2", "rounds change nothing"),
            ("reduction.refit=h3", "Unknown refit 'h3'"),
            ("+reduction.refit_options.rigde=1", "reduction.refit_options.rigde"),
        ],
    )
    def test_wrong_targets_are_refused(self, override: str, said: str, checkpoint: Path, tmp_path: Path) -> None:
        done = outcome(checkpoint, tmp_path, "reduction=last", override)
        assert done.code == 1 and said in done.err and "Traceback" not in done.err

    def test_two_targets_at_once_are_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        done = outcome(checkpoint, tmp_path, "reduction=last", "reduction.order=2", "reduction.tolerance=0.1")
        assert done.code == 1 and "choose one" in done.err

    def test_max_drop_is_kept_on_validation_data(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, "reduction=last", "reduction.max_drop=3")
        assert len(found) == 2 and 100 * (found[0]["val_accuracy"] - found[1]["val_accuracy"]) <= 3 + 1e-6
        assert found[1]["max_drop"] == 3 and found[1]["orders"] != [4, 4]


@pytest.mark.slow
class TestRefitsAndNorms:
    @pytest.mark.parametrize("reduction", ["last", "bt"])
    def test_a_refit_brings_the_layers_nearer(self, reduction: str, checkpoint: Path, tmp_path: Path) -> None:
        bare = rows(checkpoint, tmp_path, f"reduction={reduction}", "reduction.order=2")[1]
        (tmp_path / "h2").mkdir()
        refit = rows(checkpoint, tmp_path / "h2", f"reduction={reduction}", "reduction.order=2", "reduction.refit=h2")[
            1
        ]
        assert refit["orders"] == bare["orders"] == [2, 2]
        assert all(a <= b * (1 + 1e-6) for a, b in zip(refit["error_h2"], bare["error_h2"], strict=True))
        assert sum(refit["error_h2"]) < sum(bare["error_h2"])

    @pytest.mark.parametrize("reduction", ["calibrated", "bt"])
    def test_a_calibrated_refit(self, reduction: str, checkpoint: Path, tmp_path: Path) -> None:
        overrides = (f"reduction={reduction}", "reduction.order=2", "reduction.refit=calibrated")
        found = rows(checkpoint, tmp_path, *overrides, "reduction.sequential=refit", *CALIBRATION)[1]
        assert found["orders"] == [2, 2] and found["seconds_calibration"] > 0
        saved = load(jobs.only(tmp_path, "results/reduce/*/reduced/*"))
        assert "bias" in saved.weights["params"]["encoder"]["layers_0"]["seq"]
        done = jobs.run("evaluate", f"checkpoint={saved.path}", folder=tmp_path)  # a checkpoint like any other
        assert done.code == 0, done.err
        again = jobs.rows(jobs.only(tmp_path, "results/evaluate/*") / "rows.jsonl")[0]
        assert again["test_accuracy"] == found["test_accuracy"]

    def test_norm_statistics_are_measured_anew(self, checkpoint: Path, tmp_path: Path) -> None:
        bare = rows(checkpoint, tmp_path, "reduction=last", "reduction.order=1")
        (tmp_path / "bn").mkdir()
        asked = ("reduction=last", "reduction.order=1", "reduction.norm=recalibrate", *CALIBRATION)
        found = rows(checkpoint, tmp_path / "bn", *asked)
        assert found[1]["test_loss"] != bare[1]["test_loss"]
        stats = [
            load(jobs.only(folder, "results/reduce/*/reduced/*")).weights["batch_stats"]["encoder"]["layers_1"]
            for folder in (tmp_path, tmp_path / "bn")
        ]
        assert not np.allclose(stats[0]["norm"]["var"], stats[1]["norm"]["var"], rtol=1e-3)

    @pytest.mark.parametrize("kind", ["gradient", "measured"])
    def test_layers_are_weighed(self, kind: str, checkpoint: Path, tmp_path: Path) -> None:
        weighed = ("reduction=calibrated", f"reduction.layer_sensitivity={kind}", "reduction.ratio=0.5", *CALIBRATION)
        done = outcome(checkpoint, tmp_path, *weighed)
        assert done.code == 0 and "sensitivity of the layers" in done.err, done.err
        row = jobs.rows(jobs.only(tmp_path, "results/reduce/*") / "rows.jsonl")[1]
        assert sum(row["orders"]) == 4 and row["layer_sensitivity"] == kind

    def test_calibrated_on_another_task(self, checkpoint: Path, tmp_path: Path) -> None:
        other = ("reduction=calibrated", "reduction.ratio=0.5", *CALIBRATION)
        same = rows(checkpoint, tmp_path, *other, "+reduction.calibration.task.name=digits")[1]
        (tmp_path / "own").mkdir()
        own = rows(checkpoint, tmp_path / "own", *other)[1]
        assert same["calibration"]["task"] == {"name": "digits"} and same["test_loss"] == pytest.approx(
            own["test_loss"], rel=1e-3
        )


@pytest.mark.slow
class TestTraining:
    START = ("reduction=bt_init", "reduction.order=2", "reduction.finetune.epochs=2")

    def test_trains_the_smaller_network_and_goes_on_after_a_stop(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, *self.START)[1]
        assert found["orders"] == [2, 2] and found["seconds_training"] > 0
        folder = jobs.only(tmp_path, "results/reduce/*/finetuned/*")
        epochs = [row for row in jobs.rows(folder / "metrics.jsonl") if row["event"] == "epoch"]
        assert [row["epoch"] for row in epochs] == [1, 2]
        shutil.rmtree(folder.parents[1] / "reduced")  # as if it had been stopped between the training and the saving
        again = outcome(checkpoint, tmp_path, *self.START)
        assert again.code == 0 and "Resuming from step 10" in again.err
        assert len(jobs.rows(folder / "metrics.jsonl")) == len(epochs), "nothing was trained twice"
        row = jobs.rows(jobs.only(tmp_path, "results/reduce/*") / "rows.jsonl")[1]
        assert row["test_accuracy"] == found["test_accuracy"]

    @pytest.mark.parametrize("option", ["rest=reinitialise", "distill=true"])
    def test_options(self, option: str, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, *self.START, f"reduction.finetune.{option}")[1]
        assert np.isfinite(found["test_loss"]) and found["orders"] == [2, 2]

    def test_layers_drawn_anew(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, "reduction=fresh", "reduction.order=2")[1]
        assert found["orders"] == [2, 2] and found["error_h2"] == []
        saved = load(jobs.only(tmp_path, "results/reduce/*/reduced/*")).weights["params"]
        full = load(checkpoint).weights["params"]
        np.testing.assert_array_equal(saved["decoder"]["kernel"], full["decoder"]["kernel"])
        old = full["encoder"]["layers_0"]["seq"]["Lambda_im"][:2]
        assert not np.allclose(saved["encoder"]["layers_0"]["seq"]["Lambda_im"], old)

    def test_rounds_end_at_the_ratio_asked_for(self, checkpoint: Path, tmp_path: Path) -> None:
        found = rows(checkpoint, tmp_path, "reduction=last", "reduction.ratio=0.5", "reduction.rounds=2",
                     "reduction.finetune.epochs=1")[1]  # fmt: skip
        assert sum(found["orders"]) == 4 and found["ratio_achieved"] == 0.5
