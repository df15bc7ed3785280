"""What a row of results holds: the network, what was done to it, what came out, and how to get it again.

A row says by itself what it is: `arm`, `preset`, `settings` and `differences` as `s5c.axes` has them on the day it is
written, and the `schema` of all this (`s5c.report.arms`).
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from s5c import axes
from s5c.evaluation import cost
from s5c.evaluation.metrics import Said
from s5c.keys import EvaluationKeys
from s5c.metric import ACCURACY, Metric
from s5c.model import surgery
from s5c.model.network import readout
from s5c.pipeline.latency import NOT_MEASURED
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.packing import packed, stored_form
from s5c.pipeline.parameters import bits_of, with_bits
from s5c.pipeline.provenance import shown
from s5c.pipeline.trained import TrainedModel, checksum
from s5c.pipeline.zoo import PREFIX
from s5c.reduction.bound import LAYER_NORM_EPSILON, output_bound
from s5c.reduction.target import Target
from s5c.report.arms import called
from s5c.report.row import FULL, SCHEMA, Row, as_row
from s5c.training.checkpoint import best_step

log = logging.getLogger(__name__)

CORRECT = "correct.npz"
"""Which test examples each network of a job got right: an array per target, and `full`."""
SUMS = "sums.npz"
"""Of targets, what `s5c.metric` sums over the answers to every test example: an array per target, and `full`."""
MEASURED = ("metrics", "evaluated")
"""What metadata say of a network's answers, which one that was made from it does not share."""


def single_file(trained: TrainedModel) -> str:
    """Returns the name of the file, beside the rows, of what paired errors are computed from."""
    return CORRECT if trained.dataset.targets is None else SUMS


def common(trained: TrainedModel, evaluation: EvaluationKeys, experiment: str, facts: Mapping[str, Any]) -> Row:
    """Returns what all rows of a job share.

    Args:
        trained: the model that is reduced.
        evaluation: what is measured.
        experiment: name printed in the rows.
        facts: facts of the environment.
    """
    size = cost.size(trained.model, trained.weights["params"], trained.length or 1)
    stored = cost.stored(stored_form(trained.weights, trained.metadata))
    data = trained.dataset.fingerprint()
    return {
        "schema": SCHEMA,
        "task": trained.dataset.name,
        "source": trained.dataset.source,
        "other_data": None if data == trained.metadata["data"] else data,
        "model": trained.model.config.family,
        "recipe": recipe_of(trained.metadata),
        "experiment": experiment,
        "seed": trained.metadata["seed"],
        "protocol": trained.metadata["protocol"],
        "selected_on": trained.splits.selected_on,
        **_answers(trained),
        "states_full": size.states,
        "orders_full": size.orders,
        "params_full": size.params,
        "state_params_full": size.state_params,
        "macs_full": size.macs,
        "array_bytes_full": stored.arrays,
        "safetensors_bytes_full": stored.safetensors,
        "checkpoint_bytes_full": None if _in_zoo(trained) else stored.safetensors,
        "batch_size": evaluation.batch_size,
        "test_examples": len(trained.splits.test),
        "test_skip": evaluation.test_skip or None,
        "device": facts["device"],
        "trained_id": trained.id,
        "parent": name_of(trained),
        "command": facts["command"],
        "version": facts["s5c"],
        "git": facts["git"],
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **NOT_MEASURED,
    }


def _answers(trained: TrainedModel) -> Row:
    """Returns what the task asks for."""
    if trained.dataset.targets is None:
        return {"classes": trained.dataset.classes}
    return {"metric": trained.metric.name, "outputs": trained.dataset.classes}


