"""The line of stages: its order, its clock, and that a new axis is one file and one key, with all that others have."""

from __future__ import annotations

import importlib
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import pytest
from test_axes import composed, trained

import s5c
from s5c import axes, lookup
from s5c.config import reduction_job
from s5c.errors import UserError
from s5c.keys import EvaluationKeys
from s5c.locations import conf_dir
from s5c.model import surgery
from s5c.pipeline import clock as clocks
from s5c.pipeline import stage as package
from s5c.pipeline.clock import CALIBRATION, REDUCTION, TRAINING, Clock
from s5c.pipeline.context import Context
from s5c.pipeline.line import Stage, run, stages
from s5c.pipeline.question import ask
from s5c.pipeline.stage import choose
from s5c.reduction.target import Target
from s5c.report.arms import identity

PLANTS = Path(__file__).parent / "planted"


def job(preset: str, **settings: Any) -> axes.ReductionJob:
    return reduction_job({**composed(preset, {}), **settings}, (preset, composed(preset, {})))


def names(found: axes.ReductionJob) -> list[str]:
    return [type(stage).__module__.rpartition(".")[2] for stage in stages(found)]


# ---- the line


def test_a_network_passes_through_the_stages_that_its_method_needs() -> None:
    behind = ["refit", "normalise", "readout", "measure", "train", "precision"]
    assert names(job("last")) == ["features", "choose", "take", *behind]
    assert names(job("bt")) == ["features", "choose", "project", *behind]
    assert names(job("fresh")) == ["choose", "fresh", "train", "precision"]
    assert names(job("unstructured_random")) == ["mask"]


def test_every_stage_is_a_file_that_explains_itself_and_no_two_have_a_key_in_common() -> None:
    found = axes.find()
    assert {axis.__module__.rpartition(".")[2] for axis in found} == {*package.LINE, "search", "calibration"}
    keys = [axis.key(field) for axis in found for field in axis.fields()]
    assert len(keys) == len(set(keys))
    for axis in found:
        assert axis.__doc__ and all(f"{field}: " in axis.__doc__ for field in axis.fields()), axis


def test_nothing_above_the_stages_knows_their_keys() -> None:
    """What a new axis would have to be written into: the schema, the refusals, the rows, the ways in."""
    above = ("keys", "axes", "api", "given", "presets", "reduce", "train", "pipeline/compress", "pipeline/row")
    text = {name: (Path(s5c.__file__).parent / f"{name}.py").read_text("utf-8") for name in above}
    text["axes"] = text["axes"].partition("LISTED_FIRST = ")[0] + text["axes"].partition("SHARES = ")[2]
    keys = {"sequential", "layer_sensitivity", "lr_scale", "distill", "recalibrate", "reinitialise"}
    found = {(name, key) for name in above for key in keys if f'"{key}"' in text[name] or f".{key}" in text[name]}
    assert not found


def test_what_all_targets_share_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    rank = choose.stage.rank

    def ranked(*given: Any, **options: Any) -> Any:
        made.append("ranking")
        return rank(*given, **options)

    monkeypatch.setattr(choose.stage, "rank", ranked)
    context = Context(trained(), job("last"), Path("nowhere"))
    first, second = (run(context, Target("ratio", ratio)) for ratio in (0.25, 0.5))
    assert made == ["ranking"] and sum(first.orders) > sum(second.orders)


