"""Tables and figures of many arms: paired errors, largest ratios, other targets, errors, Hankel spectra, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s5c.report.average import aggregate
from s5c.report.claims import ELSEWHERE, claims_table, counts, reproduced
from s5c.report.collect import collect, read_spectra, studies
from s5c.report.csvfile import read_csv, write_csv
from s5c.report.originals import originals_figure
from s5c.report.page import page
from s5c.report.paired import difference
from s5c.report.plots import save_figures
from s5c.report.row import Row
from s5c.report.summary import above_last, accuracies, largest, largest_ratios, layer_errors, other_targets

RATIOS = (0.3, 0.6, 0.9)
FULL_ACCURACY = 0.8
LOST = {"last": (0.004, 0.02, 0.3), "bt": (0.0, 0.008, 0.1), "random": (0.2, 0.4, 0.6)}


def row(reduction: str, ratio: float, lost: float, **changes: Any) -> Row:
    depth, orders = 2, [round(8 * (1 - ratio))] * 2
    return {
        "task": "listops_small", "model": "s5", "experiment": "demo", "seed": 0, "protocol": "validation",
        "reduction": reduction, "ratio": ratio, "ratio_achieved": ratio, "trained_id": "a",
        "orders": orders, "orders_full": [8] * depth, "states": sum(orders), "params": 100 - 80 * ratio,
        "params_full": 100, "test_accuracy": FULL_ACCURACY - lost, "test_accuracy_full": FULL_ACCURACY,
        "val_accuracy": 0.7 - 2 * lost, "seconds_reduction": 1.5, "error_h2": [ratio, ratio / 2],
        "error_hinf": [0.25, float("nan")], "error_bound": [0.5, None] if reduction == "bt" else [None, None],
        "command": f"python -m s5c.reduce reduction={reduction}", "timestamp": "2025", **changes,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A job of the full model and of three presets, with answers; balanced truncation also by order, with spectra."""
    random = np.random.default_rng(0)
    write(tmp_path / "full", [row("full", 0.0, 0.0, orders=[8, 8])], {})
    for name, lost in LOST.items():
        rows = [row(name, ratio, loss, target=f"ratio {ratio}") for ratio, loss in zip(RATIOS, lost, strict=True)]
        arrays: dict[str, Any] = {}
        if name == "last":  # as older jobs left them: none of a layer with an unstable mode
            arrays |= {"hsv_layer0": np.ones(16), "hsv_layer1": np.zeros(0)}
        if name == "bt":
            rows.append(row(name, 0.75, 0.05, target="order (2,)", notes=["layer 1: order lowered by one"]))
            for layer in range(2):
                arrays[f"Lambda_bar_layer{layer}"] = np.exp(-0.1 + 1j * np.arange(8))
                arrays[f"hsv_layer{layer}"] = 0.5 ** np.arange(16.0)
                arrays[f"lambda_0.3_layer{layer}"] = np.exp(-0.2 + 1j * random.random(6))
        write(tmp_path / name, rows, arrays)
    return tmp_path


def write(folder: Path, rows: list[Row], arrays: dict[str, Any]) -> None:
    """Writes a run folder with the answers to 1,000 examples: what a network loses, it loses at the front."""
    folder.mkdir()
    right = np.arange(1000) >= 200
    answers = {"full": right}
    for one in rows:
        lost = round(1000 * (FULL_ACCURACY - one["test_accuracy"]))
        answers[f"{one['ratio']:g}"] = right & (np.arange(1000) >= 200 + lost)
    np.savez(folder / "correct.npz", **answers)
    np.savez(folder / "spectra.npz", **arrays)
    lines = [json.dumps({**one, "correct_file": "correct.npz"}) + "\n" for one in rows]
    (folder / "rows.jsonl").write_text("".join(lines))


