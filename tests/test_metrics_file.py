"""`metrics.jsonl`: what is written comes back, and killed runs leave a record that can be continued."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s5c.errors import UserError
from s5c.tracking.metrics import read_metrics, truncate_after
from s5c.tracking.run import Run


def record(folder: Path) -> Run:
    return Run(folder, config={}, mode="disabled", name="n", group="g", job_type="train")


def test_values_come_back(tmp_path: Path) -> None:
    import jax.numpy as jnp

    values = {"a": np.float32(0.5), "b": jnp.asarray(2), "c": jnp.asarray(0.5, jnp.bfloat16), "d": float("inf")}
    with record(tmp_path) as run:
        run.log({**values, "e": np.arange(2)}, step=3, event="probe")
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row.pop("time") > 1.7e9
    assert row == {"event": "probe", "step": 3, "a": 0.5, "b": 2, "c": 0.5, "d": math.inf, "e": [0, 1]}


def test_reserved_names_and_foreign_types_are_refused(tmp_path: Path) -> None:
    run = record(tmp_path)
    with pytest.raises(ValueError, match="step"):
        run.log({"step": 1.0})
    with pytest.raises(TypeError, match="object"):
        run.log({"loss": object()})
    assert not run.metrics_file.exists()


def test_a_killed_process_loses_nothing_that_was_logged(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from s5c.tracking.run import Run
run = Run(pathlib.Path(sys.argv[1]), config={}, mode="disabled", name="n", group="g", job_type="train")
for step in range(5):
    run.log({"loss": 1.0}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(5))


def test_resumed_record_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def train(folder: Path, steps: range) -> None:
        with record(folder) as run:
            for step in steps:
                run.log({"loss": 1 / step}, step=step)
                if step % 2 == 0:
                    run.log({"checkpoint": step}, event="saved")

    train(tmp_path / "whole", range(1, 8))
    train(tmp_path / "killed", range(1, 7))
    file = tmp_path / "killed/metrics.jsonl"
    file.write_text(file.read_text() + '{"event": "metr')
    truncate_after(file, 4)
    train(tmp_path / "killed", range(5, 8))
    whole, resumed = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    for row in whole + resumed:
        del row["time"]
    assert resumed == whole
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["metrics.jsonl"]


def test_truncation_keeps_lines_byte_for_byte_and_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [
        '{"event":"start","step":null}',
        '{"step":1,  "loss":NaN}',
        '{"step":null}',
        '{"step":2}',
        '{"step":null}',
    ]
    file.write_text("\n".join(lines))
    file.chmod(0o640)
    truncate_after(file, 1)
    assert file.read_text().splitlines() == lines[:3]
    assert file.stat().st_mode & 0o777 == 0o640
    inode = file.stat().st_ino
    truncate_after(file, 1)
    assert file.stat().st_ino == inode  # nothing to drop, nothing written
    truncate_after(tmp_path / "absent.jsonl", 1)


@pytest.mark.parametrize("tail", ['{"event": "metrics", "st', '{"step": 2', "3", "\0\0"])
def test_half_written_last_line(tmp_path: Path, tail: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n' + tail)
    assert read_metrics(file) == [{"step": 1}]
    with record(tmp_path) as run:
        run.log({"loss": 1.0}, step=2)
    assert [row["step"] for row in read_metrics(file)] == [1, 2]


def test_a_complete_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}')
    with record(tmp_path) as run:
        run.log({"loss": 1.0}, step=2)
    assert [row["step"] for row in read_metrics(file)] == [1, 2]


def test_damage_elsewhere_is_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(file)
    with pytest.raises(UserError, match="does not exist"):
        read_metrics(tmp_path / "absent.jsonl")
