"""From a trained model to reduced ones: reduce at every ratio, evaluate, measure, save, log, report."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from s5c import config as settings
from s5c.evaluation import cost
from s5c.evaluation.collect import ROWS_FILE
from s5c.evaluation.metrics import Predictions, check_answers, predict, unanswered
from s5c.evaluation.rowfile import write_rows
from s5c.keys import EvaluationKeys
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.provenance import environment, shown
from s5c.pipeline.reduction import Reduced, reductions
from s5c.pipeline.spectra import write_spectra
from s5c.pipeline.trained import TrainedModel, batches, predictions
from s5c.pipeline.zoo import PREFIX
from s5c.reduction import stage
from s5c.reduction.layer import check_finite
from s5c.tracking.run import Run
from s5c.training.checkpoint import save_single
from s5c.training.loop import to_device

log = logging.getLogger(__name__)

Row = dict[str, Any]

CORRECT = "correct.npz"
"""Which test examples each network of a job got right: an array per target, and `full`."""

NOT_MEASURED = dict.fromkeys(
    ("latency_ms", "latency_full_ms", "speedup", "speedup_best", "backend", "temp_bytes", "temp_bytes_full")
)


def compress(
    trained: TrainedModel,
    reduction: settings.ReductionJob | None,
    evaluation: EvaluationKeys,
    *,
    run: Run,
    experiment: str,
) -> list[Row]:
    """Reduces a model at every ratio of a preset and says what came out.

    Args:
        trained: the model to reduce.
        reduction: the preset; None evaluates the model as it is.
        evaluation: what to measure.
        run: the job's record; checkpoints, rows.jsonl and spectra.npz go to its folder.
        experiment: name printed in the rows.

    Returns:
        One row for the model as it is and one per ratio. A reduced network of which some answers are not finite numbers
        has a row without accuracy, and a note.

    Raises:
        UserError: a parameter of the model, or an answer of it, is not a finite number.
    """
    facts = environment()
    trained = _on_part(trained, evaluation.test_examples)
    check_finite(surgery.layers(trained.weights, trained.model.config))
    said = partial(predictions, trained, evaluation.batch_size)
    full = said(trained.model, trained.weights)
    check_answers(f"The model {_name(trained)}", selection=full[0], test=full[1])
    base = _common(trained, evaluation, experiment, facts)
    rows = [{**base, **_as_it_is(trained), **_accuracies(*full, reference=full[1])}]
    correct = {"full": full[1].classes == full[1].labels}
    if reduction is None or reduction.keys.method == "none":
        return _finished(rows, trained, [], None, evaluation, run)

    made, ranking, count = reductions(
        trained,
        reduction,
        folder=run.directory / "finetuned",
        validate=partial(_validation_accuracy, trained, evaluation),
    )
    folder, label, reduced = run.directory / "reduced", reduction.keys.name, []
    shutil.rmtree(folder, ignore_errors=True)
    for network in track(
        made, total=count, description=f"{label}: evaluating", transient=True, disable=not _terminal()
    ):
        found = said(network.model, network.weights)
        row = {**base, **_as_reduced(trained, reduction, network), **_accuracies(*found, reference=full[1])}
        for note in unanswered(selection=found[0], test=found[1]):
            log.warning("%s at %s: %s", label, network.target.label, note)
            row["notes"].append(f"at {network.target.label}: {note}")
        if reduction.keys.save:
            row |= _save(folder / f"{label}-{network.target.label}", trained, reduction, network, row)
        rows.append(row)
        correct[network.target.label] = found[1].classes == found[1].labels
        reduced.append(network)
        run.log(_scalars(row), event="reduced")
    np.savez_compressed(run.directory / CORRECT, **correct)
    return _finished(rows, trained, reduced, ranking, evaluation, run)


def _on_part(trained: TrainedModel, examples: int | None) -> TrainedModel:
    """Returns the model with a fixed part of its test split, chosen by the number of examples alone."""
    test = trained.splits.test
    if examples is None or examples >= len(test):
        return trained
    part = test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:examples]))
    selection = part if trained.splits.selection is test else trained.splits.selection
    return dataclasses.replace(trained, splits=dataclasses.replace(trained.splits, test=part, selection=selection))


def _validation_accuracy(
    trained: TrainedModel, evaluation: EvaluationKeys, model: Classifier, weights: Mapping[str, Any]
) -> float | None:
    split = batches(trained.splits.selection, evaluation.batch_size)()
    return predict(model, weights, split, step_rescale=trained.step_rescale).accuracy


def _finished(
    rows: list[Row],
    trained: TrainedModel,
    reduced: Sequence[Reduced],
    ranking: stage.Ranking | None,
    evaluation: EvaluationKeys,
    run: Run,
) -> list[Row]:
    if evaluation.latency:
        _measure(rows, trained, reduced, evaluation)
    if ranking is not None:
        write_spectra(run.directory / "spectra.npz", trained, ranking, reduced)
    write_rows(run.directory / ROWS_FILE, rows)
    _report_to(run, trained, rows)
    return rows


# ---- rows


def _common(trained: TrainedModel, evaluation: EvaluationKeys, experiment: str, facts: Mapping[str, Any]) -> Row:
    size = cost.size(trained.model, trained.weights["params"], trained.dataset.length)
    return {
        "task": trained.dataset.name,
        "source": trained.dataset.source,
        "model": trained.model.config.family,
        "experiment": experiment,
        "seed": trained.metadata["seed"],
        "protocol": trained.metadata["protocol"],
        "selected_on": trained.splits.selected_on,
        "classes": trained.dataset.classes,
        "states_full": size.states,
        "orders_full": size.orders,
        "params_full": size.params,
        "state_params_full": size.state_params,
        "macs_full": size.macs,
        "checkpoint_bytes_full": _bytes_of(trained),
        "batch_size": evaluation.batch_size,
        "test_examples": len(trained.splits.test),
        "device": facts["device"],
        "trained_id": trained.id,
        "parent": _name(trained),
        "command": facts["command"],
        "version": facts["s5c"],
        "git": facts["git"],
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **NOT_MEASURED,
    }


def _name(trained: TrainedModel) -> str:
    """Returns what a model is called in results, and what `checkpoint=` takes."""
    return f"{PREFIX}{trained.path.name}" if trained.weights_path.is_file() else shown(trained.path)


def _bytes_of(trained: TrainedModel) -> int | None:
    """Returns the size of the stored weights; None for a zoo model, whose file is of another format than `_save`'s."""
    return cost.bytes_on_disk(trained.weights_path) if trained.weights_path.is_dir() else None


