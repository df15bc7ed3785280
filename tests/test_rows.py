"""A row says what it is: its arm, whatever becomes of the presets; the command of its job; bytes and milliseconds."""

from __future__ import annotations

import importlib.machinery
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import pytest
from networks import network, weights_of
from rich.console import Console
from safetensors.numpy import save_file

from s5c import train
from s5c.errors import UserError
from s5c.evaluation import cost, load
from s5c.locations import conf_dir
from s5c.metric import REGRESSION
from s5c.pipeline import provenance, zoo
from s5c.pipeline.row import recipe_of
from s5c.report import arms, cells, published
from s5c.report import row as row_file
from s5c.report.arms import NEUTRAL, by_arm, identity, label, named
from s5c.report.average import aggregate
from s5c.report.collect import collect, describing_itself, restore, store, studies
from s5c.report.row import Row
from s5c.report.schemaless import PRESETS
from s5c.report.summary import accuracies
from s5c.report.tables import console, markdown
from s5c.training.checkpoint import load as load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]


# --- presets change, rows do not --------------------------------------------------------------------------------------


def edited(text: str) -> str:
    """Returns a yaml in which every number is another one."""
    return re.sub(r"(?<=[ \[])-?\d[\d.]*(?:e-?\d+)?(?=[\s,\]]|$)", lambda match: f"{float(match[0]) + 0.5:g}", text)


@pytest.mark.slow
def test_editing_every_number_of_every_preset_renames_no_stored_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    changed = 0
    for path in sorted((conf / "reduction").glob("*.yaml")):
        lines = [line if line.lstrip().startswith("#") else edited(line) for line in path.read_text().splitlines(True)]
        changed += "".join(lines) != path.read_text()
        path.write_text("".join(lines))
    assert changed > 15 and "eps: 0.5" in (conf / "reduction" / "last.yaml").read_text()
    real = conf_dir
    for module in list(sys.modules.values()):
        if getattr(module, "conf_dir", None) is real:
            monkeypatch.setattr(module, "conf_dir", lambda: conf)
    assert published.differences(REPOSITORY, zoo.summaries()) == []


@pytest.mark.slow
def test_every_stored_row_says_what_it_is() -> None:
    for folder in (REPOSITORY / "results" / "published").glob("*/table.csv"):
        for row in restore(folder.parent)[0]:
            assert row["schema"] >= 1 and row["arm"] == label(row)
            if row["reduction"] != row_file.FULL:
                assert {"method", "refit", "norm"} <= set(row["settings"])
                assert row["differences"].items() <= row["settings"].items()


def test_no_report_reads_a_yaml() -> None:
    for path in (REPOSITORY / "s5c" / "report").glob("*.py"):
        assert not re.search(r"import yaml|conf_dir", path.read_text()), path


def written(eps: float = 0.0, differences: dict[str, Any] | None = None, **changes: Any) -> Row:
    """Returns a row of LAST as a job writes it."""
    settings = {"method": "hinf", "allocation": "normalised", "score": "paper", "eps": eps, **NEUTRAL}
    row = {
        "task": "digits", "model": "s5", "experiment": "x", "seed": 0, "trained_id": "a", "protocol": "validation",
        "schema": 2, "reduction": "last", "preset": "last", "settings": settings, "differences": differences or {},
        "ratio": 0.5, "ratio_achieved": 0.5, "target": "ratio 0.5", "test_accuracy": 0.9, "timestamp": "2026-01-01",
        "arm": arms.called("last", differences or {}), **changes,
    }  # fmt: skip
    del row["settings"]["finetune.epochs"]
    return row


def test_a_changed_default_makes_another_arm_and_equal_settings_the_same() -> None:
    old, tuned = written(), written(1e-8, seed=1, timestamp="2026-02-01")
    asked = written(0.0, {"eps": 0.0}, seed=2, timestamp="2026-02-02")
    assert label(old) == label(tuned) == "last"
    assert identity(old) == identity(asked) != identity(tuned)
    found = {name: [row["seed"] for row in rows] for name, rows in by_arm([old, tuned, asked]).items()}
    assert found == {"last (eps=0.0)": [0, 2], "last": [1]}, "the newest names say what today's preset is not"
    means = aggregate([old, tuned, asked])
    assert {(label(row), row["n"]) for row in means} == {("last (eps=0.0)", 2), ("last", 1)}


