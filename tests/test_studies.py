"""Studies are yaml files whose commands stay what they were; the queue is listed at once and leaves a record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
import pytest

from s5c.errors import UserError
from s5c.locations import conf_dir
from s5c.pipeline import shelf
from s5c.pipeline.trained import described
from s5c.studies import __main__ as program
from s5c.studies import composed, cost, modes, plans, queue, recipes, record, studies

STORED = json.loads((Path(__file__).parent / "reference/studies.json").read_text("utf-8"))
"""What the queue gave when its studies were tuples in Python: machines have marks of commands that have ended."""
ATTENDED = queue._attended


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S5C_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def marks(study: studies.Study) -> str:
    return " ".join(hashlib.sha256(" ".join(command).encode()).hexdigest()[:12] for command in study.commands)


@pytest.mark.parametrize("which", ["in_the_zoo", "without_zoo"])
def test_commands_and_their_marks_are_those_that_have_ended_on_machines(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which == "without_zoo":
        monkeypatch.setattr(shelf, "names", list)
    found = {study.name: study for study in studies.studies(set(recipes.known()))}
    assert set(found) == set(STORED["studies"])
    for name, study in found.items():
        stored = STORED["studies"][name]
        assert (study.recipe, study.epochs) == (stored["recipe"], stored["epochs"])
        assert marks(study) == stored[which], name
    if which == "in_the_zoo":
        for name, commands in STORED["spelled"].items():
            assert [" ".join(command) for command in found[name].commands] == commands


# ---- without Hydra, without JAX


@pytest.mark.few(5)
@pytest.mark.parametrize("name", recipes.known())
def test_a_recipe_is_read_as_hydra_composes_it(name: str) -> None:
    read, hydras = composed.experiment(name), jobs.compose("train", f"+experiment={name}")
    assert read == hydras
    recipe = recipes.Recipe(name, read)
    assert recipes.described(read) == described(recipe.job)
    assert recipe.place == recipe.job.folder


@pytest.mark.parametrize("name", [f"{task}_bt" for task in ("digits", "imdb", "listops_small")])
def test_an_experiment_with_references_is_read_as_hydra_composes_it(name: str) -> None:
    assert composed.experiment(name) == jobs.compose("train", f"+experiment={name}")


def test_numbers_are_read_as_omegaconf_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-3\nb: 0,1\nc: .inf\nd: 12\ne: 1.5\nf: 1_000\ng: zoh\nh: -2E+4\n")
    read = composed.read(path)
    assert read == {"a": 1e-3, "b": "0,1", "c": float("inf"), "d": 12, "e": 1.5, "f": 1000, "g": "zoh", "h": -2e4}
    path.write_text("a: [1\n")
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match=r"x\.yaml cannot be read as yaml"):
        composed.read(path)


LISTED = """
import sys
sys.argv = ["s5c.studies", "list"]
from s5c.studies.__main__ import main
assert main() == 0
heavy = [name for name in ("jax", "flax", "hydra", "omegaconf") if name in sys.modules]
assert not heavy, heavy
"""


def test_the_list_loads_nothing_heavy(results: Path) -> None:
    """Also where a training goes on, a study has ended in part and costs are stored."""
    (recipe,) = recipes.queue(["imdb_s5"])
    folder = results / "trained/imdb-s5-0"
    (folder / "checkpoints/1000").mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps({**described(recipe.job), "data": "x", "source": "files"}))
    (study,) = [one for one in studies.studies({"imdb_s5"}) if one.name == "imdb_ablation"]
    study.mark(study.commands[0]).parent.mkdir(parents=True)
    study.mark(study.commands[0]).write_text("")
    (results / "costs.json").write_text('{"imdb_s5-0": 9.0, "imdb_s5-1": {"seconds": 36.0, "device": "a GPU"}}')
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (line,) = [line for line in lines if "│ imdb_s5 " in line and "35 ×" in line]
    assert [cell.strip() for cell in line.split("│")[2:6]] == ["35 × 450", "36", "148", "at epoch 2 of 35"]
    (line,) = [line for line in lines if "imdb_ablation" in line]
    assert "1 of 7 commands" in line
    assert any("measured last on a GPU" in line for line in lines)


def test_a_training_of_another_recipe_is_not_taken_for_it(results: Path) -> None:
    (recipe,) = recipes.queue(["imdb_s5"])
    for number, key, value in ((0, "seed", 1), (1, "version", 2), (2, "task", {"name": "imdb"})):
        folder = results / f"trained/imdb-s5-{number}"
        (folder / "checkpoints/9").mkdir(parents=True)
        (folder / "identity.json").write_text(json.dumps({**described(recipe.job), key: value}))
    assert recipe.state() == "not started"
    (results / "trained/imdb-s5-0/identity.json").write_text(json.dumps(described(recipe.job)))
    assert recipe.steps_done() == 9


# ---- plans


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan in a folder of S5C_PLUGINS."""
    path = tmp_path / "plugins/conf/study/mine.yaml"
    path.parent.mkdir(parents=True)
    monkeypatch.setenv("S5C_PLUGINS", str(tmp_path / "plugins"))
    return path


