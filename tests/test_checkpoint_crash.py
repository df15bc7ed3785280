"""A run killed at any moment or out of disk space resumes from its last checkpoint."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s5c.training.checkpoint import CheckpointStore, load

WRITER = """
import sys
from pathlib import Path
import numpy as np
from s5c.training.checkpoint import CheckpointStore

state = {"opt": np.zeros(30_000, np.float32), "step": np.int32(0)}
with CheckpointStore(Path(sys.argv[1])) as store:
    restored = store.restore_training(state)
    step = restored[0].step if restored else 0
    print("ready", step, flush=True)
    while True:
        step += 1
        weights = {"params": {"w": np.full(30_000, step, np.float32)}}
        training = {"opt": np.full(30_000, -step, np.float32), "step": np.int32(step)}
        store.save(step, weights=weights, training=training, metadata={}, score=float(-step % 7))
        print(step, flush=True)
"""


def test_kill_at_any_moment_leaves_an_intact_step(tmp_path: Path, caplog: Any) -> None:
    state, previous = {"opt": np.zeros(30_000, np.float32), "step": np.int32(0)}, 0
    for seed in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == f"ready {previous}\n"
        while int(writer.stdout.readline()) < previous + 3:  # two saves later than the first, one is on disk for sure
            pass
        time.sleep(random.Random(seed).uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        last = [previous + 3, *map(int, writer.communicate()[0].split())][-1]
        with CheckpointStore(tmp_path) as store:
            checkpoint, training = store.restore_training(state)
        previous = checkpoint.step
        assert last - 1 <= previous <= last + 1  # the save in flight may be lost, nothing else
        np.testing.assert_array_equal(checkpoint.weights["params"]["w"], previous)
        np.testing.assert_array_equal(training["opt"], -previous)
        assert training["step"] == previous
    assert "damaged" not in caplog.text
    assert load(tmp_path).metadata["score"] == 6.0


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from s5c.errors import UserError
from s5c.training.checkpoint import CheckpointStore, save_single

folder = Path(sys.argv[1])
def content(step, size):
    noise = np.random.default_rng(step).normal(size=size)
    return {"weights": {"params": {"w": noise}}, "training": {"m": noise}, "metadata": {}, "score": float(step)}

with CheckpointStore(folder / "checkpoints", keep_latest=1) as store:
    store.save(1, **content(1, 1000), wait=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        store.save(2, **content(2, 50_000))
        store.wait()
    except UserError as error:
        print(error, flush=True)
    try:
        save_single(folder / "single", weights={"params": {"w": np.random.normal(size=50_000)}}, metadata={})
    except UserError as error:
        print(error, flush=True)
    assert [p.name for p in folder.iterdir()] == ["checkpoints"], list(folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    checkpoint, training = store.restore_training({"m": np.zeros(1000)})
    assert checkpoint.step == 1 and np.array_equal(training["m"], content(1, 1000)["training"]["m"])
    assert store.best().step == 1
    store.save(2, **content(2, 50_000), wait=True)
    assert store.best().step == 2
    print("resumed", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_failed_write_names_the_folder_and_keeps_the_last_step(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"Saving a checkpoint failed: {tmp_path}/checkpoints has reached its file size limit" in done.stdout
    assert "The last good checkpoint is step 1." in done.stdout
    assert "same command again" in done.stdout
    assert f"Saving {tmp_path}/single failed: {tmp_path} has reached its file size limit" in done.stdout
    assert done.stdout.endswith("resumed\n")


def test_orbax_is_quiet(tmp_path: Path) -> None:
    code = (
        "import logging, sys, numpy as np; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
        "from s5c.training.checkpoint import CheckpointStore, load\n"
        "with CheckpointStore(Path(sys.argv[1])) as store:\n"
        "    store.save(1, weights={'params': {'w': np.ones(3)}}, training=None, metadata={}, score=1.0)\n"
        "load(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "orbax" not in done.stderr.lower() and "absl" not in done.stderr
    assert json.loads((tmp_path / "1" / "metadata" / "metadata").read_text())["score"] == 1.0
