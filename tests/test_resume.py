"""A training that was killed, stopped, damaged or out of disk space ends exactly as one that was left alone."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import orbax.checkpoint as ocp
import pytest

from s5c.training.checkpoint import CheckpointStore, load
from s5c.training.integrity import on_host
from s5c.training.interrupt import StopRequest

EPOCHS = ("train.epochs=8", "reduction=none")  # 8 epochs of 5 steps
EVERY_STEP = "train.checkpoint_minutes=0"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    assert jobs.run("train", *EPOCHS, folder=folder).code == 0
    return jobs.only(folder, "results/trained/*")


def state_of(trained: Path) -> dict[str, np.ndarray]:
    """Returns weights and optimiser state of the last step as they lie on disk, by name."""
    latest = load(trained, which="latest")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        training = reader.restore(latest.path / "training")
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(latest.weights)}
    return {"step": np.asarray(latest.step), **leaves, **training}


def record_of(trained: Path) -> list[dict[str, Any]]:
    """Returns the rows of the record without what no two runs have in common: times."""
    untimed = []
    for row in jobs.rows(trained / "metrics.jsonl"):
        row["metadata"] = {key: value for key, value in row.get("metadata", {}).items() if key != "seconds"}
        untimed.append({key: value for key, value in row.items() if key not in ("time", "seconds")})
    return untimed


def assert_same(trained: Path, alone: Path) -> None:
    ours, theirs = on_host(state_of(trained)), on_host(state_of(alone))
    assert ours.keys() == theirs.keys() and any("mu" in name for name in ours), "the optimiser's moments are compared"
    assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert record_of(trained) == record_of(alone)
    assert load(trained).metadata["epoch"] == load(alone).metadata["epoch"]


def start_and_await(folder: Path, happened: Callable[[Path], bool], *arguments: str) -> subprocess.Popen[str]:
    """Starts the training in a process and returns as soon as `happened(training folder)`."""
    process = jobs.spawn("train", *EPOCHS, *arguments, folder=folder)
    deadline = time.monotonic() + 240
    while not any(happened(trained) for trained in folder.glob("results/trained/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def step_reached(step: int) -> Callable[[Path], bool]:
    return lambda trained: any((trained / "checkpoints" / str(n)).is_dir() for n in range(step, step + 5))


def epoch_logged(trained: Path) -> bool:
    return (trained / "metrics.jsonl").exists() and "epoch" in (trained / "metrics.jsonl").read_text()


def finish(folder: Path) -> Path:
    """Gives the same command again, in this process; returns the training folder."""
    done = jobs.run("train", *EPOCHS, folder=folder)
    assert done.code == 0, done.err
    assert "Resuming from step" in done.err
    return jobs.only(folder, "results/trained/*")


@pytest.mark.slow
def test_killed_again_and_again(alone: Path, tmp_path: Path) -> None:
    """Twice amid an epoch, with a checkpoint of every step, and once while only epochs are saved."""
    for step, arguments in ((2, (EVERY_STEP,)), (8, (EVERY_STEP,)), (15, ())):
        process = start_and_await(tmp_path, step_reached(step), *arguments)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("results/trained/*/trained.json"))
    assert_same(finish(tmp_path), alone)


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGINT, *SLOW])
@pytest.mark.slow
def test_stopped_on_request(number: signal.Signals, alone: Path, tmp_path: Path) -> None:
    process = start_and_await(tmp_path, epoch_logged)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped " in err and "saved in" in err and "same command goes on" in err and "Traceback" not in err
    assert not list(tmp_path.glob("results/trained/*/trained.json"))
    assert_same(finish(tmp_path), alone)


def test_the_second_ctrl_c_is_not_swallowed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


class DisturbedError(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.slow
def test_damaged_latest_checkpoint(alone: Path, tmp_path: Path) -> None:
    trained = tmp_path / "results/trained" / alone.name
    shutil.copytree(alone, trained)
    (trained / "trained.json").unlink()
    latest = load(trained, which="latest").path
    array = max((file for file in (latest / "training").rglob("*") if file.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(bytes(content))
    done = jobs.run("train", *EPOCHS, folder=tmp_path)
    assert done.code == 0, done.err
    assert "damaged" in done.err and "trying the step before it" in done.err
    assert "Resuming from step 35" in done.err
    assert_same(trained, alone)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.slow
def test_disk_full_while_saving(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on file sizes fails writes as a full disk does, and needs neither root nor a file system to fill."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = CheckpointStore.save

    def limited(self: CheckpointStore, step: int, **items: Any) -> None:
        if step > 12:
            self.wait()  # the save of step 10 goes on in the background
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        save(self, step, **items)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", limited)
        try:
            done = jobs.run("train", *EPOCHS, folder=tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == 1 and "Traceback" not in done.err
    assert "Saving a checkpoint failed" in done.err and "same command again" in done.err
    assert "last good checkpoint is step 10" in " ".join(done.err.split())
    assert_same(finish(tmp_path), alone)


@pytest.mark.slow
def test_death_between_the_record_and_the_checkpoint(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of an epoch is written before its checkpoint: a resumed training must not leave it there twice."""
    save = CheckpointStore.save

    def dies(self: CheckpointStore, step: int, **items: Any) -> None:
        if step == 15:
            raise DisturbedError
        save(self, step, **items)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", dies)
        with pytest.raises(DisturbedError):
            jobs.run("train", *EPOCHS, folder=tmp_path)
    (trained,) = tmp_path.glob("results/trained/*")
    assert [row["step"] for row in jobs.rows(trained / "metrics.jsonl")] == [5, 10, 15]
    with (trained / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')  # and the machine lost the end of a line
    assert_same(finish(tmp_path), alone)
