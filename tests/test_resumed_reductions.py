"""A reduction that was stopped, killed or damaged costs what is missing, and ends as one that was left alone."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest

from s5c import atomic
from s5c.pipeline import compress, parts, question, search
from s5c.report import rowfile
from s5c.training.checkpoint import load
from s5c.training.exclusive import exclusive

pytestmark = pytest.mark.usefixtures("without_figures")

THREE = ("reduction=last", "reduction.ratio=[0.25,0.5,0.75]")
NAMES = ["last-0.25", "last-0.5", "last-0.75"]
REUSED = "nothing is computed again"


class KilledError(BaseException):
    """Stands for whatever ends a process without a word: no handler of an exception sees it."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert jobs.run("train", "reduction=none", folder=folder).code == 0
    return jobs.only(folder, "results/trained/*")


@pytest.fixture(scope="module")
def alone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    assert jobs.run("reduce", f"checkpoint={trained}", *THREE, folder=folder).code == 0
    return jobs.only(folder, "results/reduce/*")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collects the label of every target that a network is reduced at."""
    labels: list[str] = []
    run = search.run

    def counted(context: Any, target: Any) -> Any:
        labels.append(target.label)
        return run(context, target)

    monkeypatch.setattr(search, "run", counted)
    yield labels


def reduce(trained: Path, folder: Path, *overrides: str) -> jobs.Outcome:
    return jobs.run("reduce", f"checkpoint={trained}", *overrides, folder=folder)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns rows without what no two runs have in common, and without folders."""
    times = ("timestamp", "command", "checkpoint", "parent", "checkpoint_bytes", "git")
    return [{k: v for k, v in row.items() if k not in times and not k.startswith("seconds")} for row in rows]


def assert_consistent(run: Path, folder: Path) -> None:
    """Every row names a whole network that answers as the row says."""
    if not (run / "rows.jsonl").exists():
        return
    for row in jobs.rows(run / "rows.jsonl"):
        if row["reduction"] == "full" or row["checkpoint"] is None:
            continue
        stored = load(folder / row["checkpoint"]).metadata
        assert stored["metrics"]["test_loss"] == row["test_loss"]
        assert stored["reduction"]["ratio"] == row["ratio_achieved"] and sum(stored["state_dims"]) == row["states"]


def assert_same(run: Path, alone: Path) -> None:
    assert untimed(jobs.rows(run / "rows.jsonl")) == untimed(jobs.rows(alone / "rows.jsonl"))
    ours, theirs = ({path.name for path in folder.iterdir()} - {"figures"} for folder in (run, alone))
    assert ours == theirs, "no rubbish, nothing missing"
    for name in ("spectra.npz", "correct.npz"):
        with np.load(run / name) as ours, np.load(alone / name) as theirs:
            assert set(ours) == set(theirs)
            assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)
    for name in NAMES:
        ours, theirs = (load(folder / "reduced" / name).metadata["checksum"]["weights"] for folder in (run, alone))
        assert ours == theirs


# ---- interrupted and killed


