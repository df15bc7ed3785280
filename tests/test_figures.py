"""Figures fit for a paper: few arms, told apart by everyone, with errors and labels, and drawn from their tables."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from s5c.bench import figures as bench
from s5c.report import curves, published, spectra
from s5c.report.arms import by_arm, differences
from s5c.report.average import means
from s5c.report.choice import MOST, OURS, PUBLISHED, REFITTED, chosen
from s5c.report.collect import Study, gather, restore, store, studies
from s5c.report.csvfile import Record, read_csv
from s5c.report.looks import OTHERS, PALETTE, Look, kind_of, looks_of
from s5c.report.plots import drawings, save_figures
from s5c.report.titles import MODELS as MODELS_IN_WORDS
from s5c.report.titles import TASKS, title

REPOSITORY = Path(__file__).resolve().parents[1]
STORED = REPOSITORY / "results/published"
LARGEST, OF_ONE_SEED, TIMED, VARIANTS = (
    "smnist_small_comparison", "smnist_short_comparison", "demo", "smnist_small_ablation",
)  # fmt: skip
EVERY = sorted(path.parent.name for path in STORED.glob("*/table.csv"))

APART, IN_GREY = 30.0, 5.0
"""Least distance of two colours in CIELAB, and of their lightness. 2.3 is just noticeable side by side."""


@functools.cache
def stored(name: str) -> tuple[Study, Any]:
    rows, arrays = restore(STORED / name)
    return studies(rows)[0], arrays


# ------------------------------------------------------------------------------------------------------------- colours

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009),
# table of matrices at severity 1.0, for linear RGB.
SEEN = {
    "as they are": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
LEAST = {"as they are": APART, "deuteranopia": APART, "protanopia": 25.0}


def lab(color: str, seen: NDArray[Any]) -> NDArray[Any]:
    """Returns a colour in CIELAB (D65) as it is seen."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = to_xyz @ np.clip(seen @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def too_close(looks: dict[str, Look]) -> list[str]:
    """Returns a line for every two looks that are not told apart."""
    found = []
    for (one, a), (other, b) in itertools.combinations(looks.items(), 2):
        for name, seen in SEEN.items():
            if (distance := np.linalg.norm(lab(a.color, seen) - lab(b.color, seen))) < LEAST[name]:
                found.append(f"{one}, {other}: {distance:.1f} with {name}")
        if abs(lab(a.color, np.eye(3))[0] - lab(b.color, np.eye(3))[0]) < IN_GREY:
            found.append(f"{one}, {other}: alike in grey")
        if a.marker == b.marker:
            found.append(f"{one}, {other}: one marker")
        if a.linestyle == b.linestyle and abs(a.width - b.width) < 0.9:
            found.append(f"{one}, {other}: one line")
    return found


def test_the_eight_looks_are_told_apart_by_everyone_and_in_grey() -> None:
    assert len(PALETTE) == MOST and too_close(PALETTE) == []
    white = lab("#FFFFFF", np.eye(3))[0]
    assert all(white - lab(look.color, np.eye(3))[0] > APART for look in PALETTE.values())


def test_colours_that_were_mistaken_for_each_other_would_be_found() -> None:
    """Vermilion and dark gold, which `calibrated` and `lqo` once had: 34 apart, to deuteranopes 3."""
    found = too_close({"calibrated": Look("#D55E00", "o"), "lqo": Look("#B8860B", "v", "--")})
    assert len(found) >= 1 and any("deuteranopia" in line and " 3." in line for line in found)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", EVERY)
def test_no_two_arms_of_a_panel_look_alike(name: str) -> None:
    arms = by_arm(means(stored(name)[0]))
    for panel in chosen(arms):
        assert too_close(looks_of({one: arms[one] for one in panel.names})) == []


def test_an_arm_looks_as_its_kind_does_and_variants_take_what_is_free() -> None:
    names = ("bt_empirical", "bt", "calibrated", "my_own", "random")
    looks = looks_of({name: [{"reduction": name, "ratio": 0.5}] for name in names})
    assert all(looks[name] == PALETTE[name] for name in ("bt", "calibrated", "random"))
    assert looks["bt_empirical"].color in OTHERS and too_close(looks) == []
    assert kind_of("bt_empirical") == "bt" and kind_of("lamp") == "magnitude" and kind_of("my_own") in PALETTE


