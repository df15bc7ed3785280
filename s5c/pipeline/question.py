"""What a run answers: everything that decides its rows, and nothing of where files lie or how a command was spelled.

The same question finds the same folder, and what was computed for it; another question never does. Overrides do not
enter, but what they come to; a checkpoint enters by its weights and the data it is tested on, not by its path.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import s5c
from s5c import axes, lookup
from s5c import config as settings
from s5c.data.origin import PLACE_KEYS
from s5c.keys import EvaluationKeys
from s5c.pipeline.trained import Prepared, TrainedModel, load_task
from s5c.pipeline.weights import fingerprint

VERSION = 1
"""Raised when questions are described in another way, so that old folders are not mistaken for new ones."""

ENTER_OTHERWISE = ("ratio", "params", "bytes", "order", "tolerance", "weights", "refit_options")
"""Keys of a reduction that enter as its targets (where an order is given `ratio` means nothing), model and refit."""

TIMING_KEYS = ("latency", "rounds")
"""Keys of an evaluation that decide the measured times of a row alone: those are measured again, nothing else is."""

DECISIVE = (
    *("ssm", "reduction", "model", "training", "data", "evaluation/cost.py"),
    *("evaluation/metrics.py", "report/arms.py", "report/row.py", "axes.py"),
    *("pipeline/calibration.py", "pipeline/compress.py", "pipeline/context.py", "pipeline/line.py"),
    *("pipeline/narrowed.py", "pipeline/network.py", "pipeline/parameters.py", "pipeline/row.py", "pipeline/search.py"),
    *("pipeline/rounded.py", "pipeline/sensitivity.py", "pipeline/stage", "pipeline/targets.py", "pipeline/weights.py"),
)
"""The code, below s5c/, that decides what is in a row."""


def ask(
    name: str, model: Mapping[str, Any], reduction: settings.ReductionJob | None, evaluation: EvaluationKeys
) -> dict[str, Any]:
    """Returns a question in JSON values.

    Args:
        name: name of the experiment.
        model: what `of_training` or `of_checkpoint` returned.
        reduction: the preset with all its targets; None to evaluate the model as it is.
        evaluation: what is measured.
    """
    return settings.jsonable(
        {
            "version": VERSION,
            "name": name,
            "model": model,
            "reduction": None if reduction is None else _reduction(reduction),
            "evaluation": _evaluation(evaluation),
        }
    )


def of_training(ready: Prepared, which: str) -> dict[str, Any]:
    """Describes a model that is trained, or will be, by what decides its training."""
    return {"trained_id": ready.id, "weights": which}


def of_checkpoint(trained: TrainedModel) -> dict[str, Any]:
    """Describes a model by its weights and by what it is trained, selected and tested on."""
    facts = trained.metadata
    return {
        "weights": fingerprint(trained.weights),
        "model": trained.model.config.to_dict(),
        "state_dims": trained.model.state_dims,
        "data": trained.dataset.fingerprint(),
        "splits": _splits(trained),
        "step_rescale": trained.step_rescale,
        **{key: facts[key] for key in ("trained_id", "seed", "protocol")},
        **({"recipe": facts["recipe"]} if facts.get("converted") else {}),  # which may be given on the command line
    }


def of_part(question: Mapping[str, Any], trained: TrainedModel) -> dict[str, Any]:
    """Returns what decides every row of a run but its target: of the question, the weights and the code.

    Without them, what an edited method gave before the edit would pass for its result.
    """
    reduction = question["reduction"]
    return {
        **question,
        "reduction": reduction and {key: value for key, value in reduction.items() if key != "targets"},
        "checkpoint": settings.jsonable(of_checkpoint(trained)),
        "code": code(),
    }


def digest(description: Mapping[str, Any]) -> str:
    """Returns the checksum of a JSON description."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


@functools.cache
def code() -> str:
    """Returns a checksum of the code that decides what is in a row, that of `S5C_PLUGINS` included."""
    package, found = Path(s5c.__file__).parent, hashlib.sha256()
    for place in DECISIVE:
        for path in sorted((package / place).rglob("*.py")) or [package / place]:
            found.update(path.relative_to(package).as_posix().encode() + b"\n" + path.read_bytes())
    for path in lookup.sources():
        found.update(f"{path.parent.name}/{path.name}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _evaluation(keys: EvaluationKeys) -> dict[str, Any]:
    found = {key: value for key, value in dataclasses.asdict(keys).items() if key not in TIMING_KEYS}
    if not keys.test_skip:
        del found["test_skip"]  # younger than folders that are to be found again
    return found


def _reduction(job: settings.ReductionJob) -> dict[str, Any]:
    absent = {axis.key(field) for axis in job.axes if axis.absent for field in axis.fields()}
    groups = {axis.GROUP: dataclasses.asdict(axis) for axis in job.axes if axis.GROUP and not axis.absent}
    calibration = groups["calibration"]
    if (task := calibration["task"]) and axes.looks_at_data(job):
        calibration["task"] = {key: value for key, value in task.items() if key not in PLACE_KEYS}
        calibration["data"] = load_task(settings.task_job(task), "validation")[0].fingerprint()
    if (inputs := calibration.pop("inputs")) is not None:  # younger than folders that are to be found again
        calibration["inputs"] = hashlib.sha256(Path(inputs).expanduser().read_bytes()).hexdigest()
    # Of objects made from the options, so that a default counts the same whether it was given or not.
    return {
        "preset": {key: value for key, value in job.ungrouped().items() if key not in (*ENTER_OTHERWISE, *absent)},
        "method": dataclasses.asdict(job.method),  # type: ignore[call-overload]
        "refit": dataclasses.asdict(job.refit),  # type: ignore[call-overload]
        **groups,
        "targets": [[target.kind, target.value] for target in job.targets],
    }


def _splits(trained: TrainedModel) -> str:
    found = hashlib.sha256(trained.splits.selected_on.encode())
    for split in (trained.splits.train, trained.splits.selection, trained.splits.test):
        for array in (split.labels, split.rows):
            found.update(b"all" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
