"""Files from outside of s5c: found, composed and run like its own, and what is said where something is wrong."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest

from s5c import lookup, presets
from s5c.cli import KINDS
from s5c.data import task as tasks
from s5c.data.base import names as task_names
from s5c.data.base import task_class
from s5c.errors import UserError
from s5c.locations import conf_dir
from s5c.model.config import families, load_family
from s5c.pipeline import question
from s5c.reduction import contract
from s5c.ssm.operator import available_backends, why_unavailable

METHOD = """
import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Method:
    power: int = 1

    def scores(self, layer, key):
        return jnp.abs(layer.system.B).sum(1) ** self.power
"""
PRESET = "defaults: [_base, _self_]\nname: mine\nmethod: mine\nallocation: global\npower: 1\n"


def write(root: Path, name: str, text: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()
    return path


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that S5C_PLUGINS names, and nothing else does."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv(lookup.VARIABLE, str(folder))
    yield folder
    for package in KINDS:
        for module in [m for m in sys.modules if m.startswith(f"{package.__name__}.")]:
            if str(folder) in str(getattr(sys.modules[module], "__file__", "")):
                del sys.modules[module]


def refused(*arguments: str, folder: Path) -> str:
    """Returns the message with which a command ends, in one line."""
    done = jobs.run(arguments[0], *arguments[1:], folder=folder)
    assert done.code == 1 and "Traceback" not in done.err
    return " ".join(done.err.split())


# ---- what is found


def test_every_file_of_a_folder_is_a_choice(own: Path) -> None:
    write(own, "method/mine.py", METHOD)
    write(own, "method/_shared.py", "1 / 0")
    write(own, "allocation/try_.py", "def priority(ranked):\n    return ranked**2\n")
    write(own, "conf/reduction/mine.yaml", PRESET)
    write(own, "conf/reduction/_shared.yaml")
    assert "mine" in contract.method_names() and "_shared" not in contract.method_names()
    assert "try" in contract.allocation_names() and contract.load_allocation("try").priority(3.0) == 9.0
    method = contract.load_method("mine", {"power": 3})
    assert type(method).__module__ == "s5c.reduction.method.mine" and method.power == 3  # type: ignore[union-attr]
    assert "mine" in presets.names() and presets.read("mine")["seed"] == 0
    assert jobs.compose("reduce", "checkpoint=x", "reduction=mine")["reduction"]["power"] == 1


def test_the_folders_are_those_that_the_variable_names_now(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(own, "method/mine.py", METHOD)
    assert "mine" in contract.method_names()
    monkeypatch.delenv(lookup.VARIABLE)
    assert "mine" not in contract.method_names() and lookup.folders() == []
    with pytest.raises(UserError, match="Unknown reduction method 'mine'"):
        contract.load_method("mine")
    other = write(own.parent, "other/method/other.py", METHOD).parents[1]
    monkeypatch.setenv(lookup.VARIABLE, os.pathsep.join([str(own), str(other), ""]))
    assert {"mine", "other"} <= set(contract.method_names()) and lookup.folders() == [own, other]


def test_every_kind_is_found_outside() -> None:
    """Those that come with the tests, in tests/plants: asked for by what lies there."""
    (plants,) = (folder for folder in lookup.folders() if folder == Path(__file__).parent / "plants")
    found = {
        "method": contract.method_names(),
        "task": task_names(),
        "family": families(),
        "backend": available_backends(),
    }
    for kind, names in found.items():
        files = [path.stem for path in (plants / kind).glob("*.py")]
        assert files and set(files) <= set(names)
    for kind, group in {"method": "reduction", "task": "task", "family": "model"}.items():
        assert {path.stem for path in (plants / kind).glob("*.py")} <= set(lookup.presets(group))


def test_a_process_finds_what_was_pickled_in_another() -> None:
    """By the module's name alone, nothing having been looked up."""
    (name,) = (path.stem for path in (Path(__file__).parent / "plants" / "task").glob("*.py"))
    code = f"from s5c.data.task.{name} import Task; print(len(Task().load().train))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=conf_dir().parent)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_results_depend_on_the_code_outside(own: Path) -> None:
    def code() -> str:
        question.code.cache_clear()
        try:
            return question.code()
        finally:
            question.code.cache_clear()

    before = code()
    path = write(own, "method/mine.py", METHOD)
    first = code()
    path.write_text(METHOD.replace(".sum(1)", ".max(1)"))
    assert len({before, first, code()}) == 3