def test_variants_of_a_benchmark_look_different() -> None:
    for name in ("operator", "convolution", "inference", "step"):
        variants = {row["variant"] for row in read_csv(STORED / f"bench/{name}.csv")}
        looks = {variant: bench.look_of(variant) for variant in variants}
        assert too_close(looks) == [], name


# -------------------------------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("name", EVERY)
def test_a_panel_has_at_most_eight_arms_and_says_how_many_more_there_are(name: str) -> None:
    arms = by_arm(means(stored(name)[0]))
    panels = chosen(arms)
    assert all(1 <= len(panel.names) <= MOST and len(set(panel.names)) == len(panel.names) for panel in panels)
    shown = {one for panel in panels for one in panel.names}
    assert len(shown) + sum(panel.left_out for panel in panels) == len(arms)


def test_ours_and_published_methods_are_shown_however_they_did_and_refits_stand_apart() -> None:
    arms = by_arm(means(stored(LARGEST)[0]))
    plain, adapted = chosen(arms)
    assert OURS in plain.names and OURS in adapted.names
    presets = {arms[name][0]["reduction"] for name in plain.names}
    assert presets >= {*PUBLISHED, "random"}, "random is the worst but for one and shown nevertheless"
    assert not any(differences(arms[name][0]).get("refit") for name in plain.names)
    others = [name for name in adapted.names if name != OURS]
    assert all(set(differences(arms[name][0])) & set(REFITTED) for name in others)
    assert len({arms[name][0]["reduction"] for name in others}) == len(others) - 1, (
        "of each preset the best, and one more"
    )


def test_variants_of_one_preset_are_split_and_none_is_lost() -> None:
    arms = by_arm(means(stored(VARIANTS)[0]))
    panels = chosen(arms)
    assert len(panels) == 3 and all(OURS in panel.names for panel in panels)
    assert {name for panel in panels for name in panel.names} == set(arms)
    many = {f"x (eps={i})": [{"reduction": "x", "ratio": 0.5, "test_accuracy": i}] for i in range(40)}
    panels = chosen(many)
    assert sum(len(panel.names) for panel in panels) <= 3 * MOST
    shown = {name for panel in panels for name in panel.names}
    assert sum(panel.left_out for panel in panels) == 40 - len(shown) > 0


# ------------------------------------------------------------------------------------- what is drawn is what is written


def lines_of(figure: Figure) -> dict[tuple[int, str], NDArray[Any]]:
    """Returns the points of every arm's line, by panel and name, without that of the unpruned model."""
    found = {}
    for i, ax in enumerate(figure.axes):
        for line in ax.get_lines():
            if not str(line.get_label()).startswith("_"):
                name = re.sub(r"  .*×.*| \(masked\)$", "", str(line.get_label()).replace("\n", " "))
                found[i, name] = np.asarray(line.get_xydata())[line.get_markevery()]
    return found


def bars_of(ax: Axes) -> list[tuple[float, float, float]]:
    """Returns the place and the ends of every error bar."""
    sets = [one.get_segments() for one in ax.collections if isinstance(one, LineCollection)]
    return sorted((*part[0], part[1][1]) for segments in sets for part in segments)


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        (TIMED, "latency_vs_ratio"),
        *((one, "accuracy_vs_ratio") for one in (LARGEST, OF_ONE_SEED, VARIANTS, "digits_bt")),
    ],
)
def test_a_table_holds_what_its_curves_show(name: str, figure: str) -> None:
    draw, data = drawings(*stored(name))[figure]
    picture = draw()
    titles = list(dict.fromkeys(record["panel"] for record in data))
    drawn = lines_of(picture)
    assert {(titles[i], arm) for i, arm in drawn} == {(record["panel"], record["arm"]) for record in data}
    for (i, arm), points in drawn.items():
        written = [one for one in data if one["arm"] == arm and one["panel"] == titles[i]]
        np.testing.assert_allclose(points, [(one["x"], one["y"]) for one in written])
    for i, ax in enumerate(picture.axes):
        written = [one for one in data if one["panel"] == titles[i] and one["low"] is not None]
        ends = sorted((one["x"], one["low"], one["high"]) for one in written)
        np.testing.assert_allclose(np.array(bars_of(ax)).reshape(-1, 3), np.array(ends).reshape(-1, 3))


