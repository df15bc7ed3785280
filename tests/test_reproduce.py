"""The queue of published recipes: what it costs, what it skips and why, and that nothing ends it for good."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs
import layouts
import numpy as np
import pytest

from s5c.data.base import task_class
from s5c.data.generator import listops
from s5c.data.source import download
from s5c.errors import UserError
from s5c.locations import data_dir
from s5c.pipeline import provenance, shelf
from s5c.pipeline.trained import input_spec
from s5c.studies import __main__ as program
from s5c.studies import cost as step_cost
from s5c.studies import measure, modes, plans, recipes, sizes, studies
from s5c.studies import queue as reproduce

REPOSITORY = Path(__file__).resolve().parents[1]
EPOCHS = 40
TINY = f"""
# @package _global_
defaults:
  - override /task: digits
  - override /model: s5
  - override /train: default
  - override /reduction: none
  - override /wandb: disabled

name: tiny_s5

model: {{n_layers: 2, d_model: 8, state_size: 8, blocks: 2}}
train: {{epochs: {EPOCHS}, batch_size: 250}}
evaluation: {{latency: false}}
"""


NO_MORE = ("fsdd", "fsdd_short", "listops_short")
"""Recipes whose test split is as large as what a comparison scores."""

EXAMPLES = 5000
"""Test examples that comparisons score."""
REFITTED = ("reduction.refit=calibrated", "reduction.sequential=refit", "reduction.readout=refit")


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path / "results"))


# ---- the queue


def test_all_recipes_are_listed_without_any_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("S5C_DATA", "S5C_ZOO"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path / "results"))
    assert program.main(["list"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    names = [row[0].strip() for row in rows]
    there = [path.stem for path in (REPOSITORY / "conf/experiment").glob("*.yaml")]
    assert set(recipes.known()) == {name for name in there if name.endswith(("_s5", "_s4d", "_dss"))}
    tasks = [name.removesuffix("_s5") for name in there if name.endswith("_s5")]
    assert set(names) == {
        *recipes.known(),
        *(f"{task}_{kind}" for task in tasks for kind in ("comparison", "ablation", "latency", "bytes")),
        *(f"{task}_headline" for task in tasks if task not in ("digits", "listops", "listops_small", *NO_MORE)),
        "imdb_short_s4d_headline",
        *(name for name in there if name.endswith("_bt")),
    }
    first = names.index("imdb_short_s5")
    assert first > names.index("digits_s5") and names[first : first + len(recipes.SHORT)] == list(recipes.SHORT)
    assert names[:2] == ["imdb_s5", "smnist_s5"] and names.index("digits_s5") < names.index("imdb_s4d")
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["imdb_s5"] == ["35 × 450", "–", "–", "not started"], "a tenth of 25,000 is carved for validation"
    assert cells["pathfinder_s5"][0] == "200 × 2,500" and cells["speech35_s5"][0] == "40 × 5,302"
    assert list(tmp_path.iterdir()) == []


def test_every_recipe_of_fewer_epochs_has_its_place_and_differs_in_nothing_else() -> None:
    found = {name for name in recipes.known() if re.search("_(short|medium)_", name)}
    assert found == set(recipes.SHORT)
    for recipe in recipes.queue(recipes.SHORT):
        (full,) = recipes.queue([re.sub("_(short|medium)_", "_", recipe.name)])
        assert recipe.job.recipe.epochs < full.job.recipe.epochs
        same = dataclasses.replace(
            recipe.job.recipe, epochs=full.job.recipe.epochs, warmup_epochs=full.job.recipe.warmup_epochs
        )
        assert (recipe.job.model, same, recipe.job.seed) == (full.job.model, full.job.recipe, full.job.seed)
        assert {**recipe.job.task.description, "pad": "full"} == {**full.job.task.description, "pad": "full"}


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"Unknown recipe 'imdb'(.|\n)*nearest first: imdb_s5"):
        recipes.queue(["imdb"])


def test_a_task_of_unknown_size_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (recipe,) = recipes.queue(["digits_s5"])
    monkeypatch.delitem(sizes.PUBLISHED, "digits")
    with pytest.raises(UserError, match=r"digits_s5: the size of task digits is unknown\. Add it to PUBLISHED"):
        _ = recipe.steps
    assert "digits_comparison" in {study.name for study in studies.studies({"digits_s5"})}, "studies need no size"


@pytest.mark.parametrize("name", sizes.PUBLISHED)
def test_what_is_published_is_what_the_tasks_give(name: str, tmp_path: Path) -> None:
    data = sizes.PUBLISHED[name]
    dataset = task_class(name)(**layouts.tiny(name, tmp_path)).load()
    spec = input_spec(dataset)
    if name in ("imdb_small", "retrieval", "same_movie"):  # the number of ids is that of the published texts
        spec = spec._replace(features=data.spec.features)
    assert (dataset.length, spec) == (data.length, data.spec)
    assert (dataset.validation is not None) == data.validation
    if name == "digits":
        assert len(dataset.train) == data.train


# ---- costs


def padded_steps(name: str, *overrides: str) -> tuple[int, int]:
    values = jobs.compose("train", f"+experiment={name}", *overrides)
    recipe = recipes.Recipe(name, values)
    return measure.padded_steps(recipe.job.task.task, recipe.data)


def test_a_step_is_measured_at_the_mean_length_that_sequences_are_padded_to() -> None:
    assert padded_steps("imdb_s5") == (4096, 4096) and padded_steps("imdb_dss") == (2048, 2048)
    assert padded_steps("imdb_small_s5") == (512, 512) and padded_steps("smnist_s5") == (784, 784)
    assert padded_steps("imdb_short_s5") == padded_steps("imdb_short_s4d") == (4096, 1518)
    assert padded_steps("listops_short_s5") == (2048, 1149) and padded_steps("fsdd_short_s5") == (8000, 3846)
    assert padded_steps("imdb_s5", "task.pad=bucket") == (4096, 1845)
    assert padded_steps("imdb_s5", "task.pad=[1024,2048,4096]") == (4096, 1845)
    assert padded_steps("retrieval_s5", "task.pad=7") == (4000, 4000), "lengths that are not known count as the longest"


HAVE = {"imdb": "aclImdb", "fsdd": "recordings"}


@pytest.mark.parametrize("name", [name for name, data in sizes.PUBLISHED.items() if data.lengths])
def test_the_lengths_that_costs_rest_on_are_those_of_the_data(name: str) -> None:
    data = sizes.PUBLISHED[name]
    assert sum(data.lengths) == data.train and len(data.lengths) == -(-data.length // sizes.BIN)
    if name == "listops":
        offsets = listops.generate(300, seed=3, max_depth=10, max_args=10, min_length=500, max_length=2000)[1]
        found = np.mean(-(-(np.diff(offsets) + 1) // sizes.BIN))
        assert found == pytest.approx(np.average(np.arange(1, 17), weights=data.lengths), rel=0.1)
    elif (data_dir() / HAVE.get(name, "aclImdb/train/urls_pos.txt")).exists():
        stored = task_class(name)(download=False).load().train.stored_lengths()
        assert tuple(np.bincount(-(-stored // sizes.BIN))[1:]) == data.lengths


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> recipes.Recipe:
    """A recipe with a tiny network, whose data is not there."""
    monkeypatch.setenv("S5C_DATA", str(tmp_path / "data"))
    values = jobs.compose("train", "+experiment=imdb_small_s5", *jobs.TINY, f"results_dir={tmp_path}")
    return recipes.Recipe("imdb_small_s5", values)


@pytest.mark.slow
def test_a_step_is_run_unless_the_memory_is_too_small(small: recipes.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small.data._replace(length=8)
    monkeypatch.setattr(measure, "STEPS", 2)
    cost = measure.measure(small.job, data)
    assert cost.seconds is not None and cost.seconds > 0 and not cost.problem
    assert cost.hours(7200) == 2 * cost.seconds
    monkeypatch.setattr(measure, "_bytes_there", lambda: 1000)
    cost = measure.measure(small.job, data)
    assert cost.seconds is None and cost.problem.startswith("needs ") and cost.hours(1) is None


def test_a_measured_cost_is_remembered_for_this_device(
    small: recipes.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measured_apart(name: str) -> step_cost.Cost:
        measured.append(name)
        return step_cost.Cost(0.5)

    monkeypatch.setenv("S5C_RESULTS", str(tmp_path))
    monkeypatch.setattr(provenance, "git_revision", lambda: "abc")
    monkeypatch.setattr(step_cost, "_measured_apart", measured_apart)
    for device in ("this one", "this one", "another"):
        assert step_cost.costs([small], device) == {small.name: step_cost.Cost(0.5)}
    assert len(measured) == 2
    monkeypatch.setattr(provenance, "git_revision", lambda: "abc-dirty")
    for _ in range(2):
        step_cost.costs([small], "this one")
    assert len(measured) == 4, "changed code is measured every time"


def test_what_cannot_be_trained_here_is_skipped_with_the_reason(
    small: recipes.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "fetch", lambda name, root: "there is no network.")
    assert reproduce._obstacle(small, 12, step_cost.Cost(problem="needs 80 GB")) == "needs 80 GB"
    steps = small.steps
    assert steps == 2 * (22_500 // 250)
    assert "about 50 hours, more than --hours 12" in reproduce._obstacle(small, 12, step_cost.Cost(50 * 3600 / steps))
    reason = reproduce._obstacle(small, 12, step_cost.Cost(3600 / steps))
    assert "There is no data for task imdb_small" in reason and "there is no network" in reason


# ---- studies


def test_a_study_goes_on_after_the_command_that_failed_and_is_published_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path))
    started: list[list[str]] = []
    broken = ["calibrated"]

    def attended(command: list[str], *_: object) -> bool:
        started.append(command[2:])
        return not any(f"reduction={name}" in command for name in broken)

    monkeypatch.setattr(reproduce, "_attended", attended)
    (study,) = reproduce.asked(["listops_small_comparison"])[1]
    assert len(study.commands) == 2 * len(plans.read("comparison").arms) and study.state() == "not started here"
    assert not reproduce.run([], [study], hours=1, device="")
    assert len(started) == 2 and study.state() == f"1 of {len(study.commands)} commands"
    broken.clear()
    assert reproduce.run([], [study], hours=1, device="")
    assert started[1] == started[2] and len(started) == len(study.commands) + 2 and study.state() == "finished"
    assert started[-1] == list(study.report())
    assert reproduce.run([], [study], hours=1, device="") and len(started) == len(study.commands) + 2
    assert "Finished" in capsys.readouterr().out


def test_a_study_of_a_model_that_is_not_there_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path))
    _, found = reproduce.asked(["imdb_bt"])
    assert found[0].epochs == 4 * 4 * 40 + 2 * 4 * (40 + 40), "arms that train, orders, epochs; those of full budget"
    assert reproduce.run([], found, hours=1, device="")
    assert "Skipped: imdb_dss is not started" in capsys.readouterr().out


def test_a_study_of_a_model_just_trained_trains_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model it compares is the recipe's own, and the one in the zoo once it is there."""
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path))
    shipped: list[str] = []
    started: list[list[str]] = []

    def attended(command: list[str], *_: object) -> bool:
        started.append(command[1:])
        shipped.extend(command[4:] if "export" in command else [])
        return True

    monkeypatch.setattr(reproduce, "_attended", attended)
    monkeypatch.setattr(shelf, "names", lambda: list(shipped))
    monkeypatch.setattr(reproduce, "_obstacle", lambda *_: "")
    recipe, study = (found[0] for found in reproduce.asked(["imdb_s5", "imdb_headline"]))
    assert [command[:4] for command in study.commands] == [
        ("s5c.train", "-m", "+experiment=imdb_s5", "reduction=last,aire,bt_tolerance,h2,lqo,calibrated"),
        ("s5c.train", "-m", "+experiment=imdb_s5", "reduction=bt_empirical,h2_tolerance,lqo_curve"),
        (
            *("s5c.train", "-m", "+experiment=imdb_s5"),
            "reduction=last,aire,bt_tolerance,h2,lqo,bt_empirical,h2_tolerance",
        ),
    ]
    assert reproduce.run([recipe], [study], hours=1, device="")
    training, exported, compared, *others, report = started
    assert len(others) == 2 and all(command[:4] == compared[:4] for command in others)
    assert training == ["-m", "s5c.train", "+experiment=imdb_s5"]
    assert exported == ["-m", "s5c.studies", "export", "imdb_s5"]
    assert compared[:4] == ["-m", "s5c.reduce", "-m", "checkpoint=zoo:imdb_s5"] and report[1] == "s5c.report"