def test_two_arms_of_one_name_are_told_apart_by_what_they_do_not_share() -> None:
    old, tuned = written(), written(1e-8, timestamp="2026-02-01")
    assert [label(row) for row in named([old, tuned])] == ["last (eps=0.0)", "last (eps=1e-08)"]
    assert [label(row) for row in named(named([old, tuned]))] == ["last (eps=0.0)", "last (eps=1e-08)"]
    more = [{**row, "differences": {"norm": "recalibrate", "refit_options.ridge": 1}} for row in (old, tuned)]
    more = [{**row, "arm": arms.called("last", row["differences"])} for row in more]
    assert [label(row) for row in named(more)] == [
        "last +bn (refit ridge=1, eps=0.0)", "last +bn (refit ridge=1, eps=1e-08)"
    ]  # fmt: skip
    other = written()
    del other["settings"]["score"], other["settings"]["eps"]
    other["settings"] |= {"method": "bt", "variant": "truncation"}  # a preset of one's own may have any name
    assert [label(row) for row in named([old, other])] == ["last (method=hinf)", "last (method=bt)"]
    (table,) = {accuracies(study) for study in studies([old, tuned])}
    assert "| last (eps=0.0) |" in table and "| last (eps=1e-08) |" in table


def test_a_row_without_a_schema_is_of_the_arm_that_its_preset_was_then() -> None:
    old = {
        key: value
        for key, value in written().items()
        if key not in ("schema", "preset", "settings", "differences", "arm")
    }
    old |= {"method": "hinf", "allocation": "normalised", "options": {"score": "paper"}}
    assert identity(old) == identity(written()) and label(old) == "last"
    told = describing_itself(old)
    assert told["schema"] == 1 and told["settings"]["eps"] == 0.0 and label(told) == "last"
    assert identity(told) == identity(old) and describing_itself(told) is told


@pytest.mark.parametrize("method", ["unstructured_random", "fresh"])
def test_an_older_row_is_not_named_after_what_did_nothing(method: str) -> None:
    plain = {"reduction": method, "method": method, "allocation": PRESETS[method]["allocation"], "options": {}}
    said = {**plain, "refit": "calibrated", "readout": "refit", "norm": "recalibrate"}
    assert label(said) == label(plain) == method and identity(said) == identity(plain)


def test_a_preset_that_no_longer_exists_keeps_its_name_and_settings(tmp_path: Path) -> None:
    gone = written(arm="sharp +bn", reduction="sharp", preset="sharp", differences={"norm": "recalibrate"})
    store([gone], {}, tmp_path)
    ((back,), _) = restore(tmp_path)
    assert label(back) == "sharp +bn" and back["settings"] == gone["settings"]


def test_the_tables_of_older_presets_are_as_the_yaml_was() -> None:
    """Today's yaml may differ from what is frozen; the methods and allocations in it have to exist."""
    assert {"last", "bt_tolerance", "calibrated", "unstructured_random"} <= set(PRESETS)
    assert PRESETS["calibrated"]["sequential"] == "reselect" and PRESETS["lamp"]["power"] == 2


# --- rows of jobs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun over presets, one of them in a folder of the user's own, and ratios."""
    folder = tmp_path_factory.mktemp("sweep")
    own = folder / "own" / "reduction"
    own.mkdir(parents=True)
    text = (conf_dir() / "reduction" / "last.yaml").read_text().replace("name: last", "name: mine")
    (own / "mine.yaml").write_text(text.replace("eps: 0.0", "eps: 0.25"))
    common = ("reduction.ratio=[0.25,0.999]", "reduction.norm=recalibrate", "evaluation.rounds=3", "name=x")
    places = ("-m", "--config-dir=own")
    done = jobs.run("train", *places, "reduction=last,mine", "evaluation.latency=true", *common, folder=folder)
    assert done.code == 0, done.err
    return folder


def of(sweep: Path, preset: str) -> list[Row]:
    found = [row for path in sweep.glob("results/x/*/rows.jsonl") for row in jobs.rows(path)]
    (name,) = {row["command"] for row in found if row["reduction"] == preset}
    return [row for row in found if row["command"] == name]


@pytest.mark.slow
def test_a_row_carries_preset_settings_differences_and_schema(sweep: Path) -> None:
    full, row, _ = of(sweep, "mine")
    assert (row["preset"], row["arm"], row["schema"]) == ("mine", "mine +bn", row_file.SCHEMA)
    assert row["differences"] == {"norm": "recalibrate"}, "eps=0.25 is the preset's own"
    assert row["settings"]["eps"] == 0.25 and row["settings"]["calibration.sequences"] == 256
    assert (full["arm"], full["preset"], full["settings"]) == ("unpruned", None, {})
    assert identity(row) != identity(of(sweep, "last")[1])