def test_spread_over_seeds_is_drawn_and_of_one_seed_the_paired_error() -> None:
    of_seeds, of_one = (curves.accuracy_figure(stored(name)[0]) for name in (LARGEST, OF_ONE_SEED))
    assert of_seeds is not None and of_one is not None
    assert {record["bar"] for record in of_seeds[1]} == {curves.SEEDS}
    assert {record["bar"] for record in of_one[1]} == {curves.PAIRED}
    last = next(record for record in of_one[1] if record["arm"] == "last" and record["ratio"] >= 0.8)
    rows = by_arm(stored(OF_ONE_SEED)[0].rows)["last"]
    error = next(row["points_lost_se"] for row in rows if row["ratio"] == last["ratio"])
    assert (last["high"] - last["low"]) / 2 == pytest.approx(error) and error > 0
    assert "standard deviation over seeds" in caption(of_seeds[0]()) and "paired standard error" in caption(of_one[0]())


def test_latency_has_the_quartiles_of_its_rounds_where_they_were_kept() -> None:
    (row,) = [one for one in means(stored(TIMED)[0]) if one.get("latency_ms")][-1:]
    (record,) = curves.records([{**row, "n": 1, "latency_quartiles_ms": [3.0, 5.0]}], curves.LATENCY)
    assert (record["low"], record["high"], record["bar"]) == (3.0, 5.0, curves.ROUNDS)
    (record,) = curves.records([{**row, "n": 3, "latency_ms": 4.0, "latency_ms_sd": 0.5}], curves.LATENCY)
    assert (record["low"], record["high"], record["bar"]) == (3.5, 4.5, curves.SEEDS)


