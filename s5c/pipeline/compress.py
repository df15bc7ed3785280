"""From a trained model to reduced ones: reduce at every ratio, evaluate, measure, save, log, report."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from s5c import config as settings
from s5c.evaluation import cost
from s5c.evaluation.metrics import Predictions
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.provenance import environment, shown
from s5c.pipeline.trained import TrainedModel, batches, predictions
from s5c.reduction import stage
from s5c.reduction.contract import Masking, Selection, load_allocation
from s5c.tracking.run import Run
from s5c.training.checkpoint import save_single
from s5c.training.loop import to_device

log = logging.getLogger(__name__)

Row = dict[str, Any]

NOT_MEASURED = dict.fromkeys(
    ("latency_ms", "latency_full_ms", "speedup", "speedup_best", "backend", "temp_bytes", "temp_bytes_full")
)


@dataclasses.dataclass(frozen=True)
class Reduced:
    """One reduced network.

    Attributes:
        ratio: asked for.
        model: the smaller module.
        weights: its weights.
        selected: the states that stay; None for a masked-only baseline.
        seconds: of the reduction; the scores are compiled once per process, and that counts for its first job.
    """

    ratio: float
    model: Classifier
    weights: dict[str, Any]
    selected: stage.Selected | None
    seconds: float


def reduce_network(
    trained: TrainedModel, reduction: settings.ReductionJob
) -> tuple[list[Reduced], stage.Ranking | None]:
    """Applies a preset at all of its ratios.

    Returns:
        One network per ratio, and the ranking that they are cuts of (None for a masked-only baseline).
    """
    config, params, seed = trained.model.config, trained.weights["params"], reduction.keys.seed
    systems = surgery.systems(params, config)

    def network(ratio: float, began: float, new: Mapping[str, Any], selected: stage.Selected | None) -> Reduced:
        model = cost.resized(trained.model, surgery.state_dims(new, config))
        weights = {**trained.weights, "params": new}
        return Reduced(ratio, model, weights, selected, time.perf_counter() - began)

    if isinstance(reduction.method, Masking):
        results = []
        for ratio in reduction.ratios:
            began = time.perf_counter()
            masked = stage.mask(reduction.method, systems, ratio, seed=seed)
            results.append(network(ratio, began, surgery.with_systems(params, masked, config), None))
        return results, None

    assert isinstance(reduction.method, Selection)
    priority = load_allocation(reduction.keys.allocation)
    began = time.perf_counter()
    ranking = stage.rank(reduction.method, priority, systems, seed=seed)
    ranked_in = time.perf_counter() - began
    results = []
    for ratio in reduction.ratios:
        began = time.perf_counter() - ranked_in
        selected = stage.select(ranking, ratio)
        for note in selected.notes:
            log.warning("%s: %s", reduction.keys.name, note)
        results.append(network(ratio, began, surgery.take(params, selected.keep, config), selected))
    return results, ranking


def compress(
    trained: TrainedModel,
    reduction: settings.ReductionJob | None,
    evaluation: settings.EvaluationKeys,
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
        One row for the model as it is and one per ratio.
    """
    facts = environment()
    said = partial(predictions, trained, evaluation.batch_size)
    removes = reduction is not None and reduction.keys.method != "none"
    reduced, ranking = reduce_network(trained, reduction) if removes and reduction is not None else ([], None)

    full = said(trained.model, trained.weights)
    base = _common(trained, evaluation, experiment, facts)
    rows = [{**base, **_as_it_is(trained), **_accuracies(*full, reference=full[1])}]
    folder = run.directory / "reduced"
    shutil.rmtree(folder, ignore_errors=True)
    label = reduction.keys.name if reduction is not None else ""
    for network in track(reduced, description=f"{label}: evaluating", transient=True, disable=not _terminal()):
        assert reduction is not None
        found = said(network.model, network.weights)
        row = {**base, **_as_reduced(trained, reduction, network), **_accuracies(*found, reference=full[1])}
        if reduction.keys.save:
            row |= _save(folder / f"{label}-{network.ratio:g}", trained, reduction, network, row)
        rows.append(row)
        run.log(_scalars(row), event="reduced")

    if evaluation.latency:
        _measure(rows, trained, reduced, evaluation)
    if ranking is not None:
        _write_spectra(run.directory / "spectra.npz", trained, ranking, reduced)
    _write_rows(run.directory / "rows.jsonl", rows)
    _report_to(run, trained, rows)
    return rows


