"""Everything under results/ and the marked tables of README.md are what the stored runs give."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import jobs
import pytest
import yaml

from s5c import config as settings
from s5c.errors import UserError
from s5c.evaluation import published
from s5c.evaluation.collect import restore, store
from s5c.pipeline import zoo

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "scripts"))

import wandb_dashboard  # noqa: E402

README = "# x\n\n<!-- table: accuracy demo 0.5 -->\nold\n<!-- /table -->\n\n<!-- table: zoo -->\n<!-- /table -->\n"


def test_what_is_published_is_what_the_stored_runs_give() -> None:
    assert published.differences(REPOSITORY, zoo.summaries()) == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    rows, arrays = restore(REPOSITORY / published.FOLDER / "smnist_small")
    store(rows, arrays, tmp_path / published.FOLDER / "demo")
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def test_publishing_writes_all_and_a_check_finds_every_change(checkout: Path) -> None:
    models = {"tiny": "a model"}
    made = published.publish(checkout, models, formats=())
    folder = checkout / published.FOLDER / "demo"
    for path in made:
        if path.suffix == ".csv":
            (checkout / path).with_suffix(".png").touch()
    assert published.differences(checkout, models) == []
    text = (checkout / "README.md").read_text()
    assert "| Arm | 0.5 |" in text and "old" not in text and "| `zoo:tiny` | a model |" in text
    assert "published/demo/accuracy_vs_ratio.png" in (checkout / "results/README.md").read_text()

    (checkout / "README.md").write_text(text.replace("93.7", "99.7"))
    (folder / "table.csv").write_text((folder / "table.csv").read_text().replace("0.9877", "0.9876"))
    (folder / "old.csv").write_text("x")
    (folder / "environment.json").write_text("{}")
    (folder / "accuracy_vs_ratio.png").unlink()
    found = "\n".join(published.differences(checkout, models))
    for words in (
        "README.md: line",
        "demo/report.md: line",
        "old.csv: made from nothing",
        "accuracy_vs_ratio.png: missing",
    ):
        assert words in found
    assert "environment.json" not in found
    assert published.differences(checkout, {}) != []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("speed demo", "Unknown table"),
        ("accuracy dem", "Did you mean 'demo'"),
        ("largest demo x", "Unknown experiment"),
        ("largest demo arms=last,lats", "Unknown arm(.|\n)*nearest first: last"),
    ],
)
def test_a_marker_that_asks_for_what_is_not_there_is_refused(checkout: Path, words: str, message: str) -> None:
    (checkout / "README.md").write_text(f"<!-- table: {words} -->\n<!-- /table -->\n")
    with pytest.raises(UserError, match=message):
        published.publish(checkout, {}, formats=())


def test_a_marker_shows_the_arms_it_names(checkout: Path) -> None:
    (checkout / "README.md").write_text("<!-- table: accuracy demo 0.5 arms=last,random -->\n<!-- /table -->\n")
    published.publish(checkout, {}, formats=())
    lines = (checkout / "README.md").read_text().splitlines()
    assert sorted(line.split("|")[1].strip(" *") for line in lines[3:5]) == ["last", "random"] and lines[5] == ""


def test_without_stored_runs_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No stored runs"):
        published.publish(tmp_path, {})
    done = jobs.run("report", folder=tmp_path)
    assert done.code == 1 and "runs is not set" in done.err


# ---- Weights & Biases


def test_every_point_of_the_sweep_is_a_command_of_s5c() -> None:
    sweep = yaml.safe_load((REPOSITORY / "scripts/wandb_sweep.yaml").read_text())
    assert sweep["command"][2:4] == ["-m", "s5c.reduce"] and "val" in sweep["metric"]["name"]
    for name, choice in sweep["parameters"].items():
        for value in choice.get("values", [choice.get("value")]):
            values = (
                jobs.compose("reduce", "checkpoint=x", f"{name}={str(value).lower()}") if name != "checkpoint" else {}
            )
            if values:
                settings.reduction_job(values["reduction"])
    assert len(list(itertools.product(*(c["values"] for c in sweep["parameters"].values() if "values" in c)))) < 200


def test_offline_runs_are_listed_with_the_command_that_uploads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("offline-run-1-a", "offline-run-2-b"):
        (tmp_path / "job [x]" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "job [x]" / "wandb" / "offline-run-2-b" / "run-b.wandb.synced").touch()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", "--runs", str(tmp_path)])
    assert wandb_dashboard.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb sync")]
    assert lines == [f"wandb sync --project s5c '{tmp_path}/job [x]/wandb/offline-run-1-a'"]