# ---- the clock


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(clocks, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    yield passes


def test_what_runs_inside_of_something_else_counts_alone_and_what_is_shared_for_each(tick: Any) -> None:
    clock = Clock()
    tick(100)
    with clock.counting(REDUCTION):
        tick(1)
        with clock.counting(REDUCTION, shared=True):
            tick(2)
            with clock.counting(CALIBRATION, shared=True):
                tick(4)
        with clock.counting(None):
            tick(8)
        with clock.counting(TRAINING):
            tick(16)
        tick(32)
    assert clock.read() == {REDUCTION: 35.0, CALIBRATION: 4.0, TRAINING: 16.0}
    tick(64)
    with clock.counting(TRAINING):
        tick(128)
    assert clock.read() == {REDUCTION: 2.0, CALIBRATION: 4.0, TRAINING: 128.0}


def test_every_stage_runs_on_its_clock(tick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(trained(), job("last"), Path("nowhere"))
    for seconds, stage in zip((0.5, 1, 2, 4, 8, 16, 32, 64, 128), stages(context.job), strict=True):

        def applied(self: Stage, network: Any, _: Context, seconds: float = seconds) -> Any:
            tick(seconds)
            return network

        monkeypatch.setattr(type(stage), "apply", applied)
    found = run(context, Target("ratio", 0.5)).seconds
    counted = {REDUCTION: 0.5 + 1 + 2 + 4 + 128, CALIBRATION: 8 + 16, TRAINING: 64}
    assert found == counted, "measuring, 32, counts nowhere"


# ---- a new axis


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Adds a folder with a stage from outside, as a user does."""
    with monkeypatch.context() as patch:
        patch.setenv(lookup.VARIABLE, os.pathsep.join([os.environ[lookup.VARIABLE], str(PLANTS)]))
        yield
    axes.find()  # the folder is left out again


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained once for the module: two layers of four stored states."""
    folder = tmp_path_factory.mktemp("stages")
    done = jobs.run("train", "reduction=none", folder=folder)
    assert done.code == 0, done.err
    return jobs.only(folder, "results/trained/*")


def reduced(checkpoint: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir()
    done = jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=last", *overrides, folder=folder)
    assert done.code == 0, done.err
    row = jobs.rows(jobs.only(folder, "results/reduce/*") / "rows.jsonl")[1]
    return {**row, "run": jobs.only(folder, "results/reduce/*").name}


@pytest.fixture(scope="module")
def bare(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The row from before there was the axis, and the question of the run."""
    found = reduced(checkpoint, tmp_path_factory.mktemp("bare") / "run")
    assert "rounding" not in found
    return {**found, "question": ask("x", {}, job("last"), EvaluationKeys())}


def test_a_new_axis_is_one_file_and_one_key(
    bare: dict[str, Any], planted: None, checkpoint: Path, tmp_path: Path
) -> None:
    short = reduced(checkpoint, tmp_path / "short", "+reduction.rounding=2")
    assert short["arm"] == "last +2 bits" and bare["arm"] == "last"
    assert short["rounding"] == 2 and short["rounding_to"] == "nearest" and short["rounding_lost"] > 0
    assert short["settings"]["rounding"] == 2 and short["differences"] == {"rounding": 2}
    assert short["orders"] == bare["orders"] and short["test_loss"] != bare["test_loss"]
    assert all(after > before for after, before in zip(short["error_h2"], bare["error_h2"], strict=True))
    assert axes.name(job("last", rounding=2, rounding_to="zero")) == "last +2 bits (rounding_to=zero)"


@pytest.mark.slow
def test_rows_and_folders_without_it_are_those_from_before_there_was_one(
    bare: dict[str, Any], planted: None, checkpoint: Path, tmp_path: Path
) -> None:
    after, question = reduced(checkpoint, tmp_path / "after"), bare["question"]
    assert after["rounding"] is None and after["test_loss"] == bare["test_loss"]
    assert identity(after) == identity(bare) and after["settings"] == bare["settings"]
    assert after["run"] == bare["run"] and ask("x", {}, job("last"), EvaluationKeys()) == question
    asked = ask("x", {}, job("last", rounding=3), EvaluationKeys())
    assert asked != question and asked != ask("x", {}, job("last", rounding=4), EvaluationKeys())


@pytest.mark.slow
def test_python_takes_the_key_too(planted: None, checkpoint: Path) -> None:
    model = s5c.load(checkpoint)
    bare, short = (s5c.reduce(model, "last", ratio=0.5, **options) for options in ({}, {"rounding": 3}))
    assert short.name.endswith("last +3 bits 0.5") and short.facts["reduction"]["rounding"] == 3
    for layer, other in zip(short.systems(), bare.systems(), strict=True):
        parts = np.stack([np.asarray(layer.C).real, np.asarray(layer.C).imag])
        assert len(np.unique(np.round(parts / np.abs(parts).max(), 6))) <= 2 * 2**3 + 1
        np.testing.assert_array_equal(layer.Lambda, other.Lambda)
        assert not np.array_equal(layer.C, other.C)
    down = s5c.reduce(model, "last", ratio=0.5, rounding=3, rounding_to="zero")
    pairs = zip(down.systems(), short.systems(), strict=True)
    assert all(np.abs(a.C).sum() < np.abs(b.C).sum() for a, b in pairs)


@pytest.mark.parametrize(
    ("preset", "settings", "words"),
    [
        ("unstructured_random", {"rounding": 4}, ["reduction.rounding=4", "silences parameters", "Leave it at null"]),
        ("fresh", {"rounding": 4}, ["reduction.rounding=4", "draws new layers"]),
        ("none", {"rounding": 4}, ["reduction.rounding=4", "leaves the model as it is"]),
        ("last", {"rounding_to": "zero"}, ["reduction.rounding_to=zero", "rounding=null does nothing", "at nearest"]),
        ("last", {"rounding": 2, "rounding_to": "up"}, ["Unknown value for reduction.rounding_to 'up'", "nearest"]),
        ("last", {"rounding": 0}, ["reduction.rounding=0", "at least 1"]),
        ("last", {"rounding": "few"}, ["reduction.rounding='few' is not of type int"]),
        ("last", {"roundign": 2}, ["Unknown key 'reduction.roundign'", "Did you mean 'reduction.rounding'"]),
    ],
)
def test_a_new_axis_is_refused_like_the_others(
    preset: str, settings: dict[str, Any], words: list[str], planted: None
) -> None:
    with pytest.raises(UserError) as refusal:
        job(preset, **settings)
    assert [word for word in words if word not in str(refusal.value)] == [], refusal.value


def test_it_stands_where_it_says_and_nowhere_else(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = ["normalise", "readout", "measure", "train", "precision"]
    assert names(job("last")) == ["features", "choose", "take", "refit", "rounding", *behind]
    found = importlib.import_module("s5c.pipeline.stage.rounding").Stage
    monkeypatch.setattr(found, "BEFORE", "refti")
    with pytest.raises(UserError, match=r"refti(.|\n)*nearest first: refit"):
        axes.find()


def test_what_it_changes_is_seen_by_what_comes_behind(planted: None) -> None:
    """Errors are measured of what is stored, and statistics of norms behind rounded layers."""
    found = [
        run(Context(trained(), job("last", norm="recalibrate", rounding=bits), Path("nowhere")), Target("ratio", 0.5))
        for bits in (None, 2)
    ]
    means = [jax.tree.leaves(network.weights["batch_stats"]) for network in found]
    assert not all(np.array_equal(a, b) for a, b in zip(*means, strict=True))
    stored = surgery.systems(found[1].weights["params"], found[1].model.config)
    for layer, made in zip(stored, found[1].systems or [], strict=True):
        np.testing.assert_allclose(layer.C, made.C, rtol=1e-6)


def test_no_preset_of_the_package_has_to_name_it(planted: None) -> None:
    for path in sorted((conf_dir() / "reduction").glob("[!_]*.yaml")):
        assert axes.changed(job(path.stem)) == {}, path


def test_a_stage_that_does_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stage").mkdir()
    text = "import dataclasses\nfrom s5c.pipeline.line import Stage as Base\n\n\n@dataclasses.dataclass(frozen=True)\n"
    (tmp_path / "stage" / "idle.py").write_text(f"{text}class Stage(Base):\n    idle: int = 0\n")
    with monkeypatch.context() as patch:
        patch.setenv(lookup.VARIABLE, os.pathsep.join([os.environ[lookup.VARIABLE], str(tmp_path)]))
        with pytest.raises(UserError, match=r"stage 'idle' does nothing: .*needs apply"):
            axes.find()
    axes.find()