# ---- rows


def _common(
    trained: TrainedModel, evaluation: settings.EvaluationKeys, experiment: str, facts: Mapping[str, Any]
) -> Row:
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
        "orders_full": list(trained.model.state_dims),
        "params_full": size.params,
        "state_params_full": size.state_params,
        "macs_full": size.macs,
        "checkpoint_bytes_full": _bytes_of(trained),
        "batch_size": evaluation.batch_size,
        "device": facts["device"],
        "trained_id": trained.id,
        "parent": shown(trained.path),
        "command": facts["command"],
        "version": facts["s5c"],
        "git": facts["git"],
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **NOT_MEASURED,
    }


def _bytes_of(trained: TrainedModel) -> int | None:
    """Returns the size of the stored weights; None for a zoo model, whose file is of another format than `_save`'s."""
    return cost.bytes_on_disk(trained.weights_path) if trained.weights_path.is_dir() else None


def _sizes(model: Classifier, params: Mapping[str, Any], length: int) -> Row:
    return {**cost.size(model, params, length)._asdict(), "orders": list(model.state_dims)}


def _as_it_is(trained: TrainedModel) -> Row:
    return {
        "reduction": "full",
        "method": "none",
        "allocation": None,
        "options": {},
        "ratio": 0.0,
        "ratio_achieved": 0.0,
        "masked_only": False,
        "seconds_reduction": 0.0,
        "checkpoint": shown(trained.path),
        "checkpoint_bytes": _bytes_of(trained),
        **_sizes(trained.model, trained.weights["params"], trained.dataset.length),
    }


def _as_reduced(trained: TrainedModel, reduction: settings.ReductionJob, network: Reduced) -> Row:
    return {
        "reduction": reduction.keys.name,
        "method": reduction.keys.method,
        "allocation": reduction.keys.allocation,
        "options": reduction.options,
        "reduction_seed": reduction.keys.seed,
        "ratio": network.ratio,
        "ratio_achieved": network.selected.ratio_achieved if network.selected else network.ratio,
        "masked_only": network.selected is None,
        "seconds_reduction": network.seconds,
        "checkpoint": None,
        "checkpoint_bytes": None,
        **_sizes(network.model, network.weights["params"], trained.dataset.length),
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


def _measure(
    rows: list[Row], trained: TrainedModel, reduced: Sequence[Reduced], evaluation: settings.EvaluationKeys
) -> None:
    """Adds latency and memory: all networks interleaved in one run, each on the full model's backend and on its own."""
    batch = to_device(next(batches(trained.splits.test, evaluation.batch_size)()))
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
        "parent": str(trained.path),
        "reduction": {**dataclasses.asdict(reduction.keys), "options": reduction.options, "ratio": network.ratio},
        "metrics": {key: row[key] for key in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")},
    }
    save_single(path, weights=network.weights, metadata=metadata)
    return {"checkpoint": shown(path), "checkpoint_bytes": cost.bytes_on_disk(path / "weights")}


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unfinished.replace(path)


def _write_spectra(path: Path, trained: TrainedModel, ranking: stage.Ranking, reduced: Sequence[Reduced]) -> None:
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for i, system in enumerate(surgery.systems(trained.weights["params"], trained.model.config)):
            arrays[f"Lambda_bar_layer{i}"] = np.asarray(jnp.asarray(system.discretise()[0]))
    for i, (scores, priorities) in enumerate(zip(ranking.scores, ranking.priorities, strict=True)):
        arrays |= {f"scores_layer{i}": scores, f"priority_layer{i}": priorities}
        for network in reduced:
            if network.selected is not None:
                arrays[f"keep_{network.ratio:g}_layer{i}"] = network.selected.keep[i]
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


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