def _as_it_is(trained: TrainedModel) -> Row:
    return {
        "reduction": "full",
        "correct_file": CORRECT,
        "method": "none",
        "allocation": None,
        "options": {},
        "ratio": 0.0,
        "ratio_achieved": 0.0,
        "masked_only": False,
        "seconds_reduction": 0.0,
        "checkpoint": _name(trained),
        "checkpoint_bytes": _bytes_of(trained),
        **cost.size(trained.model, trained.weights["params"], trained.dataset.length)._asdict(),
    }


def _as_reduced(trained: TrainedModel, reduction: settings.ReductionJob, network: Reduced) -> Row:
    return {
        "reduction": reduction.keys.name,
        "method": reduction.keys.method,
        "allocation": reduction.keys.allocation,
        "options": reduction.options,
        "reduction_seed": reduction.keys.seed,
        "correct_file": CORRECT,
        "target": f"{network.target.kind} {network.target.value}",
        "ratio": network.target.value if network.target.kind == "ratio" else network.ratio_achieved,
        "ratio_achieved": network.ratio_achieved,
        "masked_only": network.selected is None,
        "refit": reduction.keys.refit,
        "refit_options": reduction.keys.refit_options,
        "layer_sensitivity": reduction.keys.layer_sensitivity,
        "sequential": reduction.keys.sequential,
        "norm": reduction.keys.norm,
        "readout": reduction.keys.readout,
        "calibration": dataclasses.asdict(reduction.calibration),
        "finetune": dataclasses.asdict(reduction.finetune),
        "rounds": reduction.keys.rounds,
        "max_drop": reduction.keys.max_drop,
        "error_h2": [error.h2 for error in network.errors],
        "error_hinf": [error.hinf for error in network.errors],
        "error_bound": network.bounds,
        "notes": list(network.notes),
        "seconds_reduction": network.seconds,
        "seconds_calibration": network.seconds_calibration,
        "seconds_training": network.seconds_training,
        "checkpoint": None,
        "checkpoint_bytes": None,
        **cost.size(network.model, network.weights["params"], trained.dataset.length)._asdict(),
        "states": sum(network.orders),
        "orders": network.orders,
        "widths": list(network.model.state_dims),
    }