def test_models_with_one_system_per_channel_are_not_given_what_does_not_fit_them() -> None:
    (found,) = [study for study in studies.studies({"imdb_short_s4d"}) if study.recipe == "imdb_short_s4d"]
    assert (found.name, found.published.name) == ("imdb_short_s4d_headline", "imdb_short_s4d_headline")
    methods = found.commands[0][3].removeprefix("reduction=").split(",")
    assert methods == ["last", "aire", "bt_tolerance", "h2", "calibrated"]
    assert "lqo" in studies.of_model(plans.read("headline"), "imdb", "imdb_s5").commands[0][3]


@pytest.mark.slow
def test_models_with_unstable_modes_are_compared_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of those in the zoo have some; one that cannot be read does not stop the list."""
    every = {study.name: study for study in studies.studies(set(recipes.known()))}
    protected = {
        name: [command for command in study.commands if "reduction.unstable=protect" in command]
        for name, study in every.items()
    }
    found = {name: commands for name, commands in protected.items() if commands}
    assert set(found) == {
        *("smnist_small_comparison", "smnist_small_headline"),
        *("fashion_short_comparison", "fashion_short_headline"),
    }
    assert len(found["smnist_small_comparison"]) == 2, "the zoo's, and two seeds"
    assert len(found["smnist_small_headline"]) == 4, "of both bare and refitted"
    for name, commands in found.items():
        for entry, _, *arguments in commands:
            (arms,) = [text for text in arguments if text.startswith("reduction=")]
            for arm in arms.removeprefix("reduction=").split(","):
                others = [text for text in arguments if text != arms and "seed=1,2" not in text]
                values = jobs.compose(entry.removeprefix("s5c."), f"reduction={arm}", *others)
                assert (values["name"], values["reduction"]["unstable"]) == (name, "protect")
    monkeypatch.setattr(shelf, "names", lambda: ["digits_s5", "nothing_s5"])
    assert not modes.has_unstable_modes("digits_s5") and not modes.has_unstable_modes("nothing_s5")


def test_headlines_score_what_comparisons_leave_out() -> None:
    """And the refitted arms with the bare ones; `h2` is compared under every allocation that `bt` is."""
    every = {study.name: study for study in studies.studies(set(recipes.known()))}
    seen = every["smnist_small_comparison"]
    assert all(f"evaluation.test_examples={EXAMPLES}" in command for command in seen.commands)
    for name, study in every.items():
        if name.endswith("_headline"):
            assert all(f"evaluation.test_skip={EXAMPLES}" in command for command in study.commands)
            arms = [text for command in study.commands if set(REFITTED) <= set(command) for text in command]
            refitted = next(text for text in arms if text.startswith("reduction="))
            assert {"last", "aire", "h2_tolerance"} <= set(refitted.removeprefix("reduction=").split(","))
    assert any("h2_tolerance" in text for command in seen.commands for text in command)


def test_a_small_network_of_its_own_gets_the_epochs_of_original_and_start_together() -> None:
    study = studies.trained_again(plans.read("initialisation"), "digits")
    values = jobs.compose("train", "+experiment=digits_bt")
    whole = values["train"]["epochs"] + values["reduction"]["finetune"]["init_epochs"]
    _, command = study.commands
    assert {"reduction=fresh_init", f"reduction.finetune.init_epochs={whole}"} <= set(command)
    values = jobs.compose(
        "train", "+experiment=digits_bt", "reduction=fresh_init", f"reduction.finetune.init_epochs={whole}"
    )
    assert values["reduction"]["finetune"]["epochs"] == whole == 40


WHOLE = ("digits_comparison", "smnist_small_ablation")


@pytest.mark.few(12)
@pytest.mark.parametrize("study", studies.studies(set(recipes.known())), ids=lambda study: study.name)
def test_the_commands_of_studies_are_understood(study: studies.Study) -> None:
    """Composes the commands' configurations: all arms of two studies, and the first command of every other one."""
    for command in study.commands if study.name in WHOLE else study.commands[:1]:
        entry, _, *arguments = command
        single = [text if "[" in text else text.split(",")[0] for text in arguments]
        values = jobs.compose(entry.removeprefix("s5c."), *single)
        assert values["name"] == study.name