def test_jobs_write_each_column_and_no_other(sweep: Path) -> None:
    written = {key for row in collect([sweep]) for key in row}
    sometimes = {"above_last", "above_last_se", "error_h2_quadratic", "output_bound"}
    of_targets = {"metric", "outputs"} | {
        key for key in row_file.columns() if re.search(rf"^(val|test)_({'|'.join(REGRESSION)})(_full)?$", key)
    }
    of_reports = {key for key in row_file.columns() if key.startswith("step_")}  # deploy=true
    assert written - {"above_last", "above_last_se"} == set(row_file.columns()) - sometimes - of_targets - of_reports


VOLATILE = re.compile("timestamp|seconds|latency|speedup|load_others")


def steady(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if not VOLATILE.match(key)} for row in rows]


@pytest.mark.slow
def test_the_command_of_a_sweeps_row_gives_that_row_again(sweep: Path, tmp_path: Path) -> None:
    rows = of(sweep, "mine")
    program, *arguments = rows[0]["command"].removeprefix("python -m ").split(" ", 1)
    words = shlex.split(arguments[0])
    assert program == "s5c.train" and "-m" not in words and "reduction=mine" in words
    shutil.copytree(sweep / "own", tmp_path / "own")
    done = jobs.run("train", *words, folder=tmp_path)
    assert done.code == 0, done.err
    assert steady(jobs.rows(jobs.only(tmp_path, "results/x/*") / "rows.jsonl")) == steady(rows)


@pytest.mark.parametrize(
    ("spec", "argv"),
    [
        ("joblib.externals.loky.backend.popen_loky_posix", ["-m", "reduction=last,bt"]),
        ("submitit.core._submit", ["/elsewhere/.submitit/%j"]),
        (None, ["/usr/lib/python3/site-packages/some/launcher.py", "--worker"]),
    ],
)
def test_a_launchers_process_is_not_in_the_command(
    spec: str | None, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher runs the job in a process whose program and arguments are its own."""
    main = types.ModuleType("__main__")
    main.__spec__ = None if spec is None else importlib.machinery.ModuleSpec(spec, None)
    seen = []

    def elsewhere() -> None:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", main)
            patch.setattr(sys, "argv", argv)
            seen.append(provenance.command())

    def asked(job: Any) -> Any:
        elsewhere()
        raise UserError("That is enough.")

    monkeypatch.setattr(train, "prepare", asked)
    done = jobs.run("train", "-m", "seed=0,1", "reduction.ratio=[0.1,0.2]", folder=tmp_path)
    assert done.code == 1 and "That is enough." in done.err
    assert seen and all(text.startswith("python -m s5c.train ") for text in seen)
    assert "'reduction.ratio=[0.1,0.2]'" in seen[0] and "seed=0" in seen[0] and "loky" not in seen[0]


def test_a_launchers_worker_knows_the_program_too(tmp_path: Path) -> None:
    """The real launcher, where it is installed."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ("-m", "reduction=last,random", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=x")
    process = jobs.spawn("train", *arguments, folder=tmp_path)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    rows = [row for path in tmp_path.glob("results/x/*/rows.jsonl") for row in jobs.rows(path)]
    assert {row["command"].split()[2] for row in rows} == {"s5c.train"}
    assert not [row for row in rows if "launcher" in row["command"]]


def test_a_ratio_that_cannot_be_reached_is_not_shown_as_if_it_were(sweep: Path) -> None:
    row = of(sweep, "last")[2]
    assert (row["ratio"], row["ratio_achieved"], row["orders"]) == (0.999, 0.75, [1, 1])
    assert "0.999 was asked for and 0.75 is reached" in row["notes"][-1]
    rows = collect([sweep / "results/x"])
    text = markdown(rows)
    assert "[0.75] |" in text and "share really removed" in text
    lines = _printed(rows).splitlines()
    assert any("0.999" in line and "→0.75" in below for line, below in itertools.pairwise(lines))


def _printed(rows: list[Row]) -> str:
    terminal = Console(width=100, file=io.StringIO())
    terminal.print(console(rows))
    return terminal.file.getvalue()  # type: ignore[union-attr]


# --- what is reduced again, another step, another seed ----------------------------------------------------------------


