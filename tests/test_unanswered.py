"""A network that does not answer with numbers has no accuracy, and a layer that is no system is not reduced."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from reductions import MASKINGS, PROJECTIONS, SELECTIONS, VARIANTS, layer, make_network, with_arrays

from s5c.data.task.digits import Task
from s5c.errors import UserError
from s5c.evaluation import metrics
from s5c.evaluation.metrics import Predictions, check_answers, unanswered
from s5c.reduction import stage
from s5c.reduction.contract import Fresh, load_allocation
from s5c.reduction.layer import check_finite
from s5c.report import summary
from s5c.report.collect import studies
from s5c.report.tables import console, markdown
from s5c.training import loop
from s5c.training.checkpoint import load, save_single
from s5c.training.steps import Totals

NAN, INF = math.nan, math.inf

# ---- layers that are no systems


@pytest.mark.parametrize("value", [NAN, INF, -INF, complex(0, NAN), 1e39], ids=str)
@pytest.mark.parametrize("parameter", ["Lambda", "B", "C", "C_backward", "D", "Delta"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_no_number_is_named_before_any_method_sees_it(name: str, parameter: str, value: complex) -> None:
    """1e39 is one, but not in single precision, in which networks run."""
    systems = make_network()
    array = np.array(getattr(systems[1], parameter))
    if not np.iscomplexobj(array):
        if isinstance(value, complex):
            return
        if value == -INF:
            value = INF
    array[(2,) * array.ndim] = value
    systems[1] = with_arrays(systems[1], **{parameter: array})
    method = VARIANTS[name]
    said = (
        rf"^Layer 1: {parameter}\[2(, 2)?\] is .*(nan|inf|1e\+39).*; 1 of the \d+ numbers in {parameter} are not finite"
    )
    with pytest.raises(UserError, match=said):
        if name in MASKINGS:
            stage.mask(method, systems, 0.5, seed=0)  # type: ignore[arg-type]
            return
        chosen = method.ranking if isinstance(method, Fresh) else method
        assert name in {**SELECTIONS, **PROJECTIONS} or isinstance(method, Fresh)
        stage.rank(chosen, load_allocation("global"), [layer(system) for system in systems], seed=0)  # type: ignore[arg-type]


def test_sound_layers_pass_and_so_does_the_step_of_an_empty_slot() -> None:
    first, second, third = make_network()
    B, C, back, Delta = (np.array(getattr(first, key)) for key in ("B", "C", "C_backward", "Delta"))
    B[1], C[:, 1], back[:, 1], Delta[1] = 0, 0, 0, INF
    check_finite([layer(with_arrays(first, B=B, C=C, C_backward=back, Delta=Delta)), layer(second), layer(third)])


# ---- answers


def predictions(log_probs: Any) -> Predictions:
    return Predictions(np.asarray(log_probs, float), np.array([0, 1, 0]))


GOOD = predictions(np.log([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6]]))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_answer_that_is_not_finite_and_there_is_no_accuracy(value: float) -> None:
    assert GOOD.accuracy == pytest.approx(2 / 3) and GOOD.loss == pytest.approx(-np.log([0.7, 0.8, 0.4]).mean())
    assert GOOD.classes.tolist() == [0, 1, 1] and GOOD.agreement(GOOD) == 1 and unanswered(test=GOOD) == []
    check_answers("The model", test=GOOD)
    bad = predictions(np.where(np.eye(3, 2) > 0, value, GOOD.log_probs))  # the first of one, the second of another
    assert bad.accuracy is None and bad.loss is None
    assert bad.agreement(GOOD) is None and GOOD.agreement(bad) is None and bad.agreement(bad) is None
    assert bad.classes.tolist() == [-1, -1, 1], "no class, so that no label is met"
    (note,) = unanswered(selection=GOOD, test=bad)
    assert note.startswith("2 of 3 answers on the test split are not finite numbers")
    with pytest.raises(UserError, match=r"^The model m: 2 of 3 answers on the test split .*clip_eigs"):
        check_answers("The model m", test=bad)


# ---- jobs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained once for the module: two layers of four stored states."""
    folder = tmp_path_factory.mktemp("unanswered")
    done = jobs.run("train", "reduction=none", folder=folder)
    assert done.code == 0, done.err
    return jobs.only(folder, "results/trained/*")


