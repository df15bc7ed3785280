"""Every method with every axis: a setting changes the result, or it is refused; what decides nothing is in no name."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import pytest
from networks import PIXELS, network, weights_of

from s5c import axes, presets
from s5c.axes import ReductionJob
from s5c.config import reduction_job
from s5c.data.base import Dataset, Split, Splits
from s5c.errors import UserError
from s5c.keys import ReductionKeys
from s5c.pipeline import search
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.search import Memory, Search, largest_ratio, reductions
from s5c.pipeline.stage import train
from s5c.pipeline.targets import check
from s5c.pipeline.trained import TrainedModel
from s5c.reduction import contract, stage
from s5c.reduction.contract import Fresh, Projection, load_method, traits
from s5c.reduction.target import Target
from s5c.report.arms import called

LENGTH, TRAIN, OTHERS = 9, 24, 8

PRESETS = presets.names()

CALIBRATED = {"refit": "calibrated"}
TRAINED = {"finetune.epochs": 1}
VARIATIONS: dict[str, list[dict[str, Any]]] = {
    "allocation": [{"allocation": name} for name in contract.allocation_names()],
    "ratio": [{"ratio": 0.3}, {"ratio": 0.8}],
    "params": [{"params": 0.3}],
    "bytes": [{"bits": 8, "bytes": "2k"}],
    "order": [{"order": 1}],
    "tolerance": [{"tolerance": 0.9}],
    "max_drop": [{"max_drop": 100.0}],
    "refit": [{"refit": name} for name in contract.refit_names()],
    "refit_options": [{"refit": "h2", "refit_options": {"feedthrough": False}}],
    "sequential": [{"sequential": "refit"}, *({**CALIBRATED, "sequential": mode} for mode in ("refit", "reselect"))],
    "norm": [{"norm": "recalibrate"}],
    "readout": [{"readout": "refit"}],
    "layer_sensitivity": [{"layer_sensitivity": kind} for kind in ("gradient", "measured", "curve")],
    "features": [{"features": 0.5}],
    "bits": [{"bits": 4}, {"bits": 32}],
    "bits_fit": [{"bits": 4, "bits_fit": "calibrated"}],
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

ELSEWHERE = {
    "name",
    "method",
    "seed",
    "weights",
    "save",
    "calibration.batch_size",
    "calibration.task",
    "calibration.inputs",
} | {"finetune.init_epochs"}
"""Keys that name or store a result, draw another sample, need a model from disk or another task's data."""


def cases() -> list[Any]:
    """Returns every method with every setting.

    All but a few are slow tests: of the rest every setting is tried by one method and every method tries some; those
    that make many networks, or new systems, are slow in any case.
    """
    found, quick = [], [name for name in contract.method_names() if not isinstance(load_method(name), Projection)]
    settings = [(axis, i) for axis, tried in VARIATIONS.items() for i in range(len(tried))]
    for method in contract.method_names():
        for k, (axis, i) in enumerate(settings):
            covering = method in quick and k % len(quick) == quick.index(method) and axis not in ("rounds", "max_drop")
            marks = [] if covering else [pytest.mark.slow]
            found.append(pytest.param(method, axis, i, marks=marks, id=f"{method}-{axis}-{i}"))
    return found


def test_every_key_is_tried() -> None:
    keys = {field.name for field in dataclasses.fields(ReductionKeys)}
    keys |= {axis.key(field.name) for axis in axes.find() for field in dataclasses.fields(axis)}
    assert keys == set(VARIATIONS) | ELSEWHERE


@functools.cache
def trained() -> TrainedModel:
    """A network with random weights, of three unlike layers with twelve stored states each, and its data."""
    rng = np.random.default_rng(0)
    model = network(PIXELS, bidirectional=True, n_layers=3, state_size=24)
    weights = weights_of(model, rng)
    for layer, decay in (("layers_1", 0.9), ("layers_2", 0.7)):  # some states count far more than others in some layers
        own, scale = weights["params"]["encoder"][layer]["seq"], decay ** np.arange(12)[None, :, None]
        own |= {name: jnp.asarray(scale * own[name], jnp.float32) for name in ("C1", "C2")}

    def split(n: int) -> Split:
        return Split(rng.normal(size=(n, LENGTH, 2)).astype(np.float32), rng.integers(0, 3, n).astype(np.int32))

    dataset = Dataset("spots", "drawn", split(TRAIN), split(OTHERS), 2, 3, validation=split(OTHERS))
    assert dataset.validation is not None
    splits = Splits(dataset.train, dataset.validation, dataset.test, "validation")
    return TrainedModel(model, weights, {"seed": 0}, Path("spots"), "a", dataset, splits)


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


def tune(trained: TrainedModel, model: Any, weights: dict[str, Any], keys: train.Stage, **_: Any) -> dict[str, Any]:
    """Stands for the training, which test_reduction_flow.py runs: other weights for other keys and another start."""
    shift = keys.epochs * (0.01 * keys.lr_scale + 0.001 * keys.distill)
    return {**weights, "params": jax.tree.map(lambda x: x + shift, weights["params"])}