def test_a_new_study_is_one_yaml(mine: Path) -> None:
    mine.write_text("# Mine.\nratios: [0.25]\nnot_of: [imdb]\narms:\n  - reduction=last,aire reduction.refit=h2\n")
    found = {study.name: study for study in studies.studies({"digits_s5", "imdb_s5", "imdb_s4d"})}
    assert "digits_mine" in found and "imdb_mine" not in found and "imdb_ablation" in found
    (command,) = found["digits_mine"].commands
    assert " ".join(command) == (
        "s5c.reduce -m checkpoint=zoo:digits_s5 reduction=last,aire reduction.refit=h2 name=digits_mine "
        "reduction.ratio=[0.25] reduction.save=false evaluation.latency=false"
    )
    assert queue.asked(["digits_mine"])[1][0].recipe == "digits_s5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm: [x=1]", r"Unknown key of .*mine\.yaml: 'arm'(.|\n)*Did you mean 'arms'"),
        ("arms: reduction=last", r"mine\.yaml: arms: 'reduction=last' is not of type list\[str\]"),
        ("arms: [reduction=last]\ntest_skip: true", r"test_skip: True is not of type int"),
        (
            "arms: [reduction=last]\nratios: wade",
            r"mine\.yaml: Unknown file of conf/ratios 'wade'(.|\n)*'wide'",
        ),
        ("ratios: wide", r"mine\.yaml has no arms"),
        ("- reduction=last", r"mine\.yaml holds no keys"),
    ],
)
def test_a_wrong_plan_is_a_message(mine: Path, text: str, said: str) -> None:
    mine.write_text(text)
    with pytest.raises(UserError, match=said):
        plans.plans()


@pytest.mark.parametrize("path", sorted((conf_dir() / plans.GROUP).glob("*.yaml")), ids=lambda path: path.stem)
def test_a_plan_says_what_it_is_and_its_command_names_a_study_of_it(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith(".") and max(map(len, lines)) <= 120
    shown = [line.split()[5:] for line in lines if line.startswith("#   python -m s5c.studies run ")]
    assert shown
    found = {study.name: study for study in studies.studies(set(recipes.known()))}
    end = plans.read(path.stem).experiment or path.stem
    assert all(name in found and name.endswith(f"_{end}") for names in shown for name in names)


def test_old_cards_are_counted_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    def count(recipe: str) -> bool | None:
        counted.append(recipe)
        return {"smnist_small_s5": True, "digits_s5": None}[recipe]

    monkeypatch.setattr(modes, "_counted", count)
    results.mkdir()
    assert modes.has_unstable_modes("smnist_small_s5") and modes.has_unstable_modes("smnist_small_s5")
    assert not modes.has_unstable_modes("digits_s5") and not modes.has_unstable_modes("digits_s5")
    assert counted == ["smnist_small_s5", "digits_s5", "digits_s5"], "what cannot be read is not remembered"
    monkeypatch.setattr(shelf, "card", lambda name: {"unstable_modes": [0, 2]})
    assert modes.has_unstable_modes("digits_s5") and len(counted) == 3, "a card that says so is believed"


# ---- the record


def quick(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Has the queue run `code` in the place of every command."""
    monkeypatch.setattr(queue, "_attended", lambda command, ended: ATTENDED([sys.executable, "-c", code], ended))


def test_the_record_says_what_runs_and_what_has_ended(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queue, "_obstacle", lambda recipe, *_: "no data" if recipe.name == "smnist_s5" else "")
    asked = queue.asked(["imdb_s5", "smnist_s5"])[0]
    path = results / "queue.json"
    running = f"json.load(open({str(path)!r}))['imdb_s5']['state'] == 'running'"
    look = f"import json; raise SystemExit(3 if {running} else 4)"
    quick(monkeypatch, look)
    assert not queue.run(asked, [], hours=1, device="")
    entries = json.loads(path.read_text())
    assert list(entries) == ["imdb_s5", "smnist_s5"], "in the order of what happened"
    first = entries["imdb_s5"]
    assert (first["state"], first["exit"], first["command"]) == ("failed", 3, "s5c.train +experiment=imdb_s5")
    assert first["began"] <= first["ended"] and first["seconds"] >= 0
    assert (entries["smnist_s5"]["state"], entries["smnist_s5"]["why"]) == ("skipped", "no data")
    quick(monkeypatch, "raise SystemExit(130)")
    with pytest.raises(KeyboardInterrupt):
        queue.run(asked, [], hours=1, device="")
    assert record.entries()["imdb_s5"].state == "stopped" and record.entries()["imdb_s5"].exit == 130
    quick(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert not queue.run(asked[:1], [], hours=1, device="")
    capsys.readouterr()
    assert program.main(["status"]) == program.main(["list", "imdb_s5", "smnist_s5"]) == 0
    said = capsys.readouterr().out
    assert said.count("failed with SIGKILL") == said.count("skipped: no data") == 2
    quick(monkeypatch, "pass")
    assert queue.run(asked[:1], [], hours=1, device="")
    ended = record.entries()["imdb_s5"]
    assert (ended.state, ended.exit, ended.command) == ("finished", 0, "s5c.studies export imdb_s5")
    assert not list(results.glob("*.json.*")) and not list(results.glob(".*"))


def test_a_queue_that_has_gone_is_not_said_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with record.running("imdb_s5", "s5c.train") as ended:
        entry = record.entries()["imdb_s5"]
        assert not entry.lost and "running" in entry.line()
        assert dataclasses.replace(entry, process=gone.pid).lost
        assert not dataclasses.replace(entry, process=gone.pid, host="elsewhere").lost
        ended(0)
    assert "finished after" in record.entries()["imdb_s5"].line()


def test_a_damaged_record_stops_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["status"]) == 0 and "Nothing has run yet" in capsys.readouterr().out
    results.mkdir()
    (results / "queue.json").write_text('{"a": {"state": "runn')
    (results / "costs.json").write_text("[")
    assert record.entries() == {} and cost.stored() == {}
    record.skipped("digits_s5", "why not")
    assert record.entries()["digits_s5"].line() == "skipped: why not"


def test_a_device_that_is_not_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "nothing")
    with pytest.raises(UserError, match=r"No device to measure on: .*nothing(.|\n)*--no-measure"):
        cost.device_here()


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    said: Any = capsys.readouterr().out
    assert "list | run | status | export | recount" in said and "measure NAME" not in said