def as_it_is(trained: TrainedModel) -> Row:
    """Returns what the row of the model that is reduced has of its own."""
    given, stored = given_network(trained), cost.stored(stored_form(trained.weights, trained.metadata))
    return {
        "reduction": FULL,
        "preset": None,
        "arm": called(FULL, given),
        "settings": given,
        "differences": given,
        "correct_file": single_file(trained),
        "method": "none",
        "allocation": None,
        "options": {},
        "ratio": 0.0,
        "ratio_achieved": 0.0,
        "masked_only": False,
        "seconds_reduction": 0.0,
        "checkpoint": name_of(trained),
        "array_bytes": stored.arrays,
        "safetensors_bytes": stored.safetensors,
        "bits": (trained.metadata.get("stored") or {}).get("bits", 32),
        "checkpoint_bytes": None if _in_zoo(trained) else stored.safetensors,
        **_counted(cost.size(trained.model, trained.weights["params"], trained.length or 1)),
    }


def as_reduced(trained: TrainedModel, reduction: axes.ReductionJob, network: ReducedNetwork) -> Row:
    """Returns what the row of a reduced network has of its own."""
    given, reduction = given_network(trained), as_found(reduction, network)
    stored = cost.stored(packed(network.model, network.weights, network.bits, trained.step_rescale))
    size_full, size = (cost.size(one.model, one.weights["params"], trained.length or 1) for one in (trained, network))
    changed = {**axes.changed(reduction), **given}
    return {
        "reduction": reduction.keys.name,
        "preset": reduction.preset,
        "arm": axes.name(reduction, given),
        "settings": {**axes.decisive(reduction), **given},
        "differences": changed,
        "method": reduction.keys.method,
        "allocation": reduction.keys.allocation,
        "options": reduction.options,
        "reduction_seed": reduction.keys.seed,
        "correct_file": single_file(trained),
        "target": f"{network.target.kind} {network.target.value}",
        "ratio": network.ratio_achieved if (ratio := _asked(network.target, "ratio")) is None else ratio,
        "ratio_achieved": network.ratio_achieved,
        "params_asked": _asked(network.target, "params"),
        "params_achieved": 1 - size.params / size_full.params,
        "masked_only": network.selected is None,
        **as_row({key: value for axis in reduction.axes for key, value in axis.row().items()}),
        **as_row(network.facts),
        "error_h2": [error.h2 for error in network.errors],
        "error_hinf": [error.hinf for error in network.errors],
        "error_bound": list(network.bounds),
        **({} if network.quadratic is None else {"error_h2_quadratic": network.quadratic}),
        **{"notes": list(network.notes), **_guarantee(trained, network)},
        **as_row({f"seconds_{clock}": seconds for clock, seconds in network.seconds.items()}),
        "checkpoint": None,
        "bits": network.bits,
        "array_bytes": stored.arrays,
        "safetensors_bytes": stored.safetensors,
        "checkpoint_bytes": None,
        **_counted(size),
        "states": sum(network.orders),
        "orders": network.orders,
        "widths": list(network.model.state_dims),
    }


def accuracies(metric: Metric, selection: Said, test: Said, reference: Said) -> Row:
    """Returns what a network answers, and how often as another one does.

    Args:
        metric: of the task.
        selection: on the split that the checkpoint was selected on.
        test: on the test split.
        reference: answers of the model that is reduced, on the test split.
    """
    agreement: float | None = test.agreement(reference)  # type: ignore[arg-type]  # both of one task
    found: dict[str, Any] = {}
    for split, said in (("val", selection), ("test", test)):
        found |= {f"{split}_{name}": value for name, value in said.metrics.items()} | {f"{split}_loss": said.loss}
    if metric is ACCURACY:
        return as_row({**found, "test_accuracy_full": reference.metrics[metric.name], "agreement": agreement})
    full = {f"test_{name}_full": value for name, value in reference.metrics.items()}
    return as_row({**found, **full, "agreement": agreement})


def name_of(trained: TrainedModel) -> str:
    """Returns what a model is called in results, and what `checkpoint=` takes."""
    return f"{PREFIX}{trained.path.name}" if _in_zoo(trained) else shown(trained.path)


def given_network(trained: TrainedModel) -> dict[str, str]:
    """Returns what sets a network apart from the best step of its training: another step, or reductions before."""
    given = {}
    before = trained.metadata.get("reductions") or []
    if not before and (earlier := trained.metadata.get("reduction")):  # saved before there was the list
        before = [f"{earlier['name']} at {earlier['target']}"]
    if before:
        given["of"] = ", then ".join(before)
    step = trained.path.name
    if step.isdigit() and not _in_zoo(trained) and best_step(trained.path.parent) not in (None, int(step)):
        given["weights"] = f"step {step}"
    return given


