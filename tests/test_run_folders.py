"""One question, one folder: the same question finds it however it is spelled, another one never does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jobs
import layouts
import pytest

from s5c.errors import UserError
from s5c.pipeline import zoo
from s5c.pipeline.folder import check_name, label_of, opened, readable
from s5c.pipeline.restored import restore
from s5c.pipeline.trained import prepare
from s5c.train import resolve
from s5c.training.checkpoint import load, save_single

pytestmark = pytest.mark.usefixtures("without_figures")

LAST = ("reduction=last", "reduction.ratio=0.5")
REUSED = "nothing is computed again"


class Home(NamedTuple):
    """Two trainings that differ in their seed, and the reduction of the first."""

    folder: Path
    one: Path
    other: Path
    run: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    trained = []
    for seed in (0, 1):
        assert jobs.run("train", "reduction=none", f"seed={seed}", f"name=seed{seed}", folder=folder).code == 0
        trained.append(next(path for path in folder.glob("results/trained/*") if path not in trained))
    assert jobs.run("reduce", f"checkpoint={trained[0]}", *LAST, folder=folder).code == 0
    return Home(folder, *trained, jobs.only(folder, "results/reduce/*"))


def runs(home: Home, name: str = "reduce") -> set[Path]:
    return set(home.folder.glob(f"results/{name}/*"))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file below a folder but its log, which says that the folder was used."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# ---- the same question


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "spelled",
    [
        lambda home: [f"checkpoint={os.path.relpath(home.one, home.folder)}", *LAST],
        lambda home: [f"checkpoint={home.one}/", *LAST],
        lambda home: [f"checkpoint={home.folder}/results/reduce/../trained/{home.one.name}", *LAST],
        lambda home: [f"checkpoint={load(home.one).path}", *LAST],
        lambda home: [f"checkpoint={home.folder / 'link'}", *LAST],
        lambda home: [f"checkpoint={home.one}", "reduction.ratio=0.50"],
        lambda home: [f"checkpoint={home.one}", "reduction=last", "reduction.ratio=[0.5]"],
        lambda home: [f"checkpoint={home.one}", "reduction.save=TRUE", "evaluation.latency=False"],
        lambda home: [f"checkpoint={home.one}", "reduction.eps=0", "reduction.seed=0", "wandb.tags=[a]"],
        lambda home: ["-m", f"checkpoint={home.one}", *LAST],
    ],
    ids=["relative", "slash", "dots", "step", "link", "number", "list", "case", "defaults", "sweep"],
)
def test_another_spelling_finds_the_folder(spelled: Callable[[Home], list[str]], home: Home) -> None:
    if not (home.folder / "link").exists():
        (home.folder / "link").symlink_to(home.one)
    before, held = contents(home.run), runs(home) - {home.folder / "results/reduce/multirun.yaml"}
    done = jobs.run("reduce", *spelled(home), folder=home.folder)
    assert done.code == 0 and REUSED in done.err, done.err
    assert runs(home) - {home.folder / "results/reduce/multirun.yaml"} == held
    assert contents(home.run) == before


def test_a_model_of_the_zoo_is_the_training_it_comes_from(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5C_ZOO", str(home.folder / "zoo"))
    zoo.export(restore({"checkpoint": str(home.one)}, which="best"), "tiny")
    held = runs(home)
    done = jobs.run("reduce", "checkpoint=zoo:tiny", *LAST, folder=home.folder)
    assert done.code == 0 and REUSED in done.err, done.err
    assert runs(home) == held


def test_a_moved_run_folder_says_where_its_models_are(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.folder / "results", tmp_path / "results")
    done = jobs.run("reduce", f"checkpoint=results/trained/{home.one.name}", *LAST, folder=tmp_path)
    assert done.code == 0 and REUSED in done.err
    full, reduced = jobs.rows(tmp_path / "results/reduce" / home.run.name / "rows.jsonl")
    assert reduced["checkpoint"] == f"results/reduce/{home.run.name}/reduced/last-0.5"
    assert full["parent"] == full["checkpoint"] == os.path.relpath(load(home.one).path, home.folder)


# ---- another question


@pytest.mark.slow
def test_a_second_model_leaves_the_first_ones_results_alone(home: Home, tmp_path: Path) -> None:
    """The case in which a reduced model, reduced again with the same overrides, was replaced by what came of it."""
    for trained in (home.one, home.other):
        assert jobs.run("reduce", f"checkpoint={trained}", "reduction=last", folder=tmp_path).code == 0
    found = [jobs.rows(path) for path in sorted(tmp_path.glob("results/reduce/*/rows.jsonl"))]
    assert {rows[0]["trained_id"] for rows in found} == {home.one.name[-10:], home.other.name[-10:]}
    given = min(tmp_path.glob("results/reduce/*/reduced/last-0.5"))
    before, tables = contents(given.parents[1]), []
    for _ in range(2):
        done = jobs.run("reduce", f"checkpoint={given}", "reduction=last", folder=tmp_path)
        assert done.code == 0, done.err
        tables.append(done.out)
    assert tables[0] == tables[1] and REUSED in done.err
    assert contents(given.parents[1]) == before
    assert sum(load(given).metadata["state_dims"]) == 4, "half of 8, not a quarter"
    assert len(list(tmp_path.glob("results/reduce/*/rows.jsonl"))) == 3


@pytest.mark.slow
def test_a_sweep_over_checkpoints_keeps_all(home: Home, tmp_path: Path) -> None:
    done = jobs.run("reduce", "-m", f"checkpoint={home.one},{home.other}", *LAST, "name=both", folder=tmp_path)
    assert done.code == 0, done.err
    found = [jobs.rows(path)[1] for path in tmp_path.glob("results/both/*/rows.jsonl")]
    assert {row["trained_id"] for row in found} == {home.one.name[-10:], home.other.name[-10:]}
    assert all(load(tmp_path / row["checkpoint"]).metadata["trained_id"] == row["trained_id"] for row in found)


@pytest.mark.parametrize("entry", ["reduce", "evaluate"])
def test_a_checkpoint_trained_further_at_the_same_path(entry: str, home: Home, tmp_path: Path) -> None:
    stored = load(home.one)
    for factor in (1.0, 1.5):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        weights = jax.tree.map(lambda w: w * factor, stored.weights)  # noqa: B023
        save_single(tmp_path / "model", weights=weights, metadata=stored.metadata)
        assert jobs.run(entry, "checkpoint=model", folder=tmp_path).code == 0
    losses = [jobs.rows(path)[0]["test_loss"] for path in tmp_path.glob(f"results/{entry}/*/rows.jsonl")]
    assert len(set(losses)) == 2


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "change",
    [
        ("reduction.ratio=0.25",),
        ("reduction.ratio=[0.5,0.25]",),
        ("reduction=global_hinf",),
        ("reduction.eps=0.1",),
        ("reduction.seed=1",),
        ("reduction.save=false",),
        ("evaluation.test_examples=100",),
        ("evaluation.test_skip=100",),
        ("evaluation.batch_size=32",),
        ("+task.name=digits", "+task.validation_fraction=0.2"),
    ],
    ids=" ".join,
)
def test_whatever_changes_a_row_changes_the_folder(change: tuple[str, ...], home: Home) -> None:
    before, held = contents(home.run), runs(home)
    changed = {override.split("=")[0] for override in change}
    same = [override for override in LAST if override.split("=")[0] not in changed]
    done = jobs.run("reduce", f"checkpoint={home.one}", *same, *change, folder=home.folder)
    assert done.code == 0, done.err
    assert len(runs(home) - held) == 1 and contents(home.run) == before


def test_a_place_is_no_identity_and_other_data_is(tmp_path: Path) -> None:
    """`/d/v1` and `/d-v1` were one folder name; here they are one question as long as they hold the same data."""
    folders = [layouts.FILES["fsdd"](tmp_path / place) for place in ("d/v1", "d-v1", "other")]
    removed = min(path for path in folders[2].rglob("*.wav") if path.name.startswith("9_"))
    removed.unlink()
    ids = []
    for folder in folders:
        places = (f"task.data_dir={folder}", f"task.cache_dir={tmp_path / 'cache'}", "train.batch_size=2")
        ids.append(prepare(resolve(jobs.compose("train", "task=fsdd", *places))[0]).id)
    assert ids[0] == ids[1] != ids[2]


# ---- names


def test_names_are_short_plain_and_say_what_they_are() -> None:
    long = readable("ein Modell, groß " * 20, "+".join(f"train.key{i}-{i}" for i in range(20))[:100])
    assert len(long.encode()) < 200 and not set(long) & set("=/ [],{}:'ß")
    assert readable("", "run") == "run" and readable("digits_s5", "run") == "digits_s5"
    assert label_of("zoo:digits_s5") == "digits_s5" and label_of("results/trained/digits-s5-1a/") == "digits-s5-1a"
    assert label_of("trained/digits-s5-1a/checkpoints/40") == "digits-s5-1a-step40"
    assert label_of("trained/digits-s5-1a/checkpoints") == "digits-s5-1a"


@pytest.mark.slow
def test_a_very_long_command(home: Home) -> None:
    many = ",".join(f"a{i}" for i in range(400))
    done = jobs.run("evaluate", f"checkpoint={home.one}", f"wandb.tags=[{many}]", folder=home.folder)
    assert done.code == 0, done.err
    more = [f"reduction.{key}" for key in ("refit=calibrated", "calibration.seed=1", "calibration.sequences=17")]
    done = jobs.run("reduce", f"checkpoint={home.one}", *more, *LAST, "name=long/er", folder=home.folder)
    assert done.code == 0, done.err
    assert len(jobs.only(home.folder, "results/long/er/*").name) < 255


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "../../x", "a/../../x", "/abs", "a//b", "a/", "~", "a\\b", "a\nb", "trained", "Zoo/x"],
)
def test_names_that_lead_out_of_the_results(name: str) -> None:
    with pytest.raises(UserError, match="cannot name a folder of results"):
        check_name(name)


@pytest.mark.parametrize("name", ["reduce", "a/b", ".x", "digits_last", "mein Ergebnis", "x-1.5"])
def test_names_that_do_not(name: str) -> None:
    assert check_name(name) == name


# ---- the folder itself


QUESTION = {"name": "x", "model": {"weights": "abc"}}


def test_the_folder_of_a_question_is_found_again(tmp_path: Path) -> None:
    found = []
    for name, question in (("first", QUESTION), ("spelled-otherwise", QUESTION), ("first", {**QUESTION, "name": "y"})):
        with opened(tmp_path / "x", name, question) as folder:
            found.append(folder)
    assert found[0] == found[1] and found[0].name.startswith("first-") and found[2] != found[0]
    assert json.loads((found[0] / "identity.json").read_text())["question"] == QUESTION


def test_equal_checksums_of_different_questions_are_told_apart(tmp_path: Path) -> None:
    with opened(tmp_path, "run", QUESTION) as folder:
        pass
    other = json.loads((folder / "identity.json").read_text()) | {"digest": "another"}
    (folder / "identity.json").write_text(json.dumps(other))
    with opened(tmp_path, "run", QUESTION) as longer:
        assert longer != folder and longer.name.startswith(folder.name)
    with opened(tmp_path, "run", QUESTION) as again:
        assert again == longer


def test_nothing_is_written_inside_an_input(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for base in (tmp_path / "model", tmp_path / "model" / "deep" / "er", tmp_path / "link" / "x"):
        with (
            pytest.raises(UserError, match="which is what is read"),
            opened(base, "run", QUESTION, inputs=[tmp_path / "model"]),
        ):
            raise AssertionError
    assert list((tmp_path / "model").iterdir()) == []
    # A model inside the very folder of its question, as one that a ratio of 0 left as it was: a folder of its own.
    with opened(tmp_path / "x", "run", QUESTION) as folder:
        (folder / "reduced/last-0").mkdir(parents=True)
    with opened(tmp_path / "x", "run", QUESTION, inputs=[folder / "reduced/last-0"]) as beside:
        assert beside != folder


def test_a_refused_command_takes_its_folder_away_unless_it_holds_results(tmp_path: Path) -> None:
    def refused(base: Path, result: str = "") -> None:
        with pytest.raises(UserError, match="no"), opened(base, "run", QUESTION) as folder:
            if result:
                (folder / result).mkdir(parents=True)
            raise UserError("no")

    refused(tmp_path / "results/x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    refused(tmp_path / "results/x")
    assert list(tmp_path.iterdir()) == [tmp_path / "results"] and not any((tmp_path / "results").iterdir())
    for result in ("reduced", "finetuned"):
        refused(tmp_path / "results" / result, result)
        assert jobs.only(tmp_path, f"results/{result}/*/{result}")


def test_a_folder_that_somebody_chose(home: Home, tmp_path: Path) -> None:
    command = ("evaluate", f"checkpoint={home.one}", f"hydra.run.dir={tmp_path / 'mine'}")
    assert jobs.run(*command, folder=home.folder).code == 0
    before = contents(tmp_path / "mine")
    assert "rows.jsonl" in before
    again = jobs.run(*command, folder=home.folder)
    assert again.code == 0 and REUSED in again.err
    other = jobs.run("evaluate", f"checkpoint={home.other}", *command[2:], folder=home.folder)
    assert other.code == 1 and "holds something else than the results of this command" in other.err
    assert contents(tmp_path / "mine") == before


@pytest.mark.slow
def test_old_run_folders_stay_and_are_read(home: Home, tmp_path: Path) -> None:
    """A folder of a version that named it after overrides: left alone, and in reports as before."""
    old = tmp_path / "results/reduce/reduction-last"
    shutil.copytree(home.run, old)
    for path in (old / "identity.json", old / "finished.json"):
        path.unlink()
    shutil.rmtree(old / "parts")
    before = contents(old)
    assert jobs.run("reduce", f"checkpoint={home.one}", "reduction=last", folder=tmp_path).code == 0
    assert contents(old) == before and len(list(tmp_path.glob("results/reduce/*"))) == 2
    done = jobs.run("report", "runs=results/reduce", "output=made", folder=tmp_path)
    assert done.code == 0 and "2 rows -> " in done.out, "each of them once, the newest"


@pytest.mark.slow
def test_a_report_does_not_replace_files_of_a_run(home: Home) -> None:
    before = contents(home.run)
    done = jobs.run("report", f"runs={home.run}", f"output={home.run}", folder=home.folder)
    assert done.code == 1 and "is the folder of a run" in done.err and contents(home.run) == before
    held: Any = set(home.folder.glob("results/*"))
    done = jobs.run("report", f"runs={home.run}", "output=elsewhere", folder=home.folder)
    assert done.code == 0 and set(home.folder.glob("results/*")) == held, "a report is no run"
