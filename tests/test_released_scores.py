"""LAST and AIRE as released, on a trained network that has unstable modes: which states stay, and what it answers.

The accuracies were found with the original codes' formulas; the states that give them need no data to be checked.
"""

from __future__ import annotations

from pathlib import Path

import jobs
import numpy as np
import pytest

import s5c
from s5c.locations import data_dir

ZOO = "zoo:smnist_small_s5"
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RELEASED = {"last": {"score": "released", "eps": 1e-8}, "aire": {"score": "released"}}
ACCURACIES = {
    "last": (97.85, 97.20, 96.65, 84.30, 59.85, 28.90, 16.25),
    "aire": (98.30, 98.35, 98.25, 95.80, 89.65, 39.70, 12.40),
}
"""Percent of 2,000 fixed test images."""
ORDERS = {
    "last": {0.3: [24, 28, 26, 11], 0.5: [19, 19, 21, 5], 0.7: [14, 9, 13, 2], 0.9: [4, 3, 4, 1]},
    "aire": {0.3: [19, 25, 27, 18], 0.5: [15, 17, 18, 14], 0.7: [10, 13, 10, 5], 0.9: [4, 3, 4, 1]},
}
"""Of the networks with these accuracies."""


@pytest.mark.parametrize("preset", RELEASED)
@pytest.mark.slow
def test_as_many_states_stay_in_every_layer(preset: str) -> None:
    model = s5c.load(ZOO)
    assert model.facts["task"]["name"] == "smnist_small"
    for ratio, orders in ORDERS[preset].items():
        small = s5c.reduce(model, preset, ratio=ratio, **RELEASED[preset])
        assert small.orders == orders and "unstable modes" in " ".join(small.reduced.notes)
    protected = s5c.reduce(model, preset, ratio=0.5, unstable="protect", **RELEASED[preset])
    assert protected.orders != ORDERS[preset][0.5]


@pytest.mark.slow
@pytest.mark.skipif(not (data_dir() / "MNIST").is_dir(), reason="needs MNIST in the data directory")
@pytest.mark.parametrize("preset", RELEASED)
def test_the_accuracies_are_the_published_formulas(preset: str, tmp_path: Path) -> None:
    options = [f"reduction.{key}={value}" for key, value in RELEASED[preset].items()]
    ratios = f"reduction.ratio=[{','.join(map(str, RATIOS))}]"
    quick = ("evaluation.test_examples=2000", "evaluation.latency=false", "reduction.save=false", "wandb=disabled")
    done = jobs.run("reduce", f"checkpoint={ZOO}", f"reduction={preset}", *options, ratios, *quick, folder=tmp_path)
    assert done.code == 0, done.err
    rows = jobs.rows(jobs.only(tmp_path, "results/reduce/*/rows.jsonl"))[1:]
    np.testing.assert_allclose([100 * row["test_accuracy"] for row in rows], ACCURACIES[preset], atol=1e-9)