def spoiled(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Stores a model whose parameters were changed, with checksums that fit."""
    stored = load(checkpoint)
    weights = json_copy(stored.weights)
    change(weights["params"])
    metadata = {key: value for key, value in stored.metadata.items() if key not in ("checksum", "empty_arrays")}
    return save_single(folder / "spoiled", weights=weights, metadata=metadata)


def json_copy(tree: Any) -> Any:
    return {key: json_copy(value) for key, value in tree.items()} if isinstance(tree, dict) else np.array(tree)


@pytest.mark.parametrize("preset", ["last", "calibrated", "unstructured_random"])
def test_a_layer_that_is_no_system_is_refused_at_once(preset: str, checkpoint: Path, tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params["encoder"]["layers_1"]["seq"]["B"][2, 3, 0] = NAN

    path = spoiled(checkpoint, tmp_path, change)
    done = jobs.run("reduce", f"checkpoint={path}", f"reduction={preset}", folder=tmp_path)
    assert done.code == 1 and "Layer 1: B[2, 3] is nan" in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("entry", ["reduce", "evaluate"])
def test_a_model_that_does_not_answer_is_refused_at_once(entry: str, checkpoint: Path, tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params["decoder"]["kernel"][0, 0] = NAN

    done = jobs.run(entry, f"checkpoint={spoiled(checkpoint, tmp_path, change)}", folder=tmp_path)
    assert done.code == 1 and "Traceback" not in done.err
    assert "360 of 360 answers on the test split are not finite numbers" in done.err
    assert list(tmp_path.glob("results/*/*/rows.jsonl")) == []


@pytest.fixture
def small_ones_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of fewer than four states answer NaN to the first example of every batch."""
    sound = metrics.log_probs

    def said(model: Any, *rest: Any) -> Any:
        answers = sound(model, *rest)
        return answers.at[0, 1].set(NAN) if sum(model.state_dims) < 4 else answers

    monkeypatch.setattr(metrics, "log_probs", said)


@pytest.mark.slow
def test_a_ratio_without_accuracy_is_told_and_the_others_go_on(
    checkpoint: Path, tmp_path: Path, small_ones_are_silent: None
) -> None:
    ratios = "reduction.ratio=[0.25,0.75,0.5]"
    done = jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=last", ratios, folder=tmp_path)
    assert done.code == 0, done.err
    assert "last at 0.75: 6 of 360 answers on the test split are not finite numbers" in " ".join(done.err.split())
    text = jobs.only(tmp_path, "results/reduce/*/rows.jsonl").read_text()
    full, first, silent, last = rows = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(row["test_accuracy"], float) for row in (full, first, last))
    for key in ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "agreement"):
        assert silent[key] is None, key
    assert silent["test_accuracy_full"] == full["test_accuracy"] and silent["states"] == 2
    assert any(note.startswith("at 0.75: 6 of 360 answers on the test split") for note in silent["notes"])
    assert not any("answers" in note for note in first["notes"])
    # In tables: a dash, and why.
    told = markdown(rows)
    assert "– at a ratio that was tested: not all answers" in told and "6 of 360 answers" in told
    (study,) = studies(rows)
    (line,) = [line for line in summary.accuracies(study).splitlines() if line.startswith("| **last**")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[2] == "–" and "–" not in cells[:2]
    assert str(console(rows))
    report = jobs.run("report", f"runs={tmp_path / 'results'}", folder=tmp_path)
    assert report.code == 0, report.err
    stored = load(Path(tmp_path / silent["checkpoint"]))
    assert stored.metadata["metrics"]["test_accuracy"] is None


def test_the_last_ratio_without_accuracy_ends_the_job_well(
    checkpoint: Path, tmp_path: Path, small_ones_are_silent: None
) -> None:
    done = jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=aire", "reduction.ratio=0.75", folder=tmp_path)
    assert done.code == 0 and math.isnan(done.value), done.err


def test_a_silent_network_is_never_within_a_drop(checkpoint: Path, tmp_path: Path, small_ones_are_silent: None) -> None:
    drop = ("reduction=random", "reduction.max_drop=100")
    done = jobs.run("reduce", f"checkpoint={checkpoint}", *drop, folder=tmp_path)
    assert done.code == 0, done.err
    _, found = jobs.rows(jobs.only(tmp_path, "results/reduce/*") / "rows.jsonl")
    assert found["states"] == 4, "100 points may be lost, but there must be an accuracy"


def test_measured_sensitivities_need_answers(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = metrics.log_probs

    def said(model: Any, *rest: Any) -> Any:
        return sound(model, *rest) * (NAN if sum(model.state_dims) == 6 else 1)

    monkeypatch.setattr(metrics, "log_probs", said)
    few = ("reduction.calibration.sequences=40", "reduction.calibration.batch_size=20")
    weighed = ("reduction=calibrated", "reduction.layer_sensitivity=measured", *few)
    done = jobs.run("reduce", f"checkpoint={checkpoint}", *weighed, folder=tmp_path)
    assert done.code == 1 and "without half of the states of layer 0: 40 of 40 answers on the calibration" in done.err


# ---- training


def test_an_epoch_without_answers_has_no_accuracy() -> None:
    def totals(loss: float) -> dict[str, float]:
        def step(params: Any, stats: Any, batch: Any) -> Totals:
            return Totals(np.float32(loss), np.float32(3), np.float32(4))  # type: ignore[arg-type]

        dataset = Task().load()
        return loop.evaluate(step, {}, {}, jobs_batches(dataset))

    assert totals(2.0) == {"loss": 0.5, "accuracy": 0.75}
    assert all(math.isnan(value) for value in totals(NAN).values())
    assert math.isnan(totals(INF)["accuracy"])


def jobs_batches(dataset: Any) -> Any:
    from s5c.data.batching import eval_batches

    return list(eval_batches(dataset.test.take(np.arange(4)), 4))


@pytest.mark.parametrize("epochs_without", [(1,), (1, 2)])
def test_the_best_epoch_is_one_that_answers(
    epochs_without: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = loop.evaluate, []

    def evaluate(*given: Any) -> dict[str, float]:
        calls.append(given)
        found = sound(*given)
        return dict.fromkeys(found, NAN) if len(calls) in epochs_without else {**found, "accuracy": 0.1}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    done = jobs.run("train", "reduction=none", folder=tmp_path)
    assert "Epoch 1 cannot be the best" in done.err
    trained = jobs.only(tmp_path, "results/trained/*")
    if len(epochs_without) == 1:
        assert done.code == 0, done.err
        assert json.loads((trained / "trained.json").read_text())["best_epoch"] == 2
        return
    assert done.code == 1 and "ended without a best epoch" in done.err and "Traceback" not in done.err
    assert not (trained / "trained.json").exists()


# ---- sequences without a step


def test_a_sequence_without_a_step_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Task.load

    def load_task(self: Task) -> Any:
        dataset = sound(self)
        lengths = np.full(len(dataset.train), 64)
        lengths[[5, 9]] = 0
        return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, lengths=lengths))

    monkeypatch.setattr(Task, "load", load_task)
    done = jobs.run("train", "reduction=none", folder=tmp_path)
    assert done.code == 1 and "diverged" not in done.err and "Traceback" not in done.err
    assert "digits: example 5 of the train split has no step, 2 of 1437 have none" in " ".join(done.err.split())
    assert list(tmp_path.glob("results/trained/*")) == []