@pytest.mark.slow
def test_a_reduced_model_is_not_taken_for_the_trained_one(sweep: Path) -> None:
    once = of(sweep, "last")[1]
    reduced = sweep / once["checkpoint"]
    assert load_checkpoint(reduced).metadata["reductions"] == ["last +bn at 0.25"]
    done = jobs.run("reduce", f"checkpoint={reduced}", "reduction=random", "name=again", folder=sweep)
    assert done.code == 0, done.err
    full, row = jobs.rows(jobs.only(sweep, "results/again/*") / "rows.jsonl")
    assert label(full) == "as given (of last +bn at 0.25)" and label(row) == "random (of last +bn at 0.25)"
    twice = load_checkpoint(sweep / row["checkpoint"]).metadata["reductions"]
    assert twice == ["last +bn at 0.25", "random at 0.5"]
    bare = {**row, "settings": {key: value for key, value in row["settings"].items() if key != "of"}}
    assert identity(row) != identity(bare)


def test_another_step_of_a_training_is_another_network(sweep: Path) -> None:
    trained = jobs.only(sweep, "results/trained/*")
    best, latest = (load_checkpoint(trained, which=which).path for which in ("best", "latest"))
    assert best != latest, "or this test shows nothing"
    found = []
    for name, given in (("s1", trained), ("s2", best), ("s3", latest)):
        assert jobs.run("evaluate", f"checkpoint={given}", f"name={name}", folder=sweep).code == 0
        found.append(jobs.rows(jobs.only(sweep, f"results/{name}/*") / "rows.jsonl")[0]["arm"])
    assert found == ["unpruned", "unpruned", f"unpruned (weights=step {latest.name})"]
    done = jobs.run("reduce", f"checkpoint={latest}", "reduction.weights=latest", folder=sweep)
    assert done.code == 1 and "weights=latest changes nothing" in done.err


def test_draws_are_all_kept_and_averaged_and_seeds_that_draw_nothing_are_not(tmp_path: Path) -> None:
    def run(name: str, seed: int, loss: float) -> None:
        row = written(reduction=name, arm=name, reduction_seed=seed, test_loss=loss, timestamp=f"2026-01-0{seed + 1}")
        (tmp_path / f"{name}{seed}").mkdir()
        (tmp_path / f"{name}{seed}" / "rows.jsonl").write_text(json.dumps(row) + "\n")

    for seed in (0, 1, 2):
        run("random", seed, 0.1 * seed)
        run("last", seed, 0.7)
    rows = collect([tmp_path])
    assert [(row["reduction"], row["reduction_seed"]) for row in rows] == [
        ("last", 2),
        *(("random", s) for s in (0, 1, 2)),
    ]
    assert [(row["reduction"], row["n"]) for row in aggregate(rows)] == [("last", 1), ("random", 3)]


def test_experiments_and_parts_of_the_test_split_do_not_replace_each_other(tmp_path: Path) -> None:
    rows = [written(experiment="a"), written(experiment="b"), written(experiment="b", test_examples=100)]
    rows += [written(experiment="b", test_examples=360), written(experiment="b", test_examples=100, test_skip=260)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = collect([tmp_path])
    assert len(found) == 5
    titles = {study.title for study in studies(found)}
    assert "digits, s5, b, 100 test examples, 260 others left out" in titles
    assert titles >= {"digits, s5, b, 100 test examples", "digits, s5, b, 360 test examples"}


def test_a_task_with_a_validation_split_of_its_own_is_not_selected_on_test_data() -> None:
    rows = [written(protocol="paper", selected_on=split, experiment=split) for split in ("validation", "test")]
    text = markdown(rows)
    assert text.count("\n## ") + text.startswith("## ") == 2
    own, other = sorted(text.split("## digits")[1:], key=lambda part: "⚠" in part)
    assert "⚠" not in own and "⚠" in other


# --- bytes and milliseconds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["s5", "s4d"])
def test_bytes_are_those_of_a_real_file(family: str, tmp_path: Path, rng: np.random.Generator) -> None:
    weights = jax.device_get(weights_of(network(family=family), rng))
    found = cost.stored(weights)
    save_file(cost.named_arrays(weights), tmp_path / "weights.safetensors")
    assert found.safetensors == (tmp_path / "weights.safetensors").stat().st_size
    assert found.arrays == sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) < found.safetensors
    assert cost.stored(weights) == found


def test_bytes_of_a_zoo_model_are_those_of_its_file() -> None:
    folder = REPOSITORY / "results" / "zoo" / "digits_s5"
    if not folder.is_dir():
        pytest.skip("the zoo is not in this checkout")
    assert cost.stored(zoo.load("digits_s5").weights).safetensors == (folder / "weights.safetensors").stat().st_size


