"""What an arm is called, which rows belong to it, and how arms are ordered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jobs
import pytest

from s5c import config as settings
from s5c.report.arms import asked, best_first, by_arm, identity, label, target
from s5c.report.average import aggregate
from s5c.report.collect import collect
from s5c.report.row import Row

NEW = {
    "refit": "none", "sequential": "off", "norm": "keep", "rounds": 1, "max_drop": None, "target": "ratio 0.5",
    "calibration": {"sequences": 256, "split": "train", "seed": 0, "batch_size": 32},
    "finetune": {"epochs": 0, "lr_scale": 1.0, "rest": "keep", "distill": False},
}  # fmt: skip


def row(**changes: Any) -> Row:
    """Returns a row of LAST as jobs wrote it before there was anything but a score and an allocation."""
    options = {"score": "paper", "eps": 0.0}
    plain = {"reduction": "last", "method": "hinf", "allocation": "normalised", "options": options, "ratio": 0.5}
    return {**plain, **changes}


def tuned(**changes: Any) -> dict[str, Any]:
    return {"finetune": {**NEW["finetune"], **changes}}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "last"),
        ({"norm": "recalibrate"}, "last +bn"),
        ({"refit": "calibrated"}, "last +refit(calibrated)"),
        ({"refit": "h2", "norm": "recalibrate"}, "last +refit(h2) +bn"),
        ({"refit": "calibrated", "sequential": "reselect"}, "last +refit(calibrated) (sequential=reselect)"),
        (tuned(epochs=1), "last +1 epoch"),
        (tuned(epochs=5, distill=True), "last +5 epochs +distil"),
        ({"options": {"score": "released", "eps": 1e-8}}, "last (score=released, eps=1e-08)"),
        ({"calibration": {**NEW["calibration"], "sequences": 16}}, "last (16 sequences)"),
        ({"calibration": {**NEW["calibration"], "batch_size": 8}}, "last"),
        ({"target": "order (8,)"}, "last (by order)"),
        ({"max_drop": 0.5}, "last (max_drop=0.5)"),
        ({"allocation": "greedy"}, "last (allocation=greedy)"),
        ({"options": {"score": "paper", "eps": 0.0, "unstable": "formula"}}, "last"),
        ({"options": {"score": "paper", "eps": 0.0, "unstable": "protect"}}, "last +protect"),
        ({"options": {"unstable": "protect"}, "norm": "recalibrate"}, "last +bn +protect"),
        ({"options": {"score": "paper", "eps": 1e-8, "unstable": "clip"}}, "last +clip (eps=1e-08)"),
    ],
)
def test_an_arm_is_its_preset_and_what_differs_from_it(changes: dict[str, Any], name: str) -> None:
    one = row(**{**NEW, **changes})
    assert label(one) == name
    assert (identity(one) == identity(row())) == (name == "last"), "a row of an older version is of the plain arm"


@pytest.mark.parametrize("preset", ["calibrated", "bt_init"])
def test_a_preset_that_sets_more_than_a_score_is_called_by_its_name_alone(preset: str) -> None:
    values = jobs.compose("reduce", "checkpoint=x", f"reduction={preset}")["reduction"]
    job = settings.reduction_job(values)
    one = row(**{**NEW, **values, "reduction": preset, "options": job.options, "target": "ratio 0.5"})
    assert label(one) == preset
    assert label({**one, "norm": "recalibrate", "rounds": 2}) == f"{preset} +bn (rounds=2)"


def test_two_things_of_a_preset_that_is_no_more_have_two_names() -> None:
    rows = [row(reduction="gone", options={"power": power}) for power in (1, 2)]
    assert list(by_arm(rows)) == ["gone (power=1)", "gone (power=2)"]


@pytest.mark.parametrize(
    ("written", "kind", "name"),
    [
        ("ratio 0.5", "ratio", "0.5"), (None, "ratio", "0.5"), ("order (8,)", "order", "order-8"),
        ("order (8, 4)", "order", "order-8-4"), ("tolerance 1e-05", "tolerance", "tolerance-1e-05"),
    ],
)  # fmt: skip
def test_targets_are_called_as_in_the_files_beside_the_row(written: str | None, kind: str, name: str) -> None:
    assert target(row(target=written)) == (kind, name)


def test_ratios_found_for_one_drop_are_one_target() -> None:
    found = [row(**{**NEW, "max_drop": 0.5, "ratio": ratio, "target": f"ratio {ratio}"}) for ratio in (0.4, 0.6)]
    assert {asked(one) for one in found} == {"max_drop-0.5"}
    assert [target(one)[1] for one in found] == ["0.4", "0.6"]


def test_arms_that_were_tested_at_different_ratios_are_ordered_by_what_they_share() -> None:
    curves = {"good": {0.5: 0.9, 0.9: 0.5}, "bad": {0.5: 0.8, 0.9: 0.1}, "only late": {0.9: 0.4}, "failed": {0.5: None}}
    arms = {
        name: [{"ratio": ratio, "test_accuracy": value} for ratio, value in curve.items()]
        for name, curve in curves.items()
    }
    assert best_first(arms) == ["good", "only late", "bad", "failed"]


def test_what_only_some_of_the_averaged_rows_say_makes_no_difference() -> None:
    """Seeds stored before a key was added lack it, and their mean with later ones has None."""
    old = {"reduction": "last", "norm": "keep", "refit": "none"}
    assert label({**old, "readout": None, "layer_sensitivity": None}) == label(old) == "last"
    assert label({**old, "readout": "refit"}) == "last +readout"


def test_rows_that_are_older_than_the_option_count_as_protected_where_a_model_had_unstable_modes(
    tmp_path: Path,
) -> None:
    """Their notes say so; another seed of the arm, whose model has none, goes with it, and other studies do not."""
    note = "2 unstable modes (|Lambda_bar| >= 1) are never removed (layer 1: 2)."
    common = {"model": "s5", "protocol": "validation", "test_accuracy": 0.5, "test_accuracy_full": 0.9}
    older = {**row(), **common, "timestamp": "2026-01-01"}
    newer = {**older, "options": {**older["options"], "unstable": "formula"}, "timestamp": "2026-02-02"}
    there = [
        {**older, "task": "wild", "trained_id": "a", "seed": 0, "notes": [note]},
        {**older, "task": "wild", "trained_id": "b", "seed": 1, "notes": []},
        {**newer, "task": "wild", "trained_id": "a", "seed": 0, "notes": []},
        {**newer, "task": "wild", "trained_id": "b", "seed": 1},
        {**older, "task": "tame", "trained_id": "c", "seed": 0},
        {**newer, "task": "tame", "trained_id": "c", "seed": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in there))
    found = collect([tmp_path])
    told = sorted((one["task"], label(one), one["seed"], one["timestamp"]) for one in found)
    assert told == [
        ("tame", "last", 0, "2026-02-02"),  # the same arm: the newest counts
        ("wild", "last", 0, "2026-02-02"),
        ("wild", "last", 1, "2026-02-02"),
        ("wild", "last +protect", 0, "2026-01-01"),
        ("wild", "last +protect", 1, "2026-01-01"),
    ]
    averaged = {(one["task"], label(one)): one["n"] for one in aggregate(found)}
    assert averaged == {("tame", "last"): 1, ("wild", "last"): 2, ("wild", "last +protect"): 2}