def test_the_paired_error_is_that_of_the_differences() -> None:
    random = np.random.default_rng(1)
    before, after = random.random((2, 500)) < 0.7
    change, error = difference(before, after)
    differences = after.astype(float) - before
    assert change == pytest.approx(100 * differences.mean())
    assert error == pytest.approx(100 * differences.std() / np.sqrt(500))
    assert difference(before, before) == (0.0, 0.0)


def test_rows_carry_paired_errors_where_answers_are_stored(runs: Path) -> None:
    rows = {(one["reduction"], one["ratio"]): one for one in collect([runs])}
    assert rows["last", 0.6]["points_lost_se"] == pytest.approx(100 * np.sqrt((0.02 - 0.02**2) / 1000))
    assert rows["bt", 0.6]["above_last"] == pytest.approx(1.2)
    assert rows["bt", 0.6]["above_last_se"] == pytest.approx(100 * np.sqrt((0.012 - 0.012**2) / 1000))
    assert "points_lost_se" not in rows["full", 0.0]
    (runs / "bt" / "correct.npz").unlink()
    assert not [one for one in collect([runs]) if one["reduction"] == "bt" and "points_lost_se" in one]


def test_accuracies_are_sorted_by_quality_with_their_paired_errors(runs: Path) -> None:
    (study,) = studies(collect([runs]))
    lines = accuracies(study).splitlines()
    assert lines[0] == "| Arm | 0.3 | 0.6 | 0.9 |", "what was asked for by order has no column"
    assert [line.split(" |")[0] for line in lines[2:5]] == ["| bt", "| **last**", "| random"]
    assert lines[3].startswith("| **last** | 79.6 (−0.4 ± 0.2) | 78.0 (−2.0 ± 0.4) |")
    assert accuracies(study, [0.6]).splitlines()[0] == "| Arm | 0.6 |"
    assert above_last(study).splitlines()[2] == "| bt | +0.4 ± 0.2 | +1.2 ± 0.3 | +20.0 ± 1.3 |"


def test_a_method_behind_states_drawn_at_random_is_named(runs: Path) -> None:
    (study,) = studies(collect([runs]))
    assert "drawn at random" not in accuracies(study)
    rows = [
        {**one, "test_accuracy": 0.1} if one["reduction"] == "last" and one["ratio"] == 0.9 else one
        for one in study.rows
    ]
    (worse,) = studies(rows)
    assert accuracies(worse).endswith("by more than two standard errors: last at 0.9.")
    assert "drawn at random" not in accuracies(worse, [0.3])


def test_what_may_be_removed_stops_at_the_first_ratio_that_costs_too_much(runs: Path) -> None:
    (study,) = studies(collect([runs]))
    table = {
        line.split(" | ")[0].strip("| *"): line.split(" | ")[1:] for line in largest_ratios(study).splitlines()[2:5]
    }
    assert table["bt"][:3] == ["0.3", "0.6", "0.3 (0.0)"], "on validation 1.6 points are lost at 0.6"
    assert table["last"][:2] == ["0.3", "0.3"] and table["random"][:2] == ["0", "0"]
    recovered = [{"ratio": r, "points_lost": lost} for r, lost in ((0.9, 0.1), (0.1, 0.2), (0.5, 3.0))]
    assert largest(recovered, 0.5) == recovered[1]
    assert largest(recovered[::2], 0.05) is None


def test_orders_and_layer_errors_have_tables_of_their_own(runs: Path) -> None:
    (study,) = studies(collect([runs]))
    assert "| bt (by order) | order 2 | 0.75 | 75.0 (−5.0) |" in other_targets(study)
    errors = layer_errors(study)
    assert "At ratio 0.6" in errors
    assert "| bt | 0.6; 0.25 ≤ 0.5 | 0.3 |" in errors and "| **last** | 0.6; 0.25 | 0.3 |" in errors


