"""Every yaml of conf/ says what it is, works as its comment shows it, and has the keys of the code it configures."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import jobs
import pytest
from omegaconf import OmegaConf

from s5c import axes, lookup
from s5c import config as settings
from s5c.data.base import task_class
from s5c.errors import UserError
from s5c.keys import EvaluationKeys, ReductionKeys, TaskKeys, WandbKeys
from s5c.locations import conf_dir
from s5c.model.config import load_family
from s5c.reduction.contract import method_class
from s5c.train import resolve
from s5c.training.loop import Recipe

CONF = conf_dir()
FILES = [path for folder in lookup.conf_folders() for path in sorted(folder.rglob("*.yaml"))]
COMMANDS = [path for path in FILES if path.stem.lstrip("_") != "base" and path.parent.name != "study"]
"""Studies are the queue's own, and no group of Hydra: tests/test_studies.py."""
OPTIONS = [(path.parent.name, path.stem) for path in COMMANDS if path.parent != CONF]
ELSEWHERE = ("experiment", "ratios")
"""Groups whose files set keys of other groups."""
GROUPS = sorted({group for group, _ in OPTIONS} - {*ELSEWHERE})


def name_of(path: Path) -> str:
    return next(str(path.relative_to(folder)) for folder in lookup.conf_folders() if path.is_relative_to(folder))


def fields(schema: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(schema)}


def of_axes() -> set[str]:
    """Returns what axes add to the keys of a reduction: their own, or the group that these are in."""
    return {name for axis in axes.find() for name in ([axis.GROUP] if axis.GROUP else fields(axis))}


def override(group: str, option: str) -> str:
    return f"{'+' if group == 'experiment' else ''}{group}={option}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_opens_with_a_sentence(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(r"# [A-Z].{8,}", lines[0]), "the first line says what the file is"
    assert max(map(len, lines)) <= 120


@pytest.mark.few(16)
@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_its_commands_compose(path: Path) -> None:
    commands = re.findall(r"^#\s+python -m s5c\.(\w+) (.*)$", path.read_text(), re.MULTILINE)
    assert commands, "the header shows a command"
    for entry, arguments in commands:
        overrides = [argument for argument in shlex.split(arguments) if "=" in argument]
        sweep = "-m" in shlex.split(arguments) or "--multirun" in shlex.split(arguments)
        composed = jobs.compose(entry, *([o.split(",")[0] for o in overrides] if sweep else overrides))
        if entry == "train":
            resolve(composed)
    group, option = path.parent.name, path.stem
    shown = f"python -m s5c.{option}" if path.parent == CONF else f"{group}={option}"
    named = shown in path.read_text() or any(f"{group}." in arguments for _, arguments in commands)
    assert named, f"a command shows how this very file is used: {shown}"


@pytest.mark.few(20)
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_resolves_with_every_entry_point_that_has_its_group(group: str, option: str) -> None:
    job, reduction, evaluation, wandb = resolve(jobs.compose("train", override(group, option)))
    assert job.model.full_state_dim > 0 and reduction.targets and evaluation.rounds > 0 and wandb.project
    if group == "reduction":
        assert reduction.keys.name == option, "tables print the name of the preset that was chosen"
        assert (
            settings.reduction_job(jobs.compose("reduce", "checkpoint=x", f"reduction={option}")["reduction"])
            == reduction
        )
    for entry in ("reduce", "evaluate"):
        values = jobs.compose(entry, "checkpoint=x")
        if group in values:
            assert group in jobs.compose(entry, "checkpoint=x", f"{group}={option}")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_are_those_of_the_dataclasses(group: str, option: str) -> None:
    if group in ELSEWHERE:
        before, after = jobs.compose("train"), jobs.compose("train", override(group, option))
        assert after.keys() == before.keys()
        assert group == "experiment" or all(after[key].keys() == before[key].keys() for key in GROUPS)
        return
    values = jobs.compose("train", f"{group}={option}")[group]
    expected = {
        "task": lambda: fields(TaskKeys) | fields(task_class(values["name"])),
        "model": lambda: {"name"} | fields(load_family(values["name"]).Config),
        "train": lambda: {"checkpoint_minutes"} | fields(Recipe),
        "reduction": lambda: fields(ReductionKeys) | of_axes() | fields(method_class(values["method"])),
        "evaluation": lambda: fields(EvaluationKeys),
        "wandb": lambda: fields(WandbKeys),
    }
    assert set(values) == expected[group]()


@pytest.mark.parametrize("group", GROUPS)
def test_a_key_that_no_code_reads_is_refused(group: str) -> None:
    values = jobs.compose("train")
    values[group]["surplus"] = 1
    with pytest.raises(UserError, match=rf"Unknown key '{group}\.surplus'(.|\n)*nearest first: {group}\.\w+"):
        resolve(values)


def test_experiments_are_added_and_not_defaults() -> None:
    for entry in ("train", "reduce", "evaluate", "report"):
        defaults = OmegaConf.load(CONF / f"{entry}.yaml").defaults
        assert not any("experiment" in str(default) for default in defaults)


def test_configuration_is_found_from_any_folder(tmp_path: Path) -> None:
    done = jobs.run("train", "--cfg", "job", folder=tmp_path)
    assert done.code == 0
    printed = OmegaConf.create(done.out)
    assert (printed.model.state_size, printed.task.name) == (8, "digits")
    assert list(tmp_path.iterdir()) == [], "printing the configuration leaves nothing behind"


def test_results_go_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path / "elsewhere"))
    assert jobs.compose("train")["results_dir"] == str(tmp_path / "elsewhere")
    assert jobs.compose("train", "results_dir=here")["results_dir"] == "here"