@functools.cache
def outcome(preset: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    """Returns the first network that a job makes, and what stays at every other ratio; the message of a refusal."""
    usual = composed(preset, {})
    try:
        job = reduction_job(composed(preset, dict(settings)), (preset, usual))
        model = trained()
        of = model.model.config, model.model.state_dims, model.splits, lambda: model.weights["params"]
        check(job, *of, model.model.spec)
        with mock.patch.object(train, "finetune", tune), mock.patch.object(search, "SEARCH_STEPS", 2):
            made, ranking = reductions(model, job, _targets(model, job), folder=Path("nowhere"))
            first: ReducedNetwork = next(made)
    except UserError as refusal:
        return str(refusal)
    cuts = [] if ranking is None else [stage.select(ranking, ratio).keep for ratio in np.arange(0, 1, 1 / 36)]
    if isinstance(job.method, Fresh):  # of its layers only the orders count
        cuts = [[np.sum(mask) for mask in cut] for cut in cuts]
    return first.orders, cuts, jax.device_get(first.weights)


def _targets(model: TrainedModel, job: ReductionJob) -> tuple[Target, ...]:
    if job.of(Search).max_drop is None:
        return job.targets
    with TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "search.json", "")
        return (largest_ratio(model, job, Path("nowhere"), _loss, memory),)


def _loss(model: Any, weights: Mapping[str, Any]) -> float:
    return 1.0 - 0.1 * (sum(trained().model.state_dims) - sum(model.state_dims)) / 36


def frozen(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _Hashable(value) if isinstance(value, dict) else value) for key, value in settings.items())


class _Hashable(dict):  # type: ignore[type-arg]
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))


def same(one: Any, two: Any) -> bool:
    if isinstance(one, str) or isinstance(two, str):
        return bool(one == two)
    leaves = jax.tree.leaves(one), jax.tree.leaves(two)
    return len(leaves[0]) == len(leaves[1]) and all(map(np.array_equal, *leaves))


@pytest.mark.few(14)
@pytest.mark.parametrize(("method", "axis", "number"), cases())
def test_a_setting_changes_the_result_or_is_refused(method: str, axis: str, number: int) -> None:
    preset, settings = preset_of(method), VARIATIONS[axis][number]
    tried = list(settings)[-1]
    usual = composed(preset, {})
    group, _, inner = tried.rpartition(".")
    if settings[tried] == (usual[group] if group else usual)[inner]:
        return  # the preset's own
    without = outcome(preset, frozen({key: value for key, value in settings.items() if key != tried}))
    found = outcome(preset, frozen(settings))
    if traits(load_method(method)).keeps_all:  # its row is that of the model as it is: no target is named in it
        assert isinstance(found, str) or axis in ("ratio", "order", "tolerance", "max_drop"), found
        return
    if isinstance(found, str):
        assert "reduction" in found
    else:
        assert not same(found, without), f"{tried}={settings[tried]} changes nothing and is not refused"