def test_ratios_found_by_validation_are_averaged_over_seeds() -> None:
    rows = [
        row("last", ratio, 0.01, seed=seed, trained_id=str(seed), max_drop=0.5, target=f"ratio {ratio}")
        for seed, ratio in enumerate((0.4, 0.6))
    ]
    (mean,) = aggregate(rows)
    assert (mean["n"], mean["ratio"]) == (2, 0.5)
    assert mean["error_bound"] == [None, None] and mean["error_h2"] == pytest.approx([0.5, 0.25])


def test_hankel_spectra_and_moved_poles_are_drawn(runs: Path, tmp_path: Path) -> None:
    rows = collect([runs])
    written = save_figures(rows, read_spectra(rows), tmp_path / "out", ())
    assert {"hankel_singular_values.csv", "poles_moved.csv"} <= {path.name for path in written}
    lines = (tmp_path / "out" / "hankel_singular_values.csv").read_text().splitlines()
    assert lines[1] == "0,1,1.0,1.99993896484375", "2 (1/2 + 1/4 + ... + 2^-15) is left when one state is kept"


def test_many_arms_get_a_legend_and_a_second_panel(runs: Path, tmp_path: Path) -> None:
    rows = collect([runs])
    many = [{**one, "norm": "recalibrate", "refit": refit} for one in rows for refit in ("none", "h2", "calibrated")]
    written = save_figures([*rows, *many], {}, tmp_path / "out", ("png",))
    sizes = {path.stem: path.stat().st_size for path in written if path.suffix == ".png"}
    assert sizes["accuracy_vs_ratio"] > 50_000 and "states_per_layer" in sizes


def test_the_page_is_whole_and_loads_nothing(runs: Path) -> None:
    text = page([{**one, "experiment": "</script><b>"} for one in collect([runs])])
    assert not re.search(r"""(src|href)\s*=|url\((?!#)|@import|fetch\(|https?://(?!www\.w3\.org)""", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    (study,) = data["studies"]
    assert "</script><b>" in study["title"] and study["accuracy"] == 80
    assert study["arms"][0]["name"] == "bt"
    last = next(arm for arm in study["arms"] if arm["name"] == "last")
    assert [point["accuracy"] for point in last["points"]] == pytest.approx([79.6, 78.0, 50.0])
    assert last["points"][0]["h2"] == pytest.approx(0.225) and last["highlighted"]


def test_claims_are_judged_by_our_rows_and_stand_ins_are_none(runs: Path, tmp_path: Path) -> None:
    base = {"source": "A", "place": "p", "of": "states", "full": None, "accuracy": None, "lost": None}
    base |= {"versus": None, "versus_accuracy": None, "ratio": 0.6, "arm": "last"}
    claims = [
        {**base, "task": "listops_small", "full": 90.0, "accuracy": 89.0, "lost": 1.0},
        {**base, "task": "listops_small", "arm": "random", "full": 90.0, "accuracy": 89.0, "lost": 1.0},
        {**base, "task": "listops_small", "accuracy": 50.0, "versus": "bt", "versus_accuracy": 40.0},
        {**base, "task": "listops_small", "arm": "bt", "ratio": None, "versus": "last"},
        {**base, "task": "listops_small", "arm": "bt", "of": "parameters", "lost": 0.0},
        {**base, "task": "listops", "full": 90.0, "accuracy": 89.0, "lost": 1.0},
    ]
    write_csv(claims, tmp_path / "papers.csv")
    lines = claims_table(tmp_path / "papers.csv", collect([runs])).splitlines()[2:8]
    judged = [line.strip("| ").split(" | ")[-4:] for line in lines]
    assert judged[0][:3] == ["78.0 (−2.0)", "−1.0 ± 1.3", "agrees"], "2 sqrt(2) times 0.44, the paired error of one"
    assert judged[1][:3] == ["40.0 (−40.0)", "−39.0 ± 4.4", "lower"]
    assert judged[2][:3] == ["−1.2 ± 0.5 points", "−11.2 ± 1.5", "lower, **reversed**"]
    assert judged[3][:3] == ["+7.2 ± 0.8 points, mean of 3 ratios", "–", "holds"]
    assert judged[4][0] == "70.0 (−10.0)", "at 0.9 of the states 0.72 of the parameters are gone, at 0.6 only 0.48"
    assert judged[5] == ["–", "–", "not run", "listops_small: 78.0 (−2.0), agrees (−1.0 ± 1.3)"]


CLAIM = {"source": "A", "place": "p", "of": "states", "full": None, "accuracy": None, "lost": None}
CLAIM |= {"versus": None, "versus_accuracy": None, "ratio": 0.6, "arm": "last", "task": "smnist"}


def judged(claim: Row, rows: list[Row], folder: Path) -> list[str]:
    """Returns ours, the difference, the verdict and the stand-ins of one claim."""
    write_csv([claim], folder / "papers.csv")
    return claims_table(folder / "papers.csv", rows).splitlines()[2].strip("| ").split(" | ")[-4:]


def test_a_shorter_training_of_a_task_reproduces_nothing(tmp_path: Path) -> None:
    claim = {**CLAIM, "accuracy": 78.5}
    short = row("last", 0.6, 0.02, task="smnist", experiment="smnist_short_comparison", test_examples=5000)
    small = row("last", 0.6, 0.3, task="smnist_small", experiment="smnist_small_comparison", test_examples=5000)
    agrees = "78.0 (−2.0), agrees (−0.5 ± 1.7)"
    for rows, expected in (
        ([short, small], ["–", "–", "not run", f"smnist_short: {agrees}"]),
        ([{**short, "experiment": "smnist_comparison"}], ["78.0 (−2.0)", "−0.5 ± 1.7", "agrees", "–"]),
        (
            [{**short, "test_accuracy": 0.806}],
            ["–", "–", "not run", "smnist_short: 80.6 (+0.6), higher (+2.1 ± 1.6)"],
        ),
        (
            [{**short, "test_accuracy": 0.764}],
            ["–", "–", "not run", "smnist_short: 76.4 (−3.6), lower (−2.1 ± 1.7)"],
        ),
        (
            [short, {**short, "experiment": "smnist_medium_headline", "test_accuracy": 0.79}],
            ["–", "–", "not run", f"smnist_medium: 79.0 (−1.0), agrees (+0.5 ± 1.6); smnist_short: {agrees}"],
        ),
        ([{**short, "experiment": "smnist_short_s4d_headline", "model": "s4d"}], ["–", "–", "not run", "–"]),
        ([{**short, "test_examples": None}], ["–", "–", "not run", "smnist_short: 78.0 (−2.0), error unknown (−0.5)"]),
    ):
        assert judged(claim, rows, tmp_path) == expected


def test_verdicts_have_two_sides_and_count_seeds_reading_and_network(tmp_path: Path) -> None:
    """Three trainings lose 1, 2 and 3 points: sd 1, so a fourth one's loss is within 2 sqrt(4/3) = 2.3 of the mean."""
    rows = [
        row("last", 0.6, lost, task="smnist", experiment="smnist_comparison", seed=seed, trained_id=str(seed))
        for seed, lost in enumerate((0.01, 0.02, 0.03))
    ]
    for claim, verdict in (
        ({"lost": 4.2}, ["+2.2 ± 2.3", "agrees"]),
        ({"lost": 4.5}, ["+2.5 ± 2.3", "higher"]),  # a loss half as large as the paper's is no reproduction either
        ({"lost": -0.5}, ["−2.5 ± 2.3", "lower"]),
        ({"lost": 4.5, "error": 1.2}, ["+2.5 ± 2.6", "agrees"]),  # read off a plot
        ({"lost": 2.0, "model": "s5"}, ["0.0 ± 2.3", "agrees"]),
        ({"lost": 2.0, "model": "s4d"}, ["–", "not run"]),
        ({"lost": 2.0, "model": "other"}, ["–", "not run"]),
        ({"lost": 2.0, "arm": "hsvr"}, ["–", "no such method here"]),
        ({"said": "safe"}, ["–", "not run"]),
    ):
        assert judged({**CLAIM, **claim}, rows, tmp_path)[1:3] == verdict
    full = [{**one, "reduction": "full", "test_accuracy": 0.8} for one in rows]
    assert judged({**CLAIM, "arm": "none", "accuracy": 81.0, "ratio": None}, [*full, *rows], tmp_path)[:3] == [
        "80.0 ± 0.0", "−1.0 ± 0.0", "lower",
    ]  # fmt: skip


def test_claims_are_counted_by_verdict(tmp_path: Path) -> None:
    short = row("last", 0.6, 0.02, task="smnist", experiment="smnist_short_comparison", test_examples=5000)
    claims = [{**CLAIM, "accuracy": accuracy} for accuracy in (78.5, 50.0)] + [
        {**CLAIM, "arm": "hsvr", "accuracy": 9.0}
    ]
    write_csv(claims, tmp_path / "papers.csv")
    found = counts(tmp_path / "papers.csv", [short])
    assert (found["all"], found["testable"], found["tested"]) == (3, 2, 0)
    assert (found["stand_in_tested"], found["stand_in_agrees"], found["stand_in_higher"]) == (2, 1, 1)
    assert "3 claims, 2 of methods that are here, 0 tested" in reproduced(tmp_path / "papers.csv", [short])


def test_every_figure_of_a_paper_says_where_it_is_from_and_of_which_network() -> None:
    """Epochs where they are known: a figure of which network and how long it was trained compares with nothing."""
    papers = Path(__file__).resolve().parents[1] / "results/published/papers.csv"
    rows = read_csv(papers)
    assert all({"source", "place", "task", "arm", "network"} <= set(one) for one in rows)
    assert all({"accuracy", "lost", "said"} & set(one) or one.get("versus") for one in rows)
    own = [one for one in rows if one["source"].startswith("HSVR, repository") and one["arm"] == "hsvr"]
    assert [(one["ratio"], one["accuracy"], one["epochs"]) for one in own] == [
        (0.7, 99.5, 250), (0.8, 99.47, 250), (0.9, 92.73, 250),
    ]  # fmt: skip
    arms = {one["arm"] for one in rows} | {one["versus"] for one in rows if one.get("versus")}
    here = {path.stem for path in (papers.parents[2] / "conf/reduction").glob("*.yaml")}
    assert arms >= {"hsvr", "compressm", "aire", "last", "none"} and arms - here == set(ELSEWHERE)


def test_reduced_models_are_drawn_against_their_originals(tmp_path: Path) -> None:
    """Once there are four of different quality; three seeds of one recipe are none."""
    rows = []
    for i, full in enumerate((0.5, 0.7, 0.8, 0.9, 0.95)):
        base = {"trained_id": str(i), "seed": i, "test_accuracy_full": full}
        rows += [
            row("full", 0.0, 0.0, **base),
            row("bt", 0.6, 0.0, **base, test_accuracy=full - 0.1, target="ratio 0.6"),
        ]
        rows.append(row("random", 0.6, 0.0, **base, test_accuracy=1 - full, target="ratio 0.6"))
    (study,) = studies(rows)
    drawing = originals_figure(study)
    assert drawing is not None
    draw, data = drawing
    assert {(point["arm"], point["test_accuracy"]) for point in data} >= {("bt", 0.6), ("random", 0.5)} and len(
        data
    ) == 10
    legend = [text.get_text() for text in draw().axes[0].get_legend().get_texts()]
    assert legend == ["bt, rank correlation 1.00", "random, rank correlation -1.00"]
    alike = [one for one in rows if one["trained_id"] in ("3", "4")]
    assert originals_figure(studies(alike)[0]) is None
