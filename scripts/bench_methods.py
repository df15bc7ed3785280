"""Times every reduction method on the S5 of the published IMDb recipe: 6 bidirectional layers, 96 states, 256 features.

    python scripts/bench_methods.py [--methods last aire h2 lqo calibrated] [--sequences 256] [--output FOLDER]

Weights are drawn as at the start of a training; the methods' cost does not depend on them, but for the searches of `h2`
and `lqo`, which stop when they have arrived. Every method runs in a process of its own, twice: the first run compiles.
`calibrated` measures 256 random sequences of 4,096 tokens and solves all layers front to back. Peak memory is that of
the process, JAX and the network included. Writes methods.csv and methods.md to results/published/reduction_speed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import jax
import jax.numpy as jnp
import numpy as np

from s5c import config as settings
from s5c.cli import register_resolvers
from s5c.data.batching import Batch
from s5c.evaluation.cost import device_name
from s5c.locations import conf_dir
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.calibration import full_moments, refit_selected
from s5c.reduction import stage
from s5c.reduction.contract import Fitted, Projection, Selection, load_allocation
from s5c.reduction.layer import Layer
from s5c.report.cells import table
from s5c.report.csvfile import write_csv
from s5c.studies.sizes import PUBLISHED
from s5c.train import resolve

METHODS = ("last", "aire", "aire_greedy", "bt", "bt_tolerance", "h2", "lqo", "calibrated")
RATIO = 0.5


def composed(method: str) -> tuple[Classifier, settings.ReductionJob]:
    """Returns the network of the recipe and the preset."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = settings.plain(hydra.compose("train", ["+experiment=imdb_s5", f"reduction={method}"]))
    job, reduction, *_ = resolve(values)
    spec, config = PUBLISHED["imdb"].spec, job.model
    return Classifier(config, spec, (config.full_state_dim,) * config.n_layers), reduction


def drawn(model: Classifier) -> dict[str, Any]:
    """Returns weights as a training would start with."""
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16), jnp.int32), jnp.full(1, 16))


def batches(sequences: int, length: int) -> Iterator[Batch]:
    """Yields random sequences of full length."""
    rng, size = np.random.default_rng(0), 8
    for _ in range(sequences // size):
        ids = rng.integers(1, PUBLISHED["imdb"].spec.features, (size, length)).astype(np.int32)
        yield Batch(ids, np.zeros(size, np.int32), np.full(size, length, np.int32), np.ones(size, np.float32))


def reduced(job: settings.ReductionJob, layers: list[Layer]) -> None:
    """Ranks and, where a method makes new systems, reduces."""
    method, allocation = job.method, load_allocation(job.keys.allocation)
    assert isinstance(method, Selection | Projection)
    fitted: Fitted | None = method.fit(layers, 0) if isinstance(method, Projection) else None
    ranking = stage.rank(method, allocation, layers, seed=0, fitted=fitted)
    selected = stage.select(ranking, RATIO)
    if fitted is not None:
        jax.block_until_ready([r.system.C for r in fitted.reduce(selected.counts)])


def calibrated(model: Classifier, weights: Any, job: settings.ReductionJob, sequences: int) -> dict[str, float]:
    """Returns what moments with elimination, and the way front to back at one ratio, take."""

    def start() -> Iterator[Batch]:
        return batches(sequences, PUBLISHED["imdb"].length)

    began = time.perf_counter()
    measured = full_moments(model, weights, start)
    layers = surgery.layers(weights, model.config, horizon=PUBLISHED["imdb"].length)
    with_moments = [Layer(l.system, l.horizon, l.gate, m) for l, m in zip(layers, measured, strict=True)]
    assert isinstance(job.method, Selection)
    ranking = stage.rank(job.method, load_allocation(job.keys.allocation), with_moments, seed=0)
    first = time.perf_counter() - began
    began = time.perf_counter()
    found = refit_selected(
        model, weights, stage.select(ranking, RATIO).keep, start,
        refit=job.refit, sequential="reselect", method=job.method, measured=measured,
    )  # fmt: skip
    jax.block_until_ready([system.C for system in found.systems])
    return {"seconds": first, "seconds_per_ratio": time.perf_counter() - began}


def measure(method: str, sequences: int) -> dict[str, Any]:
    """Times one method in this process."""
    model, job = composed(method)
    weights = drawn(model)
    if method == "calibrated":
        row: dict[str, Any] = calibrated(model, weights, job, sequences)
    else:
        layers = surgery.layers(weights, model.config, horizon=PUBLISHED["imdb"].length)
        times = []
        for _ in range(2):
            began = time.perf_counter()
            reduced(job, layers)
            times.append(time.perf_counter() - began)
        row = {"seconds": times[1], "seconds_first": times[0]}
    return {
        "method": method,
        **row,
        "cpu_s": time.process_time(),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "sequences": sequences,
        "device": device_name(),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the page that goes with the figures."""

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        return "–" if row.get(key) is None else format(row[key], form)

    body = [
        [row["method"], *(cell(row, key, ".3g") + " s" for key in ("seconds_first", "seconds")),
         cell(row, "seconds_per_ratio", ".3g") + " s", cell(row, "cpu_s", ".3g") + " s", f"{row['peak_gb']:.2f} GB"]
        for row in rows
    ]  # fmt: skip
    head = ["Method", "First run", "Second run", "Each ratio, front to back", "CPU time, all of it", "Peak memory"]
    note = (
        f"{rows[0]['device']}; S5 of the published IMDb recipe, half of the states removed. `calibrated`: "
        f"{rows[0]['sequences']} sequences of 4,096 tokens, one run, compilation included: moments and elimination "
        "for all orders, and then the refit of all layers at one ratio."
    )
    return "\n\n".join(
        ["# Time of reduction methods", note, table(head, body), "Made by `python scripts/bench_methods.py`.", ""]
    ).replace("– s", "–")


def main() -> None:
    """Runs every method in a process of its own and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("results/published/reduction_speed"))
    parser.add_argument("--measure", metavar="METHOD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.sequences)))
        return
    rows = []
    for method in options.methods:
        command = [sys.executable, __file__, "--measure", method, "--sequences", str(options.sequences)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, options.output / "methods.csv")
    (options.output / "methods.md").write_text(page(rows))


if __name__ == "__main__":
    main()
