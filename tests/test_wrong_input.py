"""What a person can get wrong ends in status 1 and one message: what was given, what is allowed, what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jobs
import pytest

from s5c.cli import _switches_first
from s5c.data.part import scored
from s5c.errors import UserError
from s5c.locations import given_path
from s5c.training import integrity
from s5c.training.checkpoint import load, save_single

COMMANDS: list[tuple[str, list[str]]] = [
    # Choices: the nearest comes first.
    ("train +experiment=digit_last", ["Unknown experiment 'digit_last'", "first: digits_last"]),
    ("train task=digit", ["Unknown task 'digit'", "first: digits"]),
    ("train task=", ["Unknown task ''", "digits"]),
    ("train model=s6", ["Unknown model 's6'", "first: s5"]),
    ("train reduction=lsat", ["Unknown reduction 'lsat'", "first: last, lamp", "uniform_hinf"]),
    ("train reduction=_base", ["Unknown reduction '_base'", "last"]),
    ("train -m reduction=last,lsat", ["Unknown reduction 'lsat'", "first: last"]),
    ("train train=smok", ["Unknown train 'smok'", "first: smoke, default"]),
    ("train evaluation=defalt", ["Unknown evaluation 'defalt'", "first: default"]),
    ("train wandb=onlin", ["Unknown wandb 'onlin'", "first: online"]),
    ("train experiment=digits_last", ["+experiment=digits_last", "plus"]),
    ("train model=null", ["Unknown model 'null'", "s5"]),
    ("train train=null", ["Unknown train 'null'", "smoke"]),
    ("train reduction={a:1}", ["chosen by its name", "reduction={a:1}"]),
    ("train hydra=null", ["chosen by its name", "hydra=null"]),
    # Folders.
    ("train results_dir=null", ["results_dir=null", "names no folder"]),
    ("train results_dir=", ["results_dir=''", "names no folder"]),
    ("train -m results_dir=null seed=0,1", ["results_dir=null", "names no folder"]),
    ("train name=null", ["name=''", "cannot name a folder"]),
    ("train -m name=null seed=0,1", ["name=''", "cannot name a folder"]),
    # Keys.
    ("train model.state_sise=8", ["'model.state_sise'", "Keys of model", "first: state_size"]),
    (
        "train reduction=bt reduction.eps=0.1",
        ["'reduction.eps' with reduction=bt", "last", "have it"],
    ),
    ("train modle.state_size=8", ["'modle.state_size'", "first: model"]),
    ("train train.epoch=3", ["'train.epoch'", "first: epochs"]),
    ("train +sede=3", ["'sede'", "first: seed"]),
    ("train model.blocks=0", ["model.blocks=0", "at least one"]),
    ("train +model.surplus=3", ["'model.surplus'", "model.d_model"]),
    ("train +reduction.surplus=3", ["'reduction.surplus'", "reduction.score"]),
    ("evaluate checkpoint=x weight=best", ["'weight'", "first: weights"]),
    ("report runs=x outptu=y", ["'outptu'", "first: output"]),
    # Values.
    ("train reduction.ratio=1.5", ["reduction.ratio=1.5", "[0, 1)", "reduction.ratio=0.5"]),
    ("train reduction.ratio=-0.1", ["reduction.ratio=-0.1", "[0, 1)"]),
    ("train reduction.ratio=[0.5,1]", ["reduction.ratio=1", "[0, 1)"]),
    ("train reduction.ratio=nan", ["reduction.ratio=nan", "[0, 1)"]),
    ("train reduction.ratio=abc", ["reduction.ratio='abc'", "number", "reduction.ratio=0.5"]),
    ("train reduction.ratio=null", ["reduction.ratio=None", "number"]),
    ("train reduction.ratio=[]", ["reduction.ratio=[]", "empty", "[0.3,0.5]"]),
    ("train reduction.ratio=0.1,0.5", ["reduction.ratio=0.1,0.5", "[value1,value2]", "--multirun"]),
    ("train reduction.ratio=[0.1", ["'[0.1'", "key=value", "quote"]),
    ("train reduction=none reduction.ratio=0.5", ["reduction.ratio=0.5 changes nothing", "reduction=last"]),
    ("train +experiment=digits_s5 ratios=wide", ["ratios=wide changes nothing", "reduction=last ratios=wide"]),
    ("train reduction.method=hinff", ["'hinff'", "first: hinf"]),
    ("train reduction.allocation=unifrom", ["'unifrom'", "first: uniform"]),
    ("train reduction.score=papr", ["reduction.score 'papr'", "first: paper, released"]),
    ("train reduction.weights=last", ["reduction.weights 'last'", "best", "latest"]),
    ("train model.dt_min=1 model.dt_max=0.1", ["model.dt_min=1.0", "model.dt_max=0.1", "dt_min < dt_max"]),
    ("train model.state_size=10", ["model.state_size=10", "2 * model.blocks=4", "multiple of 4"]),
    ("train model.state_size=abc", ["model.state_size='abc'", "int"]),
    ("train model.n_layers=0", ["model.n_layers=0", "at least 1"]),
    ("train model.dropout=1", ["model.dropout=1.0", "[0, 1)"]),
    ("train model.backend=cuda", ["model.backend 'cuda'", "sequential", "associative", "auto"]),
    ("train model.activation=glu", ["model.activation 'glu'", "first: gelu", "half_glu1"]),
    ("train train.batch_size=5000", ["train.batch_size=5000", "1257 examples", "between 1 and 1257"]),
    ("train train.batch_size=0", ["train.batch_size=0", "between 1 and 1257"]),
    ("train train.epochs=0", ["train.epochs=0", "at least one epoch"]),
    ("train train.epochs=abc", ["train.epochs='abc'", "int"]),
    ("train train.epochs=1.5", ["train.epochs=1.5", "int"]),
    ("train train.warmup_epochs=3", ["train.epochs=2", "train.warmup_epochs=3", "no more warm-up epochs than"]),
    ("train train.ssm_lr=0", ["train.ssm_lr=0.0", "positive"]),
    ("train train.grouping=standart", ["train.grouping 'standart'", "first: standard"]),
    ("train train.checkpoint_minutes=abc", ["train.checkpoint_minutes='abc'", "number"]),
    ("train seed=abc", ["seed='abc'", "integer", "seed=0"]),
    ("train seed=-1", ["seed=-1", "from 0 to"]),
    ("train task.split_seed=-1", ["task.split_seed=-1", "from 0 to"]),
    ("train task.validation_fraction=1.5", ["task.validation_fraction=1.5", "between 0 and 1"]),
    ("train protocol=papr", ["'papr'", "first: paper, validation"]),
    ("train evaluation.rounds=0", ["evaluation.rounds=0", "at least 1"]),
    ("train wandb.mode=ofline", ["'ofline'", "first: offline"]),
    ("train epochs", ["'epochs'", "key=value"]),
    # Paths that Hydra does not read as text.
    ("evaluate checkpoint=/d/a=b", ["quoted twice", """'checkpoint="/d/a=b"'"""]),
    ("train task=smnist task.data_dir=/d/a=b", ["""'task.data_dir="/d/a=b"'"""]),
    ("train task=smnist task.data_dir=/d/br[ack]et", ["""'task.data_dir="/d/br[ack]et"'"""]),
    ("train task=smnist task.data_dir=/d/a(b)", ["""'task.data_dir="/d/a(b)"'"""]),
    ("train task=smnist task.data_dir=/d/a,b", ["Ambiguous", """'task.data_dir="/d/a,b"'"""]),
    ("train task=smnist task.data_dir=/d/a'b", ["""'task.data_dir="/d/a'"'"'b"'"""]),
    ("train task=smnist task.data_dir=/d/${x}", ["'x' not found", "'task.data_dir=\\${x}'", "S5C_RESULTS=FOLDER"]),
    ("train task=smnist task.data_dir=[/x]", ["['/x']", "not of type str", """'task.data_dir="[x]"'"""]),
    ("train results_dir=${x}", ["'x' not found", "results_dir=FOLDER"]),
    ('train results_dir="br[ack]et"', ["No checkpoint can be stored in", "br[ack]et", "results_dir=FOLDER"]),
    ('train name="[/x]"', ["No checkpoint can be stored in", "/[/x]:", "name="]),
    ("train name=a\\b", ["No checkpoint can be stored in", "/a\\b:"]),
    ('report runs="[/x]"', ["no folder '[/x]'"]),
    ("report runs=:smile:", ["no folder ':smile:'"]),
    ('evaluate checkpoint="[bold]x"', ["[bold]x does not exist"]),
    # Folders.
    (f"train results_dir={'x' * 300}", ["File name too long", "results_dir="]),
    ("train reduction.order=5", ["reduction.order=[5, 5]", "[4, 4]", "from 1 to what is there"]),
    ("train reduction.order=[[4,4,4]]", ["reduction.order=[4, 4, 4]", "one number per layer"]),
    ("train reduction.tolerance=1.5", ["reduction.tolerance=1.5", "[0, 1)"]),
    ("train reduction.max_drop=-1", ["reduction.max_drop=-1"]),
    ("train reduction.max_drop=1 protocol=paper", ["reduction.max_drop", "protocol=validation"]),
    ("train reduction=unstructured_random reduction.order=2", ["unstructured_random", "takes a ratio only"]),
    ("train reduction=calibrated reduction.calibration.sequences=5000", ["sequences=5000", "from 1 to 1257"]),
    ("train reduction.ratio=[0.5000001,0.5000002]", ["asks 2 times for 0.5", "six digits"]),
    ("train reduction.name=../x", ["reduction.name=../x", "letters"]),
    # Folders.
    ("train name=../../x", ["name='../../x'", "results_dir="]),
    ("train name=/x", ["name='/x'", "results_dir="]),
    ("train -m name=../../x seed=0,1", ["name='../../x'", "results_dir="]),
    ("train name=trained", ["name='trained'", "trained, zoo, published hold other things"]),
    ("train -m model.state_size=10,11", ["model.state_size=10", "multiple of 4"]),
    ("train results_dir=file", ["Not a directory", "file/", "results_dir="]),
    ("reduce", ["checkpoint is not set", "checkpoint=..."]),
    ("reduce checkpoint=runz", ["runz does not exist", "nearest first: run"]),
    ("reduce checkpoint=empty", ["No checkpoint in", "empty", "it contains: nothing", "run folder"]),
    ("evaluate checkpoint=file", ["file is a file", "a checkpoint is a folder"]),
    ("evaluate checkpoint=empty weights=worst", ["'worst'", "best", "latest"]),
    ("report", ["runs is not set", "runs=FOLDER", "published=true"]),
    ("report runs=nowhere", ["no folder 'nowhere'", "runs=results/"]),
    ("report runs=empty", ["No rows below 'empty'", "rows.jsonl"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with an empty folder, a file and a folder named `run` in it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("no folder")
    return tmp_path


def refused(command: str, words: list[str], folder: Path) -> None:
    """Runs a command and requires that it ends as wrong input should."""
    entry, *arguments = command.split()
    done = jobs.run(entry, *arguments, folder=folder)
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    said = done.err[done.err.index("Error: ") :]
    assert [word for word in words if word not in said] == [], said
    assert len(said) < 700, "short enough to be read"


@pytest.mark.few(12)
@pytest.mark.parametrize(("command", "words"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_wrong_command(command: str, words: list[str], folder: Path) -> None:
    refused(command, words, folder)
    left = {path.name for path in folder.iterdir()}
    assert left == {"empty", "run", "file"} and not any(folder.joinpath("run").iterdir()), "nothing is left behind"
    assert (folder / "file").read_text() == "no folder"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder that not even root can write to")
def test_results_folder_that_cannot_be_made(folder: Path) -> None:
    refused("train results_dir=/proc/results", ["/proc/results", "results_dir=", "same command again"], folder)


@pytest.mark.slow
def test_online_without_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: a test must not depend on, or change, the login of whoever runs it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "NETRC"))}
    process = jobs.spawn("train", "wandb.mode=online", folder=folder, env={**inherited, "HOME": str(folder)})
    _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert all(way in err for way in ("no API key", "wandb login", "WANDB_API_KEY", "wandb.mode=offline"))
    assert not (folder / "results").exists()


class TestRefusedLate:
    """What only the computation finds out: the folder that was made goes again."""

    def test_first_of_its_name(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise UserError("layer 1 is not stable")

        monkeypatch.setattr("s5c.pipeline.compress.reductions", refuse)
        refused("train name=late", ["layer 1 is not stable"], folder)
        assert [path.name for path in (folder / "results").iterdir()] == ["trained"], "the training is whole and stays"


class TestCheckpointThatDoesNotFit:
    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        assert jobs.run("train", "reduction=none", folder=folder).code == 0
        return jobs.only(folder, "results/trained/*")

    def copy(self, trained: Path, target: Path, **changes: object) -> None:
        """Saves the checkpoint again, sound but with other metadata."""
        checkpoint = load(trained)
        save_single(target, weights=checkpoint.weights, metadata={**checkpoint.metadata, **changes})

    def test_of_a_newer_version(self, trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = load(trained)
        with monkeypatch.context() as patch:
            patch.setattr(integrity, "SCHEMA", 99)
            save_single(folder / "newer", weights=checkpoint.weights, metadata=checkpoint.metadata)
        refused("evaluate checkpoint=newer", ["newer", "schema 99", "reads up to 1", "Update s5c"], folder)

    def test_of_another_task(self, trained: Path, folder: Path) -> None:
        task = {**load(trained).metadata["task"], "name": "spirals"}
        self.copy(trained, folder / "other", task=task)
        refused("evaluate checkpoint=other +task=digits", ["'spirals'", "'digits'", "Leave the task out"], folder)
        refused("evaluate checkpoint=other", ["Unknown task 'spirals'", "digits"], folder)

    def test_of_other_inputs(self, trained: Path, folder: Path) -> None:
        self.copy(trained, folder / "wider", input_spec=[3, 10, False, False])
        refused("evaluate checkpoint=wider", ["features=3", "features=1", "options or its files differ"], folder)

    def test_cut_short(self, trained: Path, folder: Path) -> None:
        self.copy(trained, folder / "cut")
        array = max((folder / "cut/weights").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
        array.write_bytes(array.read_bytes()[:-100])
        refused("reduce checkpoint=cut", ["cut is damaged", "copy the checkpoint again"], folder)

    def test_without_scores(self, trained: Path, folder: Path) -> None:
        step = load(trained, which="latest").step
        self.copy(trained, folder / "steps" / str(step), score=None, best_so_far=None)
        refused("evaluate checkpoint=steps", [f"[{step}]", "has a score", "'latest'"], folder)


# ---- paths that name nothing, and numbers that leave less than was asked for


@pytest.mark.parametrize("given", ["", "  ", "\0", None])
def test_an_empty_path_is_not_the_current_folder(given: Any) -> None:
    with pytest.raises(UserError, match="names no folder or file"):
        given_path(given, "checkpoint=")


def test_an_unset_variable_of_the_shell_is_no_checkpoint(tmp_path: Path) -> None:
    done = jobs.run("reduce", "checkpoint=", folder=tmp_path)
    assert done.code == 1 and "checkpoint='' names no folder or file" in done.err, done.err


def test_fewer_examples_than_asked_for_are_not_scored_in_silence() -> None:
    with pytest.raises(UserError, match="leaves 5 of the 360 test examples, fewer than"):
        scored(360, 10, 355)
    assert len(scored(360, 5, 355)) == 5 and len(scored(360, None, 355)) == 5
    assert scored(360, 5000, 0) is None, "all there are, where nothing is left out"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_switch_for_sweeps_may_stand_anywhere(place: int) -> None:
    overrides = ["a=1", "b=2"]
    assert _switches_first([*overrides[:place], "-m", *overrides[place:]]) == ["-m", "a=1", "b=2"]
    assert _switches_first(["--config-dir", "x", "a=1"]) == ["--config-dir", "x", "a=1"]