# --- refusals, and what is in a name ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "settings", "words"),
    [
        ("unstructured_random", {"refit": "calibrated"}, ["reduction.refit=calibrated", "Leave it at none"]),
        ("unstructured_random", {"readout": "refit"}, ["reduction.readout=refit", "Leave it at keep"]),
        ("unstructured_random", {"allocation": "uniform"}, ["reduction.allocation=uniform", "Leave it at global"]),
        ("unstructured_random", {"order": 2}, ["takes a ratio only", "reduction.order"]),
        ("fresh", {"norm": "recalibrate"}, ["reduction.norm=recalibrate", "draws new layers"]),
        ("none", {"finetune.epochs": 3}, ["reduction.finetune.epochs=3", "as it is"]),
        ("last", {"order": 4, "ratio": 0.5}, ["reduction.order=4", "reduction.ratio=0.5", "choose one", "at auto"]),
        ("last", {"order": 4, "tolerance": 0.1}, ["reduction.order=4", "reduction.tolerance=0.1", "at null"]),
        ("last", {"max_drop": 1.0, "ratio": [0.1]}, ["reduction.max_drop=1.0", "reduction.ratio=[0.1]"]),
        ("last", {"order": 4, "allocation": "global"}, ["allocation=global", "nothing is shared out", "normalised"]),
        ("last", {"sequential": "refit"}, ["reduction.sequential=refit", "refit=none"]),
        ("last", {**CALIBRATED, "sequential": "reselect"}, ["sequential=reselect", "refit is what it would do"]),
        ("last", {"layer_sensitivity": "gradient"}, ["allocation=normalised does not see on what scale"]),
        ("last", {"calibration.sequences": 9}, ["calibration.sequences=9", "nothing looks", "Leave it at 8"]),
        ("last", {"finetune.distill": True}, ["finetune.distill=true", "no training", "Leave it at false"]),
        (
            "last",
            {**TRAINED, "finetune.rest": "reinitialise", "norm": "recalibrate"},
            ["norm=recalibrate", "all but the sequence layers"],
        ),
        ("h2", {"refit": "h2"}, ["reduction.refit=h2", "are those of this refit"]),
        ("h2", {"learning_rate": 0.5}, ["reduction.learning_rate=0.5", "superfluous", "Leave it at 0.01"]),
        ("lqo", {"layer_weights": "bound"}, ["reduction.layer_weights=bound", "Leave it at none"]),
        ("last", {"ratio": [0.5, 0.5]}, ["reduction.ratio=[0.5, 0.5]", "2 times for 0.5", "every target once"]),
        ("last", {"ratio": [0.5, 0.5000001]}, ["2 times for 0.5", "to six digits"]),
        ("last", {"order": [3, [3]]}, ["2 times for 3"]),
        ("last", {"tolerance": float("nan")}, ["reduction.tolerance=nan", "[0, 1)"]),
        ("last", {"order": 0}, ["reduction.order=0", "from 1 on"]),
    ],
)
def test_refusals_say_what_decides_nothing_and_where_to_leave_it(
    preset: str, settings: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        reduction_job(composed(preset, settings), (preset, composed(preset, {})))
    assert [word for word in words if word not in str(refusal.value)] == [], refusal.value


def test_a_setting_that_the_preset_has_itself_is_not_refused() -> None:
    """The yaml of a preset may say what it does not use, such as how many sequences its variants look at."""
    own = composed("last", {"calibration.sequences": 512, "finetune.lr_scale": 0.1})
    assert axes.changed(reduction_job(own, ("last", own))) == {}
    with pytest.raises(UserError, match=r"calibration\.sequences=512"):
        reduction_job(own)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_differs_from_itself_in_nothing(preset: str) -> None:
    values = composed(preset, {})
    job = reduction_job(values, (preset, values))
    assert axes.changed(job) == {} and set(axes.decisive(job)) <= set(axes.flat(job))


def test_only_what_decides_is_told_of() -> None:
    usual = composed("last", {})

    def changed(**settings: Any) -> dict[str, Any]:
        return axes.changed(reduction_job(composed("last", settings), ("last", usual)))

    assert changed(order=3) == {"by": "order"} and called("last", changed(order=3)) == "last (by order)"
    assert changed(refit="calibrated") == {"refit": "calibrated"}, "its own ridge is no difference"
    assert changed(refit="calibrated", refit_options={"ridge": 0.5})["refit_options.ridge"] == 0.5
    assert changed(eps=0) == {} and changed(eps=1e-8) == {"eps": 1e-8}, "0 is 0.0"
    assert "allocation" not in axes.decisive(reduction_job(composed("last", {"order": 3}), ("last", usual)))
    decided = axes.decisive(reduction_job(composed("last", {"norm": "recalibrate"}), ("last", usual)))
    assert decided["calibration.sequences"] == 8 and "calibration.batch_size" not in decided
    assert not [key for key in decided if key.startswith("finetune.")]


def test_a_preset_that_is_not_known_is_told_by_all_it_sets() -> None:
    found = axes.changed(reduction_job(composed("last", {"norm": "recalibrate", "eps": 0.5})))
    assert found == {"norm": "recalibrate", "eps": 0.5, "calibration.sequences": 8}


def test_what_a_network_makes_of_it_is_refused_too() -> None:
    usual = composed("bt", {})
    job = reduction_job(composed("bt", {"norm": "recalibrate", "allocation": "uniform"}), ("bt", usual))
    with pytest.raises(UserError, match=r"model\.norm=layer has no statistics"):
        axes.check_network(job, network(norm="layer").config)
    with pytest.raises(UserError, match=r"allocation=uniform changes nothing: .* same as equal"):
        axes.check_network(job, network().config)
    axes.check_network(job, network(family="s4d").config)
    usual = composed("calibrated", {})
    for key, value in (("sequential", "off"), ("layer_sensitivity", "gradient"), ("allocation", "greedy")):
        job = reduction_job(composed("calibrated", {key: value}), ("calibrated", usual))
        with pytest.raises(UserError, match=f"{key}={value} changes nothing: it is about several layers"):
            axes.check_network(job, network(n_layers=1).config)
    axes.check_network(reduction_job(usual, ("calibrated", usual)), network(n_layers=1).config)


def test_orders_that_do_not_fit_are_refused_before_anything_is_reduced() -> None:
    job = reduction_job(composed("last", {"order": [3, 99]}), ("last", composed("last", {})))
    with pytest.raises(UserError, match=r"reduction.order=\[99, 99, 99\]"):
        of = trained().model.config, trained().model.state_dims, trained().splits, dict
        check(job, *of, trained().model.spec)


def test_an_allocation_is_tried_for_what_it_sees() -> None:
    blind = {name for name in contract.allocation_names() if axes.blind_to_scale(contract.load_allocation(name))}
    assert blind >= {"equal", "greedy", "normalised", "tolerance", "uniform"} and "global" not in blind