@pytest.mark.few(1)
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_stops_it_and_it_says_what_is_kept(
    number: str, trained: Path, alone: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = search.run

    def stopped(context: Any, target: Any) -> Any:
        if target.label == "0.75":
            signal.raise_signal(getattr(signal, number))
        return run(context, target)

    with monkeypatch.context() as patch:
        patch.setattr(search, "run", stopped)
        done = reduce(trained, tmp_path, *THREE)
    assert done.code == 130 and "Traceback" not in done.err
    said = " ".join(done.err.split())
    assert "2 of 3 reductions are kept in" in said and "last-0.25, last-0.5." in said
    assert ("Interrupted." if number == "SIGINT" else f"Stopped by {number}.") in said
    assert "same command goes on" in said
    run = jobs.only(tmp_path, "results/reduce/*")
    assert [row["ratio"] for row in jobs.rows(run / "rows.jsonl")] == [0.0, 0.25, 0.5], "a report finds them"
    assert_consistent(run, tmp_path)
    again = reduce(trained, tmp_path, *THREE)
    assert again.code == 0 and "2 of 3 reductions are there already" in again.err
    assert computed == ["0.25", "0.5", "0.75"]
    assert_same(run, alone)


MOMENTS: list[tuple[Any, str, bool]] = [
    (parts, "save_single", False),
    (parts, "save_single", True),
    (parts, "write_json", True),
    (parts, "put", False),
    (parts, "put", True),
    (atomic, "_flush", False),
    (compress, "save_arrays", False),
    (rowfile, "write_text", False),
    (rowfile, "write_text", True),
    (compress, "write_json", False),
]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("module", "name", "after"), MOMENTS, ids=lambda value: getattr(value, "__name__", str(value)).rpartition(".")[2]
)
@pytest.mark.parametrize(
    "rerun", [pytest.param(False, marks=pytest.mark.slow), True], ids=["in a first run", "in a second run"]
)
def test_killed_at_every_step_of_keeping_a_part(
    module: Any,
    name: str,
    after: bool,
    rerun: bool,
    trained: Path,
    alone: Path,
    tmp_path: Path,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a first run, and in one that makes everything again because the code was changed."""
    with monkeypatch.context() as patch:
        patch.setattr(question, "code", lambda: "new")
        if rerun:
            shutil.copytree(alone, tmp_path / "results/reduce" / alone.name)  # made by the code as it is
        step, calls = getattr(module, name), []

        def killed(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) < (3 if name != "write_json" or module is parts else 1):
                return step(*arguments, **options)
            if after:
                step(*arguments, **options)
            raise KilledError

        with monkeypatch.context() as kill:
            kill.setattr(module, name, killed)
            with pytest.raises(KilledError):
                reduce(trained, tmp_path, *THREE)
        run = jobs.only(tmp_path, "results/reduce/*")
        assert_consistent(run, tmp_path)
        if rerun:
            assert len(list(run.glob("reduced/*"))) == 3, "what was there stays until its successor is whole"
        done = reduce(trained, tmp_path, *THREE)
        assert done.code == 0, done.err
        assert_same(run, alone)
        assert len(computed) <= 4, "at most the target that was lost is computed twice"
        last = reduce(trained, tmp_path, *THREE)
        assert last.code == 0 and REUSED in last.err


def test_a_killed_process_leaves_no_rubbish(trained: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    shutil.rmtree(run / "reduced/last-0.5")
    (run / ".unfinished/last-0.5.orbax-checkpoint-tmp").mkdir(parents=True)
    (run / ".unfinished-1234-rows.jsonl").write_text("{")
    assert reduce(trained, tmp_path, *THREE).code == 0
    assert_same(run, alone)


# ---- what is there is not computed again


def test_nothing_is_computed_twice(trained: Path, tmp_path: Path, computed: list[str]) -> None:
    first = reduce(trained, tmp_path, *THREE)
    made = list(computed)
    run = jobs.only(tmp_path, "results/reduce/*")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.suffix != ".log"}
    again = reduce(trained, tmp_path, *THREE)
    assert made == computed == ["0.25", "0.5", "0.75"]
    assert REUSED in again.err and again.out == first.out and again.value == first.value
    for path in [path for path in before if path.name.startswith(".lock")]:
        del before[path]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()), "not even written again"


@pytest.mark.few(1)
@pytest.mark.parametrize("lost", ["reduced/last-0.5", "reduced/last-0.5/weights", "reduced/last-0.5/row.json"])
def test_only_what_is_lost_is_made_again(
    lost: str, trained: Path, alone: Path, tmp_path: Path, computed: list[str]
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    shutil.rmtree(run / lost) if (run / lost).is_dir() else (run / lost).unlink()
    done = reduce(trained, tmp_path, *THREE)
    assert done.code == 0 and computed == ["0.5"]
    assert ("is not whole" in done.err) == (lost != "reduced/last-0.5")
    assert_same(run, alone)


@pytest.mark.few(1)
@pytest.mark.parametrize("file", ["weights", "row.json", "arrays.npz"])
def test_a_damaged_part_is_noticed_and_made_again(
    file: str, trained: Path, alone: Path, tmp_path: Path, computed: list[str]
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    place = run / "reduced/last-0.75" / file
    if place.is_dir():
        place = max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(bytes(content))
    done = reduce(trained, tmp_path, *THREE)
    assert done.code == 0 and "last-0.75 is not whole" in done.err and computed == ["0.75"]
    assert_same(run, alone)


@pytest.mark.few(1)
@pytest.mark.parametrize("file", ["rows.jsonl", "correct.npz", "spectra.npz", "finished.json"])
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_what_is_made_from_the_parts_is_made_again_without_computing(
    file: str, how: str, trained: Path, alone: Path, tmp_path: Path, computed: list[str]
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    content = bytearray((run / file).read_bytes())
    content[len(content) // 2] ^= 0x80
    (run / file).unlink()
    if how == "changed":
        (run / file).write_bytes(bytes(content))
    assert reduce(trained, tmp_path, *THREE).code == 0 and computed == []
    assert_same(run, alone)


def test_a_model_of_another_run_is_not_taken_for_its_own(
    trained: Path, alone: Path, tmp_path: Path, computed: list[str]
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    shutil.rmtree(run / "reduced/last-0.5")
    shutil.copytree(alone / "reduced/last-0.25", run / "reduced/last-0.5")
    assert reduce(trained, tmp_path, *THREE).code == 0 and computed == ["0.5"]
    assert_same(run, alone)


def test_changed_code_makes_everything_again_in_the_same_folder(
    trained: Path, alone: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(alone, tmp_path / "results/reduce" / alone.name)
    monkeypatch.setattr(question, "code", lambda: "edited")
    done = reduce(trained, tmp_path, *THREE)
    assert done.code == 0 and computed == ["0.25", "0.5", "0.75"]
    assert "from another version of the code: it is made again" in done.err
    assert_same(jobs.only(tmp_path, "results/reduce/*"), alone)


@pytest.mark.slow
def test_models_that_are_not_to_be_saved_stay_until_their_times_are_measured(
    trained: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*THREE, "reduction.save=false", "evaluation.latency=true", "evaluation.rounds=1")
    with monkeypatch.context() as patch:
        patch.setattr(compress, "measure", interrupt)
        stopped = reduce(trained, tmp_path, *options)
    assert stopped.code == 130 and "3 of 3 reductions are kept" in " ".join(stopped.err.split())
    run = jobs.only(tmp_path, "results/reduce/*")
    assert {row["latency_ms"] for row in jobs.rows(run / "rows.jsonl")} == {None}
    assert reduce(trained, tmp_path, *options).code == 0
    assert computed == ["0.25", "0.5", "0.75"]
    rows = jobs.rows(run / "rows.jsonl")
    assert all(row["latency_ms"] > 0 and row["checkpoint"] is None for row in rows[1:])
    assert not (run / "reduced").exists() and not list(run.rglob("weights"))
    assert REUSED in reduce(trained, tmp_path, *options).err
    # On another device all of them are timed again; for that they are made again, and go again.
    device = "another device"
    monkeypatch.setattr("s5c.pipeline.provenance.device_name", lambda: device)
    monkeypatch.setattr("s5c.evaluation.cost.device_name", lambda: device)
    assert reduce(trained, tmp_path, *options).code == 0 and len(computed) == 6
    assert {row["latency_device"] for row in jobs.rows(run / "rows.jsonl")} == {device}
    assert not list(run.rglob("weights"))


@pytest.mark.slow
def test_times_are_measured_afterwards_without_reducing_again(
    trained: Path, alone: Path, tmp_path: Path, computed: list[str]
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    for rounds, again in ((1, False), (1, True), (2, False)):
        done = reduce(trained, tmp_path, *THREE, "evaluation.latency=true", f"evaluation.rounds={rounds}")
        assert done.code == 0 and ("Measuring latency of 4 networks" in done.err) != again
        assert (REUSED in done.err) == again
    measured = jobs.rows(run / "rows.jsonl")
    assert computed == [] and all(row["latency_ms"] > 0 and row["speedup"] > 0 for row in measured)
    assert REUSED in reduce(trained, tmp_path, *THREE).err
    assert jobs.rows(run / "rows.jsonl") == measured, "they stay where none are asked for"


@pytest.mark.slow
def test_a_search_goes_on_behind_what_it_has_found(
    trained: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("reduction=last", "reduction.max_drop=3")
    (tmp_path / "alone").mkdir()
    assert reduce(trained, tmp_path / "alone", *options).code == 0
    searched, found = computed[: search.SEARCH_STEPS], list(computed)
    assert len(set(searched)) == search.SEARCH_STEPS and len(found) <= search.SEARCH_STEPS + 1
    computed.clear()
    recall = search.Memory.recall

    def killed(self: search.Memory, ratio: float, measure: Callable[[], float]) -> float:
        if len(computed) == 3:
            raise KilledError
        return recall(self, ratio, measure)

    with monkeypatch.context() as patch:
        patch.setattr(search.Memory, "recall", killed)
        with pytest.raises(KilledError):
            reduce(trained, tmp_path, *options)
    assert reduce(trained, tmp_path, *options).code == 0
    assert computed == found, "no step is taken twice"
    assert REUSED in reduce(trained, tmp_path, *options).err and computed == found
    rows = [jobs.rows(jobs.only(folder, "results/reduce/*/rows.jsonl")) for folder in (tmp_path, tmp_path / "alone")]
    assert untimed(rows[0]) == untimed(rows[1])


def test_a_full_disk_costs_the_part_that_was_being_written(
    trained: Path, alone: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = parts.save_single

    def full(path: Path, **items: Any) -> Path:
        if path.name == "last-0.5":
            raise OSError(28, "No space left on device", str(path))
        return save(path, **items)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "save_single", full)
        done = reduce(trained, tmp_path, *THREE)
    assert done.code == 1 and "No space left" in done.err and "Traceback" not in done.err
    run = jobs.only(tmp_path, "results/reduce/*")
    assert [path.name for path in run.glob("reduced/*")] == ["last-0.25"] and not list(run.glob(".unfinished*"))
    assert reduce(trained, tmp_path, *THREE).code == 0 and computed == ["0.25", "0.5", "0.5", "0.75"]
    assert_same(run, alone)


@pytest.mark.slow
def test_a_sweep_costs_what_is_missing(trained: Path, tmp_path: Path, computed: list[str]) -> None:
    for ratios, made in (("0.25,0.5", ["0.25", "0.5"]), ("0.25,0.5,0.75", ["0.75"])):
        computed.clear()
        sweep = ("-m", f"checkpoint={trained}", "reduction=last", f"reduction.ratio={ratios}")
        done = jobs.run("reduce", *sweep, folder=tmp_path)
        assert done.code == 0 and computed == made, done.err
    assert len(list(tmp_path.glob("results/reduce/*/rows.jsonl"))) == 3


# ---- one writer


def test_the_second_process_waits_and_reuses(
    trained: Path, alone: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "results/reduce" / alone.name
    shutil.copytree(alone, run)
    held, waiting, said = threading.Event(), threading.Event(), []

    def hold() -> None:
        with exclusive(run, "holds it"):
            held.set()
            assert waiting.wait(60)

    def info(text: str, *values: Any) -> None:
        said.append(text % values)
        waiting.set()

    monkeypatch.setattr(logging.getLogger("s5c.training.exclusive"), "info", info)
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    done = reduce(trained, tmp_path, *THREE)
    holder.join()
    assert done.code == 0 and REUSED in done.err and computed == []
    assert said == [f"Process {os.getpid()} is at work here ({run}) on {platform.node()}; waiting for it."]


@pytest.mark.slow
def test_two_at_once(trained: Path, alone: Path, tmp_path: Path) -> None:
    command = (f"checkpoint={trained}", *THREE)
    both = [jobs.spawn("reduce", *command, folder=tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0], "the same table"
    run = jobs.only(tmp_path, "results/reduce/*")
    events = [row["event"] for row in jobs.rows(run / "metrics.jsonl")]
    assert events.count("reduced") == 3, "each of them once"
    assert_same(run, alone)


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_the_record_has_every_reduction_once(alone: Path) -> None:
    rows = jobs.rows(alone / "metrics.jsonl")
    assert [row["event"] for row in rows].count("reduced") == 3
    assert json.loads((alone / "finished.json").read_text())["records"] == ["disabled"]