def reduced_facts(trained: TrainedModel, reduction: axes.ReductionJob, network: ReducedNetwork) -> dict[str, Any]:
    """Returns what is known of a reduced network: all that was of the model before, but what was measured of it."""
    reduction = as_found(reduction, network)
    return {
        **{key: value for key, value in trained.metadata.items() if key not in MEASURED},
        "state_dims": list(network.model.state_dims),
        "unstable_modes": surgery.unstable_modes(network.weights["params"], network.model.config),
        "model": network.model.config.to_dict(),
        "reduction": {
            **reduction.ungrouped(),
            "options": reduction.options,
            "target": network.target.label,
            "ratio": network.ratio_achieved,
        },
        "reductions": reductions_so_far(trained, reduction, network.target.label),
        "stored": {"bits": network.bits, "step_rescale": trained.step_rescale},
    }


def as_found(reduction: axes.ReductionJob, network: ReducedNetwork) -> axes.ReductionJob:
    """Returns a job with the bits that were found for a network on validation data, where it left them open."""
    left_open = reduction.kind == "bytes" and network.bits != bits_of(reduction)
    return with_bits(reduction, network.bits) if left_open else reduction


def reductions_so_far(trained: TrainedModel, reduction: axes.ReductionJob, target: str) -> list[str]:
    """Returns what a reduced model has behind it, for its metadata.

    Args:
        trained: the model that was reduced.
        reduction: what it was reduced by.
        target: the label of what was asked for.
    """
    before = given_network(trained).get("of")
    return [*([before] if before else []), f"{axes.name(reduction)} at {target}"]


def _asked(target: Target, kind: str) -> float | None:
    return target.value if target.kind == kind and not isinstance(target.value, tuple) else None


def _counted(size: cost.Size) -> Row:
    return {
        "states": size.states,
        "orders": size.orders,
        "params": size.params,
        "state_params": size.state_params,
        "macs": size.macs,
    }


def _guarantee(trained: TrainedModel, network: ReducedNetwork) -> Row:
    """Returns the bound of how far the logits may move, for networks of the class that there is one for."""
    config, weights = trained.model.config, trained.weights
    dataset, padded = trained.dataset, trained.splits.test.lengths is not None
    fixed = config.activation == "lqo" and config.layer_eps >= LAYER_NORM_EPSILON and trained.length is not None
    if not fixed or dataset.pairs or dataset.targets is not None or padded:
        return {}
    around = (surgery.without_systems(one["params"], config) for one in (weights, network.weights))
    if not all(map(np.array_equal, *map(jax.tree.leaves, around))):
        return {}  # trained or solved again: not the systems alone have changed
    length, reduced = trained.dataset.length, surgery.systems(network.weights["params"], network.model.config)
    layers, decoder = surgery.layers(weights, config, horizon=length), readout(weights)["kernel"]
    found = output_bound(layers, reduced, decoder, steps=length, pooling=config.pooling)
    if found is None:
        return {}
    said = f"whatever the input, the logits move by at most {found:.3g} (Euclidean norm; in exact arithmetic)."
    log.info("%s: %s", network.target.label, said)
    return {"output_bound": found, "notes": [*network.notes, f"at {network.target.label}: {said}"]}


def recipe_of(metadata: Mapping[str, Any]) -> str:
    """Returns a short checksum of what trainings share that differ in the seed alone."""
    facts = {key: metadata.get(key) for key in ("task", "model", "recipe", "protocol")}
    facts["task"] = {key: value for key, value in (facts["task"] or {}).items() if key != "source"}
    facts["recipe"] = {key: value for key, value in (facts["recipe"] or {}).items() if value is not None}
    return checksum(facts)[:6]


def _in_zoo(trained: TrainedModel) -> bool:
    return trained.weights_path.is_file()
