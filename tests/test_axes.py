"""Every method with every axis: a setting changes the result, or it is refused; what decides nothing is in no name."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jobs
import numpy as np
import pytest
from networks import PIXELS, network, weights_of

from s5c.config import reduction_job
from s5c.data.base import Dataset, Split, Splits
from s5c.errors import UserError
from s5c.keys import CalibrationKeys, FinetuneKeys, ReductionKeys
from s5c.locations import conf_dir
from s5c.pipeline import reduction as pipeline
from s5c.pipeline.reduction import Reduced, reductions
from s5c.pipeline.trained import TrainedModel
from s5c.reduction import contract

LENGTH, TRAIN, OTHERS = 9, 24, 8

PRESETS = sorted(path.stem for path in (conf_dir() / "reduction").glob("*.yaml") if not path.stem.startswith("_"))

CALIBRATED = {"refit": "calibrated"}
TRAINED = {"finetune.epochs": 1}
VARIATIONS: dict[str, list[dict[str, Any]]] = {
    "allocation": [{"allocation": name} for name in contract.allocation_names()],
    "ratio": [{"ratio": 0.3}, {"ratio": 0.8}],
    "order": [{"order": 1}],
    "tolerance": [{"tolerance": 0.9}],
    "max_drop": [{"max_drop": 100.0}],
    "refit": [{"refit": name} for name in contract.refit_names()],
    "refit_options": [{"refit": "h2", "refit_options": {"feedthrough": False}}],
    "sequential": [{"sequential": "refit"}, *({**CALIBRATED, "sequential": mode} for mode in ("refit", "reselect"))],
    "norm": [{"norm": "recalibrate"}],
    "readout": [{"readout": "refit"}],
    "layer_sensitivity": [{"layer_sensitivity": kind} for kind in ("gradient", "measured")],
    "rounds": [{"rounds": 2}, {"rounds": 2, **TRAINED}],
    "calibration.sequences": [{"calibration.sequences": 4}, {**CALIBRATED, "calibration.sequences": 4}],
    "calibration.split": [{"calibration.split": "validation"}, {**CALIBRATED, "calibration.split": "validation"}],
    "calibration.seed": [{"calibration.seed": 1}, {**CALIBRATED, "calibration.seed": 1}],
    "finetune.epochs": [TRAINED],
    "finetune.lr_scale": [{"finetune.lr_scale": 0.5}, {**TRAINED, "finetune.lr_scale": 0.5}],
    "finetune.rest": [{"finetune.rest": "reinitialise"}, {**TRAINED, "finetune.rest": "reinitialise"}],
    "finetune.distill": [{"finetune.distill": True}, {**TRAINED, "finetune.distill": True}],
}
"""For every axis settings of which the last key is what is tried, beside those without the key."""

ELSEWHERE = {"name", "method", "seed", "weights", "save", "calibration.batch_size", "calibration.task"} | {
    "finetune.init_epochs"
}
"""Keys that name or store a result, draw another sample, need a model from disk or another task's data."""

CASES = [
    (method, axis, i)
    for method in contract.method_names()
    for axis, found in VARIATIONS.items()
    for i in range(len(found))
]


def test_every_key_is_tried() -> None:
    keys = {field.name for field in dataclasses.fields(ReductionKeys)}
    keys |= {f"calibration.{field.name}" for field in dataclasses.fields(CalibrationKeys)}
    keys |= {f"finetune.{field.name}" for field in dataclasses.fields(FinetuneKeys)}
    assert keys == set(VARIATIONS) | ELSEWHERE


@functools.cache
def trained() -> TrainedModel:
    """A network with random weights, of three layers with six stored states each, and data of its own kind."""
    rng = np.random.default_rng(0)
    model = network(PIXELS, bidirectional=True, n_layers=3, state_size=12)

    def split(n: int) -> Split:
        return Split(rng.normal(size=(n, LENGTH, 2)).astype(np.float32), rng.integers(0, 3, n).astype(np.int32))

    dataset = Dataset("spots", "drawn", split(TRAIN), split(OTHERS), 2, 3, validation=split(OTHERS))
    assert dataset.validation is not None
    splits = Splits(dataset.train, dataset.validation, dataset.test, "validation")
    return TrainedModel(model, weights_of(model, rng), {"seed": 0}, Path("spots"), "a", dataset, splits)


def composed(preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a preset with some of them set, as the command line would; eight calibration sequences."""
    values = copy.deepcopy(jobs.compose("reduce", "checkpoint=x", f"reduction={preset}")["reduction"])
    values["calibration"]["sequences"] = 8
    for key, value in settings.items():
        group, _, inner = key.rpartition(".")
        (values[group] if group else values)[inner] = value
    return values


def preset_of(method: str) -> str:
    """Returns the preset that is called like its method, else the first with that method."""
    found = [
        name
        for name in PRESETS
        if jobs.compose("reduce", "checkpoint=x", f"reduction={name}")["reduction"]["method"] == method
    ]
    return method if method in found else found[0]


def tune(trained: TrainedModel, model: Any, weights: dict[str, Any], keys: FinetuneKeys, **_: Any) -> dict[str, Any]:
    """Stands for the training, which test_reduction_flow.py runs: other weights for other keys and another start."""
    shift = keys.epochs * (0.01 * keys.lr_scale + 0.001 * keys.distill)
    return {**weights, "params": jax.tree.map(lambda x: x + shift, weights["params"])}


@functools.cache
def outcome(preset: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    """Returns the first network that a job makes: its order per layer and its weights; the message of a refusal."""
    usual = composed(preset, {})
    try:
        job = reduction_job(composed(preset, dict(settings)), (preset, usual))
        with mock.patch.object(pipeline, "finetune", tune):
            made, _, _ = reductions(trained(), job, folder=Path("nowhere"), validate=_loss)
            first: Reduced = next(made)
    except UserError as refusal:
        return str(refusal)
    return first.orders, jax.device_get(first.weights)


def _loss(model: Any, weights: Mapping[str, Any]) -> float:
    return 1.0 - 0.1 * (sum(trained().model.state_dims) - sum(model.state_dims)) / 18


def frozen(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _Hashable(value) if isinstance(value, dict) else value) for key, value in settings.items())


class _Hashable(dict):  # type: ignore[type-arg]
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))


def same(one: Any, two: Any) -> bool:
    if isinstance(one, str) or isinstance(two, str) or one[0] != two[0]:
        return one == two
    leaves = jax.tree.leaves(one[1]), jax.tree.leaves(two[1])
    return len(leaves[0]) == len(leaves[1]) and all(
        a.shape == b.shape and np.array_equal(a, b) for a, b in zip(*leaves, strict=True)
    )


@pytest.mark.parametrize(("method", "axis", "number"), CASES)
def test_a_setting_changes_the_result_or_is_refused(method: str, axis: str, number: int) -> None:
    preset, settings = preset_of(method), VARIATIONS[axis][number]
    tried = list(settings)[-1]
    usual = composed(preset, {})
    group, _, inner = tried.rpartition(".")
    if settings[tried] == (usual[group] if group else usual)[inner]:
        return  # the preset's own
    without = outcome(preset, frozen({key: value for key, value in settings.items() if key != tried}))
    found = outcome(preset, frozen(settings))
    if method == "none":  # the row of such a job is that of the model as it is: no target is named in it
        assert isinstance(found, str) or axis in ("ratio", "order", "tolerance", "max_drop"), found
        return
    if isinstance(found, str):
        assert "reduction" in found
    else:
        assert not same(found, without), f"{tried}={settings[tried]} changes nothing and is not refused"
