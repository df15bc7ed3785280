"""The command line as a person meets it: names of run folders, streams, exit codes, interruptions."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest

from s5c import train
from s5c.cli import run_name
from s5c.training.interrupt import Interrupted


class TestRunName:
    def test_depends_on_what_was_overridden_and_not_on_the_order(self) -> None:
        assert run_name(["seed=1", "reduction.ratio=0.5"]) == run_name(["reduction.ratio=0.5", "seed=1"])
        assert run_name(["reduction.ratio=0.5", "seed=1"]) == "reduction.ratio-0.5+seed-1"
        assert run_name(["seed=1"]) != run_name(["seed=2"])

    def test_leaves_out_what_does_not_tell_runs_apart(self) -> None:
        everywhere = ["+experiment=digits_last", "name=x", "wandb=offline", "wandb.mode=auto", "results_dir=/r"]
        assert run_name([*everywhere, "checkpoint=/a/b"]) == "run"

    def test_is_a_short_plain_folder_name(self) -> None:
        many = [f"reduction.ratio=[{','.join(str(i / 10) for i in range(n))}]" for n in (9, 90, 91)]
        names = [run_name([value, "+task.path=/a b/c"]) for value in many]
        assert len(set(names)) == 3
        for name in names:
            assert len(name) <= 100 and not set(name) & set("=/ [],{}:'")


def test_results_on_stdout_messages_on_stderr_both_plain_in_a_pipe(tmp_path: Path) -> None:
    """The only test that starts the main job as a person does."""
    process = jobs.spawn("train", folder=tmp_path)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "unpruned" in out and "last" in out and "Run folder: " in out
    assert "Training s5 on digits [source=uci-digits (embedded)]: 2 epochs of 5 steps" in err
    assert "Reproduce: python -m s5c.train model.n_layers=2" in out
    assert "\x1b" not in out + err and "\r" not in out + err
    assert "Warning" not in err and "Traceback" not in err
    assert Path(out.rsplit("Run folder: ", 1)[1].strip()).is_dir()


def test_the_whole_composed_configuration_is_printed(tmp_path: Path) -> None:
    err = " ".join(jobs.run("train", "train.batch_size=5000", folder=tmp_path).err.split())
    for key in ("validation_seed=0", "activation=half_glu1", "dt_global=False", "tags=[]", "protocol: validation"):
        assert key in err


@pytest.mark.parametrize(
    ("stop", "said"), [(Interrupted("Saved."), "Saved.\nThe same command"), (KeyboardInterrupt(), "kept")]
)
def test_interruption_is_status_130_and_says_how_to_go_on(
    stop: BaseException, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "obtain", raising(stop))
    done = jobs.run("train", folder=tmp_path)
    assert done.code == 130
    assert said in done.err and "same command goes on" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_trouble_with_the_disk_is_one_message(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "obtain", raising(OSError(number, os.strerror(number), "/results/rows.jsonl")))
    done = jobs.run("train", folder=tmp_path)
    assert done.code == 1
    assert f"Error: {os.strerror(number)}: /results/rows.jsonl." in done.err
    assert "results_dir=" in done.err and "same command again" in done.err and "Traceback" not in done.err


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "obtain", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        jobs.run("train", folder=tmp_path)


def test_traceback_on_request(tmp_path: Path) -> None:
    process = jobs.spawn("train", "seed=abc", folder=tmp_path, env={**os.environ, "HYDRA_FULL_ERROR": "1"})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" in err and "s5c.errors.UserError: seed='abc'" in err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_waiting_for_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*args: Any, **kwargs: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "obtain", wait)
    done = jobs.run("train", folder=tmp_path)
    assert done.code == 130 and "Interrupted." in done.err


def raising(error: BaseException) -> Any:
    """Returns a function that raises `error` whatever it is called with."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail
