"""From the rows that jobs leave behind to tables and figures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from rich.console import Console

from s5c.errors import UserError
from s5c.report.average import aggregate
from s5c.report.collect import collect, read_spectra, studies
from s5c.report.csvfile import read_csv, write_csv
from s5c.report.plots import save_figures
from s5c.report.row import Row
from s5c.report.spectra import plot_scores
from s5c.report.tables import console, markdown

LAYERS, STATES = 4, 32
PRESETS = ("last", "uniform_hinf", "lamp", "random", "unstructured_random")
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "full": ("none", "", {}),
    "last": ("hinf", "normalised", {"eps": 0.0}),
    "uniform_hinf": ("hinf", "uniform", {"eps": 0.0}),
    "lamp": ("magnitude", "normalised", {"power": 2}),
    "random": ("random", "global", {}),
    "unstructured_random": ("unstructured_random", "global", {}),
}
FIGURES = ("accuracy_vs_ratio", "latency_vs_ratio", "states_per_layer", "eigenvalues", "score_spectra")


def row(reduction: str = "last", ratio: float = 0.5, seed: int = 0, **changes: Any) -> Row:
    """Returns a row as an evaluation job writes it."""
    masked = reduction == "unstructured_random"
    method, allocation, options = SETTINGS.get(reduction, ("mine", "global", {}))
    kept = 1.0 if masked else 1 - ratio
    full = {
        "states_full": LAYERS * STATES, "orders_full": [STATES] * LAYERS, "params_full": 40_000,
        "state_params_full": 30_000, "macs_full": 5_000_000, "temp_bytes_full": 1_000_000,
        "latency_full_ms": 4.0, "test_accuracy_full": 0.97,
    }  # fmt: skip
    return {
        "task": "digits", "source": "uci-digits (embedded)", "model": "s5", "experiment": "demo", "seed": seed,
        "protocol": "validation", "reduction": reduction, "method": method, "allocation": allocation,
        "options": options, "ratio": ratio, "ratio_achieved": ratio, "masked_only": masked, **full,
        "states": round(LAYERS * STATES * kept), "orders": [round(STATES * kept)] * LAYERS,
        "params": round(10_000 + 30_000 * kept), "state_params": round(30_000 * kept),
        "macs": round(1_000_000 + 4_000_000 * kept), "temp_bytes": 1_000_000, "checkpoint_bytes": round(160_000 * kept),
        "latency_ms": 1 + 3 * kept, "speedup": 4 / (1 + 3 * kept), "speedup_best": None, "backend": "scan",
        "device": "cpu (2 cores)", "test_accuracy": 0.97 - 0.5 * ratio**2, "agreement": 1 - 0.5 * ratio**2,
        "trained_id": f"3f2a{seed}", "command": f"python -m s5c.reduce reduction={reduction} seed={seed}",
        "version": "0.1.0", "git": "118d0b8", "timestamp": "2025-01-01T00:00:00", **changes,
    }  # fmt: skip


def write_job(folder: Path, rows: list[Row]) -> None:
    """Writes a run folder: its rows and, for every ratio, which states were kept."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    random = np.random.default_rng(0)
    arrays = {}
    for layer in range(LAYERS):
        scores = random.lognormal(size=STATES)
        arrays[f"scores_layer{layer}"] = arrays[f"priority_layer{layer}"] = scores
        arrays[f"Lambda_bar_layer{layer}"] = np.exp(-random.uniform(0, 0.1, STATES) + 1j * random.uniform(0, 2, STATES))
        for one in rows:
            arrays[f"keep_{one['ratio']:g}_layer{layer}"] = scores >= np.sort(scores)[-one["orders"][layer]]
    np.savez(folder / "spectra.npz", **arrays)


def write_sweep(root: Path, presets: tuple[str, ...], ratios: tuple[float, ...], **changes: Any) -> list[Row]:
    """Writes one job per preset and one for the unpruned model, and returns what is collected from them."""
    write_job(root / "full", [row("full", 0.0, **changes)])
    for preset in presets:
        write_job(root / preset, [row(preset, ratio, **changes) for ratio in ratios])
    return collect([root])


# ------------------------------------------------------------------------------------------------------------- collect


def test_collect_sorts_last_first_and_floors_last(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path, PRESETS, (0.9, 0.1))
    assert [one["reduction"] for one in rows] == ["full", *(preset for preset in PRESETS for _ in range(2))]
    assert [one["ratio"] for one in rows[1:3]] == [0.1, 0.9]
    assert {one["checkpoint_bytes_full"] for one in rows} == {160_000}  # of the unpruned model of the same id


def test_collect_keeps_the_newest_of_repetitions_only(tmp_path: Path) -> None:
    old, new = (row(test_accuracy=accuracy, timestamp=f"2025-0{i}-01") for i, accuracy in ((1, 0.1), (2, 0.9)))
    others = [
        row(trained_id="other"), row(ratio=0.6), row(options={"eps": 1.0}), row(protocol="paper"), row("random")
    ]  # fmt: skip
    write_job(tmp_path / "a", [new, *others])
    write_job(tmp_path / "b", [old])
    rows = collect([tmp_path, tmp_path / "a"])
    assert len(rows) == 6
    assert not [one for one in rows if one["timestamp"] == old["timestamp"]]


def test_collect_leaves_out_a_line_cut_short_at_the_end_but_no_other(tmp_path: Path) -> None:
    write_job(tmp_path / "a", [row()])
    file = tmp_path / "a" / "rows.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + json.dumps(row(source="Zürich"), ensure_ascii=False).encode()[:30])
    assert len(collect([tmp_path])) == 1
    file.write_bytes(b'{"task": "dig\n' + whole)
    with pytest.raises(UserError, match="line 1"):
        collect([tmp_path])


def test_collect_says_what_to_do_when_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        collect([tmp_path / "absent"])
    with pytest.raises(UserError, match="run one first"):
        collect([tmp_path])


def test_csv_returns_what_was_written(tmp_path: Path) -> None:
    rows = [
        row(git="1234567", source='a "b", c\nd', latency_ms=None, note=""),
        {"reduction": "full", "options": {}, "orders": [1, 2.5], "masked_only": True, "version": "null"},
    ]
    write_csv(rows, tmp_path / "rows.csv")
    assert read_csv(tmp_path / "rows.csv") == rows


def test_aggregate_averages_over_seeds_and_nothing_else() -> None:
    accuracies = (0.90, 0.92, 0.97)
    orders = ([10, 20, 16, 18], [12, 20, 16, 16], [14, 20, 16, 14])
    rows = [row(seed=i, test_accuracy=accuracies[i], orders=orders[i]) for i in range(3)]
    mean, other = aggregate([*rows, row(ratio=0.6)])
    assert (mean["n"], mean["seeds"], mean["ratio"]) == (3, [0, 1, 2], 0.5)
    assert mean["test_accuracy"] == pytest.approx(0.93)
    assert mean["test_accuracy_sd"] == pytest.approx(np.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert mean["points_lost"] == pytest.approx(4.0)
    assert mean["orders"] == [12, 20, 16, 16]
    assert mean["trained_id"] is None and mean["task"] == "digits" and mean["latency_ms"] == 2.5
    assert (other["n"], other["test_accuracy_sd"]) == (1, None)


def test_aggregate_does_not_average_timings_of_different_devices() -> None:
    (mean,) = aggregate([row(seed=0), row(seed=1, device="gpu")])
    assert mean["latency_ms"] is None and mean["speedup"] is None
    assert mean["test_accuracy"] == pytest.approx(0.845)


def test_rows_that_do_not_compare_are_different_studies() -> None:
    rows = [row(), row(protocol="paper"), row(task="scifar"), row(params_full=1)]
    found = studies(rows)
    assert [len(study.rows) for study in found] == [1, 1, 1, 1]
    assert len({study.slug for study in found}) == 4


# -------------------------------------------------------------------------------------------------------------- tables


def test_markdown_holds_every_part(tmp_path: Path) -> None:
    text = markdown(write_sweep(tmp_path, PRESETS, (0.1, 0.5)))
    lines = text.splitlines()
    assert "| **last** | 96.5 (−0.5) | 84.5 (−12.5) |" in lines
    model = next(line for line in lines if line.startswith("| **last** | 0 | 0.5 | 0.5 |"))
    for cell in (
        "128 → 64", "30,000 → 15,000", "40,000 → 25,000", "5,000,000 → 3,000,000", "160 kB → 80.0 kB",
        "4.00 ms → 2.50 ms", "1.60× (scan)", "97.0 % → 84.5 %", "87.5 %", "uci-digits (embedded)", "validation",
    ):  # fmt: skip
        assert f" {cell} |" in model
    assert "| **last** | 0 | 0.5 | 16/32 | 16/32 | 16/32 | 16/32 |" in lines
    assert text.count("python -m s5c.reduce reduction=last seed=0") == 1  # two ratios, one job
    assert "selected on test data" not in text


def test_masked_only_models_are_marked_wherever_they_stand(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path, ("last", "unstructured_random"), (0.5,))
    for line in markdown(rows).splitlines():
        if line.startswith("|"):
            assert ("masked only: nothing gets smaller" in line) == ("unstructured_random" in line)


def test_models_selected_on_test_data_are_flagged_in_every_row(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path, ("last", "random"), (0.1, 0.5), protocol="paper")
    text = markdown(rows)
    table = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| Arm", "| ---"))]
    assert len(table) == 2 + 2 + 4 + 5
    assert all("⚠ **selected on test data**" in line for line in table)
    assert "optimistic" in text
    assert printed(rows).count("⚠") >= 5


def test_markdown_shows_the_spread_over_seeds() -> None:
    rows = [row(seed=i, test_accuracy=accuracy) for i, accuracy in enumerate((0.90, 0.92, 0.97))]
    assert "| **last** | 93.0 ± 3.6 (−4.0 ± 2.1) |" in markdown(rows), "3.6 / sqrt(3): the change's error over seeds"


def printed(rows: list[Row]) -> str:
    terminal = Console(width=100, file=io.StringIO())
    terminal.print(console(rows))
    return terminal.file.getvalue()


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_console_fits_100_columns(protocol: str) -> None:
    ratios = [0.0, *(i / 10 for i in range(1, 10))]
    rows = [row("full", 0.0, seed=seed, protocol=protocol) for seed in range(3)]
    rows += [
        row(preset, ratio, seed=seed, protocol=protocol, test_accuracy=0.3 * seed)
        for preset in PRESETS for ratio in ratios for seed in range(3)
    ]  # fmt: skip
    text = printed(rows)
    assert "…" not in text
    for whole in ("unstructured_random", "30.0 ± 30.0", "100.0%", "−67.0", "1.60×", "uci-digits (embedded)"):
        assert whole in text
    assert " ".join(text.split()).count("masked only:") == 2


# ------------------------------------------------------------------------------------------------------------- figures


def assert_drawn(path: Path) -> None:
    pixels = image.imread(path)[..., :3]
    assert 0.005 < (pixels < 0.98).any(-1).mean() < 0.9, f"{path.name} is blank or full"
    assert len(np.unique((pixels.reshape(-1, 3) * 255).astype(int), axis=0)) > 20


def test_figures_are_written_with_their_numbers(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path / "runs", PRESETS, (0.1, 0.5, 0.9))
    paths = save_figures(rows, read_spectra(rows), tmp_path / "out")
    suffixes = (".png", ".pdf", ".csv")
    assert {path.name for path in paths} == {name + suffix for name in FIGURES for suffix in suffixes}
    for path in paths:
        if path.suffix == ".png":
            assert_drawn(path)
    accuracies = read_csv(tmp_path / "out" / "accuracy_vs_ratio.csv")
    last = next(one for one in accuracies if one["arm"] == "last")
    measured = {"arm": "last", "ratio": 0.1, "n": 1, "test_accuracy": 0.965, "test_accuracy_sd": None}
    drawn = {"x": 0.1, "y": pytest.approx(96.5), "low": None, "high": None, "bar": None}
    assert last == {"panel": "", "left_out": 0, **measured, **drawn}
    states = read_csv(tmp_path / "out" / "states_per_layer.csv")
    assert "unstructured_random" not in {one["arm"] for one in states}  # it keeps them all
    eigenvalues = read_csv(tmp_path / "out" / "eigenvalues.csv")
    assert len(eigenvalues) == LAYERS * STATES
    assert sum(one["kept"] for one in eigenvalues) == LAYERS * round(
        0.9 * STATES
    )  # the one ratio costing under a point


def test_figures_of_one_method_at_one_ratio_without_latency_or_spectra(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path / "runs", ("mine",), (0.5,), latency_ms=None, speedup=None)
    paths = save_figures(rows, {}, tmp_path / "out")
    assert {path.stem for path in paths} == {"accuracy_vs_ratio", "states_per_layer"}
    assert_drawn(tmp_path / "out" / "accuracy_vs_ratio.png")


def test_scores_that_have_no_logarithm_are_counted_instead() -> None:
    scores = np.array([3.0, 0.0, np.inf, np.nan, 1.0, 2.0])
    ax = Figure().add_subplot()
    plot_scores({"scores_layer0": scores, "keep_0.5_layer0": scores >= 2}, "0.5", 0, ax)
    removed, kept = (marks.get_offsets().tolist() for marks in ax.collections)
    assert kept == [[2, 3.0], [3, 2.0]] and removed == [[4, 1.0]]  # rank 1 is the infinite one
    assert [text.get_text() for text in ax.texts] == ["3 not on a log axis"]


def test_several_studies_get_a_folder_each(tmp_path: Path) -> None:
    rows = [row(task=task, latency_ms=None) for task in ("digits", "scifar")]
    paths = save_figures(rows, {}, tmp_path)
    assert {path.parent.name for path in paths} == {"digits-s5-demo", "scifar-s5-demo"}


def test_a_damaged_spectra_file_is_passed_over(tmp_path: Path) -> None:
    rows = write_sweep(tmp_path, ("last", "random"), (0.5,))
    (tmp_path / "last" / "spectra.npz").write_bytes((tmp_path / "random" / "spectra.npz").read_bytes()[:200])
    assert {Path(folder).name for folder in read_spectra(rows)} == {"full", "random"}