def _accuracies(selection: Predictions, test: Predictions, reference: Predictions) -> Row:
    return {
        "val_accuracy": selection.accuracy,
        "val_loss": selection.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "test_accuracy_full": reference.accuracy,
        "agreement": test.agreement(reference),
    }


def _measure(rows: list[Row], trained: TrainedModel, reduced: Sequence[Reduced], evaluation: EvaluationKeys) -> None:
    """Adds latency and memory: all networks interleaved in one run, each on the full model's backend and on its own.

    The batch has the full length, as the counted operations have, also where the data is padded to several lengths.
    """
    batch = to_device(next(batches(trained.splits.test.padded_alike(), evaluation.batch_size)()))
    backend = cost.backend_of(trained.model, batch)
    networks: dict[str, tuple[Classifier, Any]] = {"0": (trained.model, trained.weights)}
    for i, network in enumerate(reduced, start=1):
        if network.selected is None:
            continue  # masked only: the same shapes, the same time
        networks[str(i)] = (cost.with_backend(network.model, backend), network.weights)
        if cost.backend_of(network.model, batch) != backend:
            networks[f"{i} best"] = (network.model, network.weights)
    log.info("Measuring latency of %d networks, interleaved, on %s ...", len(networks), rows[0]["device"])
    measured = cost.measure(networks, batch, rounds=evaluation.rounds, step_rescale=trained.step_rescale)
    full = measured["0"]
    for i, row in enumerate(rows):
        if (found := measured.get(str(i))) is None:
            continue
        best = measured.get(f"{i} best", found)
        row |= {
            "latency_ms": found.latency_ms,
            "latency_full_ms": full.latency_ms,
            "speedup": full.latency_ms / found.latency_ms,
            "speedup_best": full.latency_ms / min(best.latency_ms, found.latency_ms),
            "backend": found.backend,
            "temp_bytes": found.temp_bytes,
            "temp_bytes_full": full.temp_bytes,
        }


# ---- files


def _save(
    path: Path, trained: TrainedModel, reduction: settings.ReductionJob, network: Reduced, row: Mapping[str, Any]
) -> Row:
    metadata = {
        **trained.metadata,
        "state_dims": list(network.model.state_dims),
        "unstable_modes": surgery.unstable_modes(network.weights["params"], network.model.config),
        "model": network.model.config.to_dict(),
        "parent": str(trained.path),
        "reduction": {
            **dataclasses.asdict(reduction.keys),
            "options": reduction.options,
            "target": network.target.label,
            "ratio": network.ratio_achieved,
        },
        "metrics": {key: row[key] for key in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")},
    }
    save_single(path, weights=network.weights, metadata=metadata)
    return {"checkpoint": shown(path), "checkpoint_bytes": cost.bytes_on_disk(path / "weights")}


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _report_to(run: Run, trained: TrainedModel, rows: Sequence[Row]) -> None:
    """Records the table, the last row's figures and every saved model, with the model it was made from."""
    run.table("rows", rows)
    run.summary({f"final_{key}": value for key, value in _scalars(rows[-1]).items()})
    parent = (f"{trained.dataset.name}-{trained.model.config.family}-{trained.id}", trained.weights_path)
    for row in rows[1:]:
        if row["checkpoint"]:
            path = Path(row["checkpoint"])
            facts = {key: row[key] for key in ("reduction", "ratio", "orders", "test_accuracy", "trained_id")}
            run.artifact(f"{parent[0]}-{path.name}", path / "weights", metadata=facts, parent=parent)


def _terminal() -> bool:
    return sys.stderr.isatty()
