"""Latency and memory of the networks of a job, measured against each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from s5c.evaluation import cost
from s5c.evaluation.load import watched
from s5c.keys import EvaluationKeys
from s5c.model.classifier import Classifier, with_backend
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.trained import TrainedModel, batches
from s5c.pipeline.untasked import random_batch
from s5c.report.cells import LOADED
from s5c.report.row import Row
from s5c.training.loop import to_device

log = logging.getLogger(__name__)

NOT_MEASURED: Row = {
    **{"latency_ms": None, "latency_full_ms": None, "latency_quartiles_ms": None, "latency_batch_size": None},
    **{"latency_rounds": None, "latency_device": None, "speedup": None, "speedup_quartiles": None},
    **{"speedup_best": None, "backend": None, "temp_bytes": None, "temp_bytes_full": None, "load_others": None},
}
"""What `measure` adds to rows, all of it or nothing (`s5c.report.collect.LATENCY`)."""


def measure(
    rows: list[Row], trained: TrainedModel, reduced: Sequence[ReducedNetwork], evaluation: EvaluationKeys
) -> None:
    """Adds latency and memory: all networks interleaved in one run, each on the full model's backend and on its own.

    Args:
        rows: rows of the model as it is and of the reduced ones, in order.
        trained: the model.
        reduced: the reduced ones.
        evaluation: batch size and rounds.
    """
    spec, test = trained.model.spec, trained.splits.test
    if len(test):
        batch = to_device(next(batches(test.padded_alike(), evaluation.batch_size)()))
    else:  # times do not depend on what the inputs are
        batch = to_device(random_batch(spec, trained.dataset.length, evaluation.batch_size))
    backend = cost.backend_of(trained.model, batch)
    networks: dict[str, tuple[Classifier, Any]] = {"0": (trained.model, trained.weights)}
    for i, network in enumerate(reduced, start=1):
        if network.selected is None:
            continue  # masked only: the same shapes, the same time
        networks[str(i)] = (with_backend(network.model, backend), network.weights)
        if cost.backend_of(network.model, batch) != backend:
            networks[f"{i} best"] = (network.model, network.weights)
    log.info("Measuring latency of %d networks, interleaved, on %s ...", len(networks), rows[0]["device"])
    with watched() as load:
        measured = cost.measure(networks, batch, rounds=evaluation.rounds, step_rescale=trained.step_rescale)
    if load.others is not None and load.others > LOADED:
        log.warning(
            "Other processes took %.0f %% of the processors' time while latency was measured: the times are too long, "
            "and ratios of them uncertain.",
            100 * load.others,
        )
    full = measured["0"]
    for i, row in enumerate(rows):
        if (found := measured.get(str(i))) is None:
            continue
        best = measured.get(f"{i} best", found)
        row |= {
            "latency_ms": found.latency_ms,
            "latency_full_ms": full.latency_ms,
            "latency_quartiles_ms": cost.quartiles(found.times_ms),
            "latency_batch_size": min(evaluation.batch_size, len(test) or evaluation.batch_size),
            "latency_rounds": evaluation.rounds,
            "latency_device": row["device"],
            "speedup": full.latency_ms / found.latency_ms,
            "speedup_quartiles": cost.quartiles([a / b for a, b in zip(full.times_ms, found.times_ms, strict=True)]),
            "speedup_best": full.latency_ms / min(best.latency_ms, found.latency_ms),
            "backend": found.backend,
            "temp_bytes": found.temp_bytes,
            "temp_bytes_full": full.temp_bytes,
            "load_others": load.others,
        }
