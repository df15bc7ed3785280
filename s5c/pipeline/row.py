"""What a row of results holds: the network, what was done to it, what came out, and how to get it again."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from s5c import config as settings
from s5c.evaluation import cost
from s5c.evaluation.metrics import Predictions
from s5c.keys import EvaluationKeys
from s5c.pipeline.latency import NOT_MEASURED
from s5c.pipeline.provenance import shown
from s5c.pipeline.reduction import Reduced
from s5c.pipeline.trained import TrainedModel
from s5c.pipeline.zoo import PREFIX

Row = dict[str, Any]

CORRECT = "correct.npz"
"""Which test examples each network of a job got right: an array per target, and `full`."""


def common(trained: TrainedModel, evaluation: EvaluationKeys, experiment: str, facts: Mapping[str, Any]) -> Row:
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


def as_it_is(trained: TrainedModel) -> Row:
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


def as_reduced(trained: TrainedModel, reduction: settings.ReductionJob, network: Reduced) -> Row:
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


def accuracies(selection: Predictions, test: Predictions, reference: Predictions) -> Row:
    return {
        "val_accuracy": selection.accuracy,
        "val_loss": selection.loss,
        "test_accuracy": test.accuracy,
        "test_loss": test.loss,
        "test_accuracy_full": reference.accuracy,
        "agreement": test.agreement(reference),
    }
