"""From a trained model to reduced ones: reduce at every ratio, evaluate, measure, save, log, report."""

from __future__ import annotations

import dataclasses
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
from s5c.evaluation.collect import ROWS_FILE, with_latency_of
from s5c.evaluation.metrics import check_answers, predict, unanswered
from s5c.evaluation.rowfile import write_rows
from s5c.keys import EvaluationKeys
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.latency import measure
from s5c.pipeline.provenance import environment, shown
from s5c.pipeline.reduction import Reduced, reductions
from s5c.pipeline.row import CORRECT, Row, accuracies, as_it_is, as_reduced, common, name_of, reductions_so_far
from s5c.pipeline.spectra import write_spectra
from s5c.pipeline.trained import TrainedModel, batches, predictions
from s5c.reduction import stage
from s5c.reduction.layer import check_finite
from s5c.tracking.run import Run
from s5c.training.checkpoint import save_single

log = logging.getLogger(__name__)


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
    check_answers(f"The model {name_of(trained)}", selection=full[0], test=full[1])
    base = common(trained, evaluation, experiment, facts)
    rows = [{**base, **as_it_is(trained), **accuracies(*full, reference=full[1])}]
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
        row = {**base, **as_reduced(trained, reduction, network), **accuracies(*found, reference=full[1])}
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
        measure(rows, trained, reduced, evaluation)
    else:  # what was measured before on the same networks stays
        rows = with_latency_of(rows, run.directory / ROWS_FILE)
    if ranking is not None:
        write_spectra(run.directory / "spectra.npz", trained, ranking, reduced)
    write_rows(run.directory / ROWS_FILE, rows)
    _report_to(run, trained, rows)
    return rows


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
        "reductions": reductions_so_far(trained, reduction, network.target.label),
        "metrics": {key: row[key] for key in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")},
    }
    save_single(path, weights=network.weights, metadata=metadata)
    return {"checkpoint": shown(path), "checkpoint_bytes": row["safetensors_bytes"]}


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
