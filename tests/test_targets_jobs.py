"""Whole jobs on targets of every step: trained, reduced, reported, stored and found again in the task's own metric."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import own_data
import pytest
from jobs import run
from networks import network
from scipy import signal

import s5c
from s5c.data.batching import train_batches
from s5c.pipeline.loaded import input_spec
from s5c.report.collect import collect


def wiener_hammerstein(folder: Path, n: int = 120, length: int = 64, seed: int = 0) -> None:
    """Writes a second-order filter, a saturation, and a filter of order one, driven by noise, in units of its own."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, length))
    first, second = signal.butter(2, 0.25), signal.butter(1, 0.4)
    y = signal.lfilter(*second, np.tanh(1.5 * signal.lfilter(*first, u, axis=1)), axis=1)
    folder.mkdir()
    np.savez(folder / "data.npz", inputs=u, targets=20 + 5 * y)


TINY = (
    *("task=arrays", "task.data_dir=data", "task.cache_dir=cache", "model.n_layers=2", "model.d_model=6"),
    *("model.state_size=16", "train.epochs=3", "train.batch_size=16", "train.ssm_lr=0.005", "name=system"),
    *("reduction.calibration.sequences=32",),
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for every step of a simulated system, pruned at two ratios with a readout solved again."""
    folder = tmp_path_factory.mktemp("system")
    wiener_hammerstein(folder / "data")
    done = run("train", *TINY, "reduction=calibrated", "reduction.ratio=[0.25,0.75]", folder=folder)
    assert done.code == 0, done.err
    assert "selection RMSE" in done.err and "RMSE" in done.out and "accuracy" not in done.err + done.out
    (folder / "merit").write_text(str(done.value))
    return folder


@pytest.mark.slow
def test_a_job_is_in_the_metric_of_its_task_from_end_to_end(system: Path) -> None:
    found = {row["ratio"]: row for row in collect([system / "results"])}
    full = found[0.0]
    assert full["metric"] == "rmse" and "classes" not in full and "test_accuracy" not in full
    assert full["test_rmse"] < 3.5 and full["agreement"] == pytest.approx(1)
    for row in (found[0.25], found[0.75]):
        assert row["test_rmse_full"] == full["test_rmse"] and 0 < row["points_lost_se"] < 50
    assert found[0.25]["agreement"] > found[0.75]["agreement"] > 0.3
    assert float((system / "merit").read_text()) == -found[0.75]["val_rmse"]
    epochs = [json.loads(line) for line in next(system.rglob("trained/*/metrics.jsonl")).read_text().splitlines()]
    best = min(row["selection_rmse"] for row in epochs if row["event"] == "epoch")
    assert found[0.0]["val_rmse"] == pytest.approx(best, rel=1e-5)
    report = run("report", "runs=results", "html=true", folder=system)
    assert (report.code == 0 and (system / "results/report/accuracy_vs_ratio.csv").is_file()) or report.out
    (page,) = system.rglob("report.html")
    assert '"Test RMSE (lower is better)"' in page.read_text()


@pytest.mark.slow
def test_a_stored_network_answers_in_its_units_and_knows_its_data(system: Path) -> None:
    trained = min(system.glob("results/trained/*"), key=lambda path: path.stat().st_mtime)
    model = s5c.load(trained)
    assert model.facts["data_schema"]["answers"] == "values per step" and model.facts["metric"] == "rmse"
    with np.load(system / "data/data.npz") as stored:
        x, y = stored["inputs"], stored["targets"]
    scores = model.evaluate(x, y)
    assert scores.rmse < 3.5  # type: ignore[union-attr]
    small = s5c.reduce(model, "bt", max_drop=1e4, validation=(x, y))
    assert small.states <= 2 + model.states // 8
    with pytest.raises(s5c.UserError, match="needs a task"):
        s5c.reduce(model, "last", ratio=0.5, finetune={"epochs": 1})


@pytest.mark.slow
def test_a_network_is_tested_on_other_data_in_its_own_units(system: Path) -> None:
    trained = min(system.glob("results/trained/*"), key=lambda path: path.stat().st_mtime)
    wiener_hammerstein(system / "other", seed=1)
    with np.load(system / "other/data.npz") as stored:
        arrays = dict(stored)
    np.savez(system / "other/data.npz", inputs=3 * arrays["inputs"], targets=arrays["targets"])
    done = run("evaluate", f"checkpoint={trained}", "+task.data_dir=other", "+task.metric=mae", folder=system)
    assert done.code == 0 and "The data differs" in done.err and "MAE" in done.out, done.err
    model = s5c.load(trained)
    row = next(row for row in collect([system / "results"]) if row["metric"] == "mae")
    whole = model.evaluate(3 * arrays["inputs"], arrays["targets"])
    assert row["test_mae"] == pytest.approx(whole.mae, rel=0.3)  # type: ignore[union-attr]
    np.savez(system / "other/data.npz", inputs=np.ones((9, 5, 2)), targets=np.ones((9, 5)))
    refused = run("evaluate", f"checkpoint={trained}", "+task.data_dir=other", folder=system)
    assert refused.code == 1 and "expects inputs" in refused.err


@pytest.mark.slow
def test_the_order_of_a_simulated_system_is_found(system: Path) -> None:
    """The largest ratio at which the RMSE grows by no more than 10 %: most of 16 + 16 stored states are redundant."""
    keys = ("reduction=calibrated", "reduction.max_drop=10", "train.epochs=40", "reduction.calibration.sequences=64")
    done = run("train", *TINY, *keys, folder=system)
    assert done.code == 0, done.err
    assert "% of validation RMSE" in done.err
    row = next(row for row in collect([system / "results"]) if row.get("max_drop") == 10)
    assert row["val_rmse"] <= 1.1 * next(
        one["val_rmse"] for one in collect([system / "results"]) if one["trained_id"] == row["trained_id"]
    )
    assert 3 <= row["states"] <= 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ("reduction=last", "reduction.ratio=0.5", "reduction.finetune.epochs=1", "reduction.finetune.distill=true"),
        ("reduction=calibrated", "reduction.ratio=0.5", "reduction.layer_sensitivity=gradient"),
        ("reduction=calibrated", "reduction.ratio=0.5", "reduction.layer_sensitivity=measured"),
        ("reduction=lqo", "reduction.ratio=0.5"),
    ],
)
def test_every_stage_works_on_targets(keys: tuple[str, ...], system: Path) -> None:
    trained = min(system.glob("results/trained/*"), key=lambda path: path.stat().st_mtime)
    few = ("reduction.calibration.sequences=32",) if "reduction=calibrated" in keys else ()
    given = (*keys, f"checkpoint={trained}", *few)
    done = run("reduce", *given, folder=system)
    assert done.code == 0, done.err
    assert done.value < 0


@pytest.mark.slow
def test_long_sequences_of_many_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    """Sequences as long as EigenWorms' pass through one step of a training, unequal ones too."""
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    inputs = rng.normal(size=(8, 17_984, 6)).astype(np.float32)
    np.savez(tmp_path / "raw/train.npz", inputs=inputs, y=np.arange(8) % 2, lengths=np.full(8, 17_984) - np.arange(8))
    np.savez(tmp_path / "raw/test.npz", inputs=inputs[:2], y=np.arange(2))
    dataset = own_data.load(tmp_path, validation_fraction=0.25)
    assert (dataset.length, dataset.features) == (17_984, 6)
    given = next(train_batches(dataset.train, 2, seed=0, epoch=0))
    model = network(input_spec(dataset), n_layers=1)
    weights = jax.jit(model.init)(jax.random.key(0), jnp.asarray(given.inputs[:, :8]), jnp.asarray(given.lengths))
    assert np.isfinite(model.apply(weights, jnp.asarray(given.inputs), jnp.asarray(given.lengths))).all()