def test_a_row_has_bytes_milliseconds_spread_and_batch(sweep: Path) -> None:
    full, row, least = of(sweep, "last")
    assert full["safetensors_bytes"] == row["safetensors_bytes_full"] > row["safetensors_bytes"] > row["array_bytes"]
    assert row["array_bytes"] == sum(
        leaf.nbytes for leaf in jax.tree.leaves(load_checkpoint(sweep / row["checkpoint"]).weights)
    )
    low, high = row["latency_quartiles_ms"]
    assert low <= row["latency_ms"] <= high and row["latency_batch_size"] == 60 and row["latency_rounds"] == 3
    rows = collect([sweep / "results/x"])
    cells = next(line for line in markdown(rows).splitlines() if line.startswith("| last +bn | 0 | 0.25 | 0.25"))
    assert re.search(r"\| 60 \| [\d.]+ ms → [\d.]+ ms \([\d.]+ to [\d.]+\) \| [\d.]+×", cells), cells
    assert cost.stored(load_checkpoint(sweep / least["checkpoint"]).weights).safetensors == least["checkpoint_bytes"]
    text = _printed(rows)
    assert "…" not in text and re.search(r" [\d.]+±[\d.]+ ", text) and "ms a batch of 60" in " ".join(text.split())


def test_a_loaded_machine_is_noticed_and_said() -> None:
    with load.watched() as idle:
        pass
    assert idle.others is None, "too short for the clock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load.psutil, "cpu_times", lambda: (_ for _ in ()).throw(FileNotFoundError("/proc/stat")))
        with load.watched() as untold:
            pass
    assert untold.others is None
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with load.watched() as found:
            time.sleep(1.0)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert found.others is not None and found.others > cells.LOADED
    timed = {"latency_ms": 1.0, "latency_quartiles_ms": [0.9, 1.2], "latency_batch_size": 60, "latency_rounds": 9}
    loaded, quiet = (written(**timed, speedup=1.0, load_others=share) for share in (0.43, 0.02))
    assert "Measured on a loaded machine" in markdown([loaded]) and "43 %" in markdown([loaded])
    assert "loaded to 43 %" in " ".join(_printed([loaded]).split())
    assert "oaded" not in markdown([quiet]) + _printed([quiet])


def test_a_later_run_without_latency_does_not_erase_it(sweep: Path, tmp_path: Path) -> None:
    timed = written(
        latency_ms=2.0, speedup=1.5, backend="scan", temp_bytes=7, device="one", latency_quartiles_ms=[1, 3]
    )
    later = written(
        latency_ms=None, speedup=None, backend=None, device="two", test_accuracy=0.8, timestamp="2026-03-01"
    )
    for name, rows in (("a", [timed]), ("b", [later])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = collect([tmp_path])
    assert (row["test_accuracy"], row["latency_ms"], row["speedup"], row["backend"]) == (0.8, 2.0, 1.5, "scan")
    assert row["device"] == "two" and row["latency_device"] == "one" and "on one." in markdown([row])

    before = of(sweep, "mine")
    (path,) = (path for path in sweep.glob("results/x/*/rows.jsonl") if jobs.rows(path) == before)
    words = [word for word in shlex.split(before[0]["command"])[3:] if not word.startswith("evaluation.latency")]
    again = ("evaluation.latency=false", f"hydra.run.dir='{path.parent}'")
    done = jobs.run("train", *words, *again, folder=sweep)
    assert done.code == 0, done.err
    assert [row["latency_ms"] for row in jobs.rows(path)] == [row["latency_ms"] for row in before]
    assert jobs.rows(path) == before, "nothing was computed again"


def test_sizes_of_old_and_new_rows_are_not_averaged() -> None:
    old = {**written(checkpoint_bytes=100), "schema": 1}
    (mean,) = aggregate([old, written(seed=1, checkpoint_bytes=50, safetensors_bytes=50)])
    assert mean["n"] == 2 and mean["checkpoint_bytes"] is None and mean["safetensors_bytes"] is None


def test_a_key_of_the_recipe_that_older_trainings_lack_does_not_part_them() -> None:
    """A model of the zoo and trainings of today were of two studies: only these had `dt_lr`, and it was null."""
    card = zoo.load("digits_s5").metadata
    older = {key: value for key, value in card["recipe"].items() if value is not None}

    def checksum(recipe: dict[str, Any]) -> str:
        return recipe_of({**card, "recipe": recipe})

    assert checksum(older) == checksum({**older, "dt_lr": None}) != checksum({**older, "dt_lr": 0.001})