def caption(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def test_a_caption_says_how_many_arms_are_left_out_and_where_they_are() -> None:
    drawing = curves.accuracy_figure(stored(LARGEST)[0])
    assert drawing is not None
    draw, data = drawing
    left_out = sum({record["panel"]: record["left_out"] for record in data}.values())
    assert left_out > 0 and f"{left_out} more arms: in the interactive page (html=true)" in caption(draw())


@pytest.mark.parametrize("name", [LARGEST, TIMED, "digits_bt_originals"])
def test_every_axis_says_quantity_and_unit_and_titles_are_words(name: str) -> None:
    study, arrays = stored(name)
    for figure, (draw, _) in drawings(study, arrays).items():
        picture = draw()
        for ax in picture.axes:
            shared = (picture.get_supxlabel(), picture.get_supylabel())
            for label in (ax.get_xlabel() or shared[0], ax.get_ylabel() or shared[1] or picture.axes[0].get_ylabel()):
                assert label and "_" not in label, figure
                assert figure == "states_per_layer" or re.search(r",|share|score|order", label), f"{figure}: {label}"
        heading = caption(picture)
        assert title(study).split(":")[0] in heading and study.title not in heading
        assert str(study.rows[0]["experiment"]) not in heading


def test_every_task_of_s5c_has_a_title_in_words_with_its_number_of_steps() -> None:
    conf = {path.stem: path.read_text().splitlines()[0] for path in (REPOSITORY / "conf/task").glob("[!_]*.yaml")}
    assert set(TASKS) | {"arrays"} == set(conf)
    (own,) = studies([{"task": "arrays", "source": "BasicMotions (1f)", "reduction": "full", "ratio": 0.0}])
    assert title(own) == "BasicMotions"
    for name, words in TASKS.items():
        steps = re.findall(r"[\d,]+(?= steps)", words)[-1]
        assert steps in conf[name] or steps in {"2,048", "99", "64"}, f"{name}: {words} against {conf[name]}"
    models = {path.stem for path in (REPOSITORY / "s5c/model/family").glob("[!_]*.py")}
    assert set(MODELS_IN_WORDS) == models


def test_studies_of_one_task_are_told_apart_and_unknown_tasks_keep_their_name() -> None:
    row: dict[str, Any] = {"task": "my_task", "model": "mine", "experiment": "x", "reduction": "full", "ratio": 0.0}
    (paper,) = studies([{**row, "protocol": "paper"}])
    assert title(paper) == "my_task: mine, selected on test data"
    (sized,) = studies([{**row, "task": "smnist", "model": "s5", "orders_full": [64, 32]}])
    assert title(sized) == "MNIST, pixel by pixel (784 steps): S5, 2 layers of 32 to 64 states"


# --------------------------------------------------------------------------------------------------------------- poles


def test_decay_and_frequency_are_those_of_the_mode(rng: np.random.Generator) -> None:
    decay, frequency = rng.uniform(1e-4, 2, 20), rng.uniform(0, np.pi, 20)
    for sign in (1, -1):  # of a pair of conjugates either
        found = spectra.decay_and_frequency(np.exp(-decay + sign * 1j * frequency))
        np.testing.assert_allclose(found, (decay, frequency), rtol=1e-9)
    grows, gone = spectra.decay_and_frequency(np.array([1.5 + 0j, 0j]))[0]
    assert grows < 0 and np.isinf(gone)


@pytest.mark.parametrize(
    ("name", "key", "parts"), [("eigenvalues", "kept", (True, False)), ("poles_moved", "when", ("after", "before"))]
)
def test_poles_are_drawn_as_decay_against_frequency_and_told_apart(name: str, key: str, parts: tuple[Any, Any]) -> None:
    draw, data = drawings(*stored(LARGEST))[name]
    picture, left_out = draw(), 0
    for layer, ax in enumerate(picture.axes):
        assert ax.get_yscale() == "log"
        hollow, filled = ax.collections
        assert len(filled.get_facecolors()) and not len(hollow.get_facecolors())
        for marks, part in ((filled, parts[0]), (hollow, parts[1])):
            of_layer = [one for one in data if one["layer"] == layer and one[key] == part]
            written = sorted((one["frequency"], one["decay"]) for one in of_layer if 0 < one["decay"] < np.inf)
            np.testing.assert_allclose(sorted(map(tuple, marks.get_offsets())), written)
            inside = [y for _, y in written if ax.get_ylim()[0] <= y <= ax.get_ylim()[1]]
            assert len(inside) == len(written)
            left_out += len(of_layer) - len(written)
    noted = [text.get_text() for ax in picture.axes for text in ax.texts]
    assert sum(int(text.split()[0]) for text in noted) == left_out
    legend = [text.get_text() for text in picture.legends[0].get_texts()]
    assert legend == (["removed", "kept"] if name == "eigenvalues" else ["before", "after"])


def test_tables_of_figures_are_written_beside_them(tmp_path: Path) -> None:
    study, arrays = stored("digits_bt_originals")
    written = save_figures(study.rows, arrays, tmp_path, ())
    for path in written:
        _, data = drawings(study, arrays)[path.stem]
        assert read_csv(path) == json.loads(json.dumps(data)), path.name


# ------------------------------------------------------------------------------------------------ the interactive page


def page_of(path: Path) -> list[Record]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return list(json.loads(found[1])["studies"])


@pytest.mark.slow
def test_a_stored_study_opens_as_runs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S5C_RESULTS", raising=False)
    study, arrays = stored("smnist_short_latency")
    place = tmp_path / "published" / "mine"
    store(study.rows, arrays, place)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert set(before) == {"table.csv", "spectra.npz"}
    done = jobs.run("report", f"runs={place}", "html=true", folder=tmp_path)
    assert done.code == 0, done.err
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before, "what is stored stays as it is"
    made = tmp_path / "results/report/mine"
    (found,) = page_of(made / "report.html")
    assert [arm["name"] for arm in found["arms"]] == list(by_arm(study.rows))
    assert "pixel by pixel" in found["words"]
    assert {"eigenvalues.png", "accuracy_vs_ratio.csv", "report.md"} <= {path.name for path in made.iterdir()}
    again, _ = restore(made)
    assert [row["test_accuracy"] for row in again] == [row["test_accuracy"] for row in study.rows]

    done = jobs.run("report", f"runs={place}", f"output={place}/report", folder=tmp_path)
    assert done.code == 1 and "is in the folder of a stored study" in done.err
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_a_folder_of_stored_studies_opens_and_what_is_stored_twice_counts_once(tmp_path: Path) -> None:
    first, second = (stored(name) for name in ("smnist_short_latency", "digits_bt_originals"))
    for place, (study, arrays) in {"a": first, "b": second, "a_again": first, "a/report": first}.items():
        store(study.rows, arrays, tmp_path / place)
    rows, arrays, folders = gather([tmp_path])
    assert len(rows) == len(first[0].rows) + len(second[0].rows)
    assert set(arrays) == {*first[1], *second[1]}
    assert {folder.name for folder in folders} == {"a", "a_again", "b"}


@pytest.mark.parametrize("name", EVERY)
def test_the_results_page_says_how_to_open_every_study(name: str) -> None:
    study, _ = stored(name)
    section = published._study(name, name, study, REPOSITORY)
    assert f"`python -m s5c.report runs=results/published/{name} html=true`" in section