@pytest.mark.slow
def test_all_from_outside_at_once(tmp_path: Path) -> None:
    """A network of a family from outside learns a task from outside and is reduced by a method from outside."""
    plants = Path(__file__).parent / "plants"
    family, task, method = (next((plants / kind).glob("*.py")).stem for kind in ("family", "task", "method"))
    job = [f"model={family}", f"task={task}", f"reduction={method}", "train.epochs=2", "train.batch_size=64"]
    sizes = ["model.n_layers=2", "model.d_model=8", "model.state_size=8"]
    base = jobs.BASE["train"]
    try:
        jobs.BASE["train"] = jobs.QUICK
        done = jobs.run("train", *job, *sizes, folder=tmp_path)
    finally:
        jobs.BASE["train"] = base
    assert done.code == 0, done.err
    row = jobs.rows(jobs.only(tmp_path, f"results/{task}/*/rows.jsonl"))[-1]
    assert (row["method"], row["model"], row["task"]) == (method, family, task) and row["ratio_achieved"] == 0.5


# ---- what is said


def test_a_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lookup.VARIABLE, str(tmp_path / "typo"))
    assert f"{tmp_path}/typo is no folder" in refused("train", folder=tmp_path)
    with pytest.raises(UserError, match="typo is no folder"):
        contract.method_names()
    monkeypatch.setenv(lookup.VARIABLE, str(tmp_path))
    message = refused("train", folder=tmp_path)
    assert f"{tmp_path} holds nothing that s5c looks for" in message and "method, task, family" in message


def test_a_name_that_is_there_already(own: Path) -> None:
    path = write(own, "method/hinf.py", METHOD)
    assert "'hinf' is there twice" in (message := refused("train", folder=own.parent)) and str(path) in message
    path.unlink()
    path = write(own, "conf/reduction/last.yaml", PRESET)
    assert "'last' is there twice" in (message := refused("train", folder=own.parent)) and str(path) in message


def test_a_method_without_a_preset(own: Path) -> None:
    write(own, "method/mine.py", METHOD)
    message = refused("reduce", "checkpoint=x", "reduction=mine", folder=own.parent)
    assert "There is s5c.reduction.method.mine but no preset for it: write conf/reduction/mine.yaml" in message
    write(own, "conf/reduction/min.yaml", PRESET)
    message = refused("reduce", "checkpoint=x", "reduction=miin", folder=own.parent)
    assert "Unknown reduction 'miin'. Did you mean 'min'" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import dataclasses\nimport not_there\n",
            ["ModuleNotFoundError: No module named 'not_there'", "mine.py, line 2"],
        ),
        ("x = 1\nclass Method\n", ["SyntaxError", "mine.py, line 2"]),
        ("x = 1 / 0\n", ["ZeroDivisionError", "mine.py, line 1", "Mend the file"]),
        ("class Mehtod: pass\n", ["lacks Method", "has to define Method"]),
        ("class Method: pass\n", ["no dataclass", "@dataclasses.dataclass(frozen=True)"]),
        (METHOD.replace("def scores", "def score"), ["needs scores or fit or mask or ranking"]),
    ],
)
def test_a_file_with_a_mistake(own: Path, text: str, words: list[str]) -> None:
    path = write(own, "method/mine.py", text)
    write(own, "conf/reduction/mine.yaml", PRESET)
    message = refused("train", "reduction=mine", folder=own.parent)
    assert [word for word in ("reduction method 'mine'", str(path), *words) if word not in message] == [], message


def test_an_incomplete_task_family_and_backend(own: Path) -> None:
    write(own, "task/mine.py", "import dataclasses\n@dataclasses.dataclass\nclass Task: pass\n")
    write(own, "family/mine.py", "Config = Layer = None\n")
    write(own, "backend/mine.py", "def forward(): pass\n")
    with pytest.raises(UserError, match=r"task 'mine' does nothing: .*needs load"):
        task_class("mine")
    with pytest.raises(UserError, match=r"model 'mine' lacks PARAMETERS, to_system, .*has to define Config"):
        load_family("mine")
    with pytest.raises(UserError, match=r"backend 'mine' lacks backward"):
        why_unavailable("mine", "cpu")
    assert "mine" in lookup.names(tasks)
