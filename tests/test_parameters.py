"""The target `reduction.params`: a share of all trainable parameters, as the reduced network stores them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import pytest
from networks import TOKENS, network, weights_of
from reductions import PROJECTIONS
from test_axes import composed, preset_of, trained

from s5c import axes
from s5c.config import reduction_job
from s5c.errors import UserError
from s5c.evaluation.cost import size
from s5c.model import surgery
from s5c.model.classifier import Classifier, resized, shapes
from s5c.pipeline.parameters import stored_after
from s5c.pipeline.search import reductions
from s5c.pipeline.stage import train
from s5c.pipeline.targets import check
from s5c.reduction import contract
from s5c.reduction.contract import Masking, load_method, traits
from s5c.reduction.parameters import select_parameters
from s5c.reduction.stage import Ranking, cut
from s5c.reduction.target import Target
from s5c.report.arms import called, target
from s5c.report.collect import collect, studies
from s5c.report.summary import other_targets

NETWORKS: dict[str, dict[str, Any]] = {
    "s5": {},
    "s5 bidirectional": {"bidirectional": True, "n_layers": 3},
    "s5 tokens": {"spec": TOKENS},
    "s4d": {"family": "s4d"},
    "s4d free": {"family": "s4d", "B": "free", "bidirectional": True},
    "dss": {"family": "dss"},
    "dss softmax": {"family": "dss", "variant": "softmax", "length": 9, "separate_steps": True},
    "dss unshared": {"family": "dss", "shared_poles": False, "bidirectional": True},
}
"""Every way in which a family stores the parameters of its states."""


def made(kind: str) -> tuple[Classifier, dict[str, Any]]:
    model = network(**NETWORKS[kind])
    return model, weights_of(model, np.random.default_rng(0))


def in_order(order: np.ndarray, shapes_: list[tuple[int, ...]]) -> Ranking:
    """Returns the ranking of a removal order, its first slot of every layer protected."""
    scores = np.empty(len(order))
    scores[order] = np.arange(len(order), 0, -1)
    parts = np.split(scores, np.cumsum([math.prod(s) for s in shapes_])[:-1])
    parts = [np.where(part == part.max(), np.inf, part) for part in parts]
    priorities = [part.reshape(shape) for part, shape in zip(parts, shapes_, strict=True)]
    return Ranking(priorities, priorities, np.argsort(-np.concatenate(parts), kind="stable"))


def drawn(model: Classifier, rng: np.random.Generator, *, columns: bool = False) -> Ranking:
    """Returns a random order; of channels either slot by slot, or the same state of all of them at a time."""
    config = model.config
    slots = [(config.d_model, p) if config.per_channel else (p,) for p in model.state_dims]
    order = rng.permutation(sum(math.prod(s) for s in slots))
    if columns and config.per_channel:
        width = config.full_state_dim
        states = rng.permutation(len(slots) * width)
        order = np.concatenate(
            [config.d_model * width * (s // width) + width * np.arange(config.d_model) + s % width for s in states]
        )
    return in_order(order, slots)


@pytest.mark.few(4)
@pytest.mark.parametrize("columns", [False, True], ids=["slots", "states"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_count_at_every_cut_is_that_of_the_network_that_is_stored(kind: str, columns: bool) -> None:
    model, weights = made(kind)
    params = weights["params"]
    counted = surgery.parameters(params, model.config)
    ranking = drawn(model, np.random.default_rng(1), columns=columns)
    found = counted.at_every_cut(ranking)
    assert found[-1] == counted.total == sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    for kept in range(ranking.protected, len(ranking.order) + 1):
        smaller, config = surgery.take(params, cut(ranking, kept).keep, model.config)
        small = resized(model.clone(config=config), surgery.state_dims(smaller, config))
        assert found[kept] == size(small, smaller, 9).params == sum(np.size(x) for x in jax.tree.leaves(smaller)), kept


@pytest.mark.parametrize("kind", NETWORKS)
def test_shapes_count_as_the_arrays_do(kind: str) -> None:
    model, weights = made(kind)
    assert surgery.parameters(shapes(model), model.config) == surgery.parameters(weights["params"], model.config)


@pytest.mark.parametrize("kind", ["s5", "s4d free", "dss", "dss unshared"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.35])
def test_the_cut_is_the_first_one_that_reaches_the_share(kind: str, share: float) -> None:
    model, weights = made(kind)
    counted, ranking = (surgery.parameters(weights["params"], model.config), drawn(model, np.random.default_rng(2)))
    stored = counted.at_every_cut(ranking)
    if kind == "dss" and share:  # poles of its own for every channel cost more than a cut of states saves here
        share = counted.removed(int(stored[ranking.protected])) if share > 0.1 else 0.0
    kept = sum(select_parameters(ranking, max(share, 0.0), counted).orders)
    assert counted.removed(int(stored[kept])) >= share - 1e-12
    assert all(counted.removed(int(n)) < share for n in stored[kept + 1 :])


def test_what_cannot_be_reached_is_refused_with_the_largest_share_and_that_one_is_not() -> None:
    model, weights = made("s5")
    counted, ranking = surgery.parameters(weights["params"], model.config), drawn(model, np.random.default_rng(3))
    with pytest.raises(
        UserError, match=r"reduction\.params=0\.99 cannot be reached: .* of [\d,]+ parameters"
    ) as refusal:
        select_parameters(ranking, 0.99, counted)
    largest = float(str(refusal.value).rpartition("reduction.params=")[2].rstrip("."))
    assert select_parameters(ranking, largest, counted).orders == [1, 1]
    with pytest.raises(UserError, match="cannot be reached"):
        select_parameters(ranking, largest + 2e-4, counted)
    with pytest.raises(UserError, match=r"more than the [\d,]+ before it"):
        select_parameters(ranking, 0.1, dataclasses.replace(counted, rest=2 * counted.total))
    for wrong in (1.0, -0.1, math.nan):
        with pytest.raises(UserError, match=rf"reduction\.params={wrong:g}: .* lies in \[0, 1\)"):
            Target("params", wrong)


def cases() -> list[Any]:
    """Returns every method that removes states; those that make new systems are slow tests."""
    removing = [name for name in contract.method_names() if not isinstance(load_method(name), Masking)]
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in PROJECTIONS else [])
        for name in removing
        if not traits(load_method(name)).keeps_all
    ]


@pytest.mark.few(2)
@pytest.mark.parametrize("refit", ["own", "calibrated"])
@pytest.mark.parametrize("method", cases())
def test_every_method_reaches_it_as_stored(method: str, refit: str) -> None:
    preset, shares = preset_of(method), [0.2, 0.4]
    settings: dict[str, Any] = {"params": shares}
    if refit == "calibrated" and method != "fresh":  # a refit of new layers is refused
        settings |= {"refit": refit}
    job = reduction_job(composed(preset, settings), (preset, composed(preset, {})))
    untrained = [dataclasses.replace(a, epochs=0) if isinstance(a, train.Stage) else a for a in job.axes]
    job = dataclasses.replace(job, axes=tuple(untrained))
    own = trained()
    of = own.model.config, own.model.state_dims, own.splits, lambda: own.weights["params"]
    check(job, *of, own.model.spec)
    counted = stored_after(job, own.weights["params"], own.model.config)
    made_, ranking = reductions(own, job, job.targets, folder=Path("unused"))
    assert ranking is not None
    at = counted.at_every_cut(ranking)
    for network_, share in zip(made_, shares, strict=True):
        stored = size(network_.model, network_.weights["params"], 9).params
        assert stored == at[sum(network_.orders)] and counted.removed(stored) >= share
        assert counted.removed(int(at[sum(network_.orders) + 1])) < share, "no state too many is removed"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bt", "calibrated", "fresh", "last"])
@pytest.mark.parametrize("kind", ["s4d free", "dss", "dss unshared"])
def test_families_with_channels_reach_it_as_stored(kind: str, preset: str) -> None:
    model, weights = made(kind)
    own = dataclasses.replace(trained(), model=model, weights=weights)
    shares = [0.1, 0.2] if kind != "dss" or preset == "fresh" else [0.02]
    settings = {"params": shares} | ({} if preset == "bt" else {"allocation": "equal"})
    job = reduction_job(composed(preset, settings), (preset, composed(preset, {})))
    counted = stored_after(job, weights["params"], model.config)
    made_, ranking = reductions(own, job, job.targets, folder=Path("unused"))
    assert ranking is not None
    for network_, share in zip(made_, shares, strict=True):
        stored = size(network_.model, network_.weights["params"], 9).params
        assert stored == counted.at_every_cut(ranking)[sum(network_.orders)] and counted.removed(stored) >= share


def test_an_arm_says_that_it_was_reduced_by_parameters() -> None:
    usual = composed("last", {})
    job = reduction_job(composed("last", {"params": [0.4, 0.6]}), ("last", usual))
    assert [one.label for one in job.targets] == ["params-0.4", "params-0.6"] and job.kind == "params"
    assert axes.changed(job) == {"by": "params"} and called("last", axes.changed(job)) == "last (by params)"
    assert axes.decisive(job)["allocation"] == "normalised", "shared out like a ratio"
    assert target({"target": "params 0.6", "ratio": 0.7}) == ("params", "params-0.6")
    weighed = reduction_job(composed("last", {"params": 0.4, "allocation": "uniform"}), ("last", usual))
    assert called("last", axes.changed(weighed)) == "last (allocation=uniform, by params)"


@pytest.mark.parametrize(
    ("preset", "settings", "words"),
    [
        ("last", {"params": 0.5, "ratio": 0.5}, ["reduction.params=0.5 and reduction.ratio=0.5", "choose one"]),
        ("last", {"params": 0.5, "order": 2}, ["reduction.params=0.5 and reduction.order=2", "choose one"]),
        ("last", {"params": "many"}, ["reduction.params='many'"]),
        ("last", {"params": [0.5, 0.5]}, ["2 times for 0.5"]),
        ("last", {"params": 0.5, "rounds": 2, "finetune.epochs": 1}, ["rounds=2", "not reduction.params"]),
        ("unstructured_random", {"params": 0.5}, ["takes a ratio only", "reduction.params"]),
    ],
)
def test_refusals(preset: str, settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        reduction_job(composed(preset, settings), (preset, composed(preset, {})))
    assert [word for word in words if word not in str(refusal.value)] == [], refusal.value


@pytest.mark.slow
def test_from_the_command_line_to_the_report(tmp_path: Path) -> None:
    asked = ("reduction=last", "reduction.params=[0.2,0.3]", "evaluation.latency=false")
    done = jobs.run("train", "reduction=none", folder=tmp_path)
    assert done.code == 0, done.err
    checkpoint = jobs.only(tmp_path, "results/trained/*")
    again = [jobs.run("reduce", f"checkpoint={checkpoint}", *asked, folder=tmp_path) for _ in range(2)]
    assert [one.code for one in again] == [0, 0], again[0].err
    folder = jobs.only(tmp_path, "results/reduce/*")  # the same question both times
    full, *found = jobs.rows(folder / "rows.jsonl")
    for row, share in zip(found, (0.2, 0.3), strict=True):
        assert (row["arm"], row["target"], row["params_asked"]) == ("last (by params)", f"params {share}", share)
        assert row["params_achieved"] == 1 - row["params"] / full["params"] >= share
        assert row["ratio"] == row["ratio_achieved"] == 1 - row["states"] / full["states"]
        assert (folder / "reduced" / f"last-params-{share}").is_dir()
    other = jobs.run("reduce", f"checkpoint={checkpoint}", *asked[::2], "reduction.params=0.3", folder=tmp_path)
    assert other.code == 0 and len(list((tmp_path / "results/reduce").iterdir())) == 2, "another question"
    (study,) = studies(collect([folder]))
    (line,) = [one for one in str(other_targets(study)).splitlines() if "params 0.3" in one]
    assert line.startswith(f"| last (by params) | params 0.3 | {found[1]['params_achieved']:.3g} |")
    far = jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=last", "reduction.params=0.95", folder=tmp_path)
    assert far.code == 1 and "reduction.params=0.95 cannot be reached" in far.err and "Traceback" not in far.err
    untrained = jobs.run("train", "seed=9", "reduction=last", "reduction.params=0.95", folder=tmp_path)
    assert untrained.code == 1 and "cannot be reached" in untrained.err
    assert len(list((tmp_path / "results/trained").iterdir())) == 1, "refused before anything is trained"
