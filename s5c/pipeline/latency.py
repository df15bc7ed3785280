"""Times and memory of the networks of a run: measured together, interleaved, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from s5c.evaluation import cost
from s5c.keys import EvaluationKeys
from s5c.model.classifier import Classifier
from s5c.pipeline.trained import TrainedModel, batches
from s5c.training.loop import to_device

log = logging.getLogger(__name__)

NOT_MEASURED = dict.fromkeys(
    ("latency_ms", "latency_full_ms", "speedup", "speedup_best", "backend", "temp_bytes", "temp_bytes_full")
)

FULL = "full"


def measured(
    trained: TrainedModel, reduced: Mapping[str, tuple[Classifier, Mapping[str, Any]]], evaluation: EvaluationKeys
) -> dict[str, dict[str, Any]]:
    """Times every network on the full model's backend and on its own.

    Args:
        trained: the full model.
        reduced: networks by name.
        evaluation: batch and rounds.

    Returns:
        By name, and `full`, what its row says: the keys of `NOT_MEASURED`, and the device.
    """
    batch = to_device(next(batches(trained.splits.test, evaluation.batch_size)()))
    backend, device = cost.backend_of(trained.model, batch), cost.device_name()
    networks: dict[str, tuple[Classifier, Any]] = {FULL: (trained.model, trained.weights)}
    for name, (model, weights) in reduced.items():
        networks[name] = (cost.with_backend(model, backend), weights)
        if cost.backend_of(model, batch) != backend:
            networks[f"{name} best"] = (model, weights)
    log.info("Measuring latency of %d networks, interleaved, on %s ...", len(networks), device)
    found = cost.measure(networks, batch, rounds=evaluation.rounds, step_rescale=trained.step_rescale)
    full = found[FULL]
    values = {}
    for name in (FULL, *reduced):
        own, best = found[name], found.get(f"{name} best", found[name])
        values[name] = {
            "latency_ms": own.latency_ms,
            "latency_full_ms": full.latency_ms,
            "speedup": full.latency_ms / own.latency_ms,
            "speedup_best": full.latency_ms / min(best.latency_ms, own.latency_ms),
            "backend": own.backend,
            "temp_bytes": own.temp_bytes,
            "temp_bytes_full": full.temp_bytes,
            "device": device,
        }
    return values