# ---- processes


def test_a_process_that_fails_does_not_end_the_queue_and_one_that_was_stopped_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def attended(code: str) -> bool:
        return reproduce._attended([sys.executable, "-c", f"import os, sys; {code}"])

    before = signal.getsignal(signal.SIGINT)
    assert attended("pass")
    assert not attended("sys.exit(3)") and "it failed" in capsys.readouterr().err
    assert not attended("os.kill(os.getpid(), 9)") and "killed by SIGKILL" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        attended("sys.exit(130)")
    assert signal.getsignal(signal.SIGINT) is before


_OTHERS = shutil.ignore_patterns("__pycache__", "*_s5.yaml", "*_s4d.yaml", "*_dss.yaml", "*_bt.yaml")


class Checkout:
    """A copy of the code with one small recipe in its queue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("s5c", "conf"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=_OTHERS)
        (folder / "conf/experiment/tiny_s5.yaml").write_text(TINY)
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
        for variable in ("S5C_ZOO", "S5C_RESULTS"):
            self.environment.pop(variable, None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "s5c.studies", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def await_step(self, process: subprocess.Popen[str], results: str, step: int) -> None:
        deadline = time.monotonic() + 240
        while not any(
            int(p.name) >= step for p in self.folder.glob(f"{results}/trained/*/checkpoints/[0-9]*") if p.name.isdigit()
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.mark.slow
def test_interrupted_moved_and_killed_the_queue_ends_with_the_model_in_the_zoo(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "checkout")
    run = ("run", "tiny_s5", "--no-measure", "--results")

    process = checkout.start(*run, "here")
    checkout.await_step(process, "here", 5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "saved in" in err and "the same command goes on from there" in err
    _, listed, _ = checkout.ask("list", "--no-measure", "--results", "here")
    assert f" of {EPOCHS}" in listed and "at epoch" in listed
    code, _, err = checkout.ask("export", "tiny_s5", "--results", "here")
    assert code == 1 and "tiny_s5 is at epoch" in err and not list(checkout.folder.glob("results/zoo/*"))

    there = checkout.folder / "there"
    shutil.copytree(checkout.folder / "here/trained", there / "trained")
    steps = max(int(path.name) for path in there.glob("trained/*/checkpoints/[0-9]*"))
    process = checkout.start(*run, "there")
    checkout.await_step(process, "there", steps + 1)
    process.kill()  # the training it started goes on, and the next one waits for it
    process.communicate(timeout=240)

    code, out, err = checkout.ask(*run, "there")
    assert code == 0, err
    assert [path.name for path in there.glob("trained/*")] == [
        path.name for path in (there.parent / "here").glob("trained/*")
    ]
    card = json.loads((checkout.folder / "results/zoo/tiny_s5/card.json").read_text())
    assert card["recipe"]["epochs"] == EPOCHS and card["command"] == "python -m s5c.train +experiment=tiny_s5"
    (row,) = jobs.rows(jobs.only(there, "tiny_s5/*/rows.jsonl"))
    assert card["metrics"]["test_accuracy"] == row["test_accuracy"]
    code, out, _ = checkout.ask(*run, "there")
    assert code == 0 and "In the zoo" in out and "tiny_s5" in out
    _, listed, _ = checkout.ask("list", "--no-measure")
    assert "in the zoo" in listed
