"""Times balanced truncation against a loop of pyMOR calls on a sample of the same systems.

    python scripts/bench_reduction.py [--rounds 3] [--sample 8] [--layers 6] [--output FOLDER]

Two networks: S4D, 6 layers of 256 channels, each a system of 64 pairs of poles; and S5 of the size used for IMDb, 6
bidirectional layers of 96 pairs, 256 inputs and 2 x 256 outputs. pyMOR gets the real form of every system and is not
asked to diagonalise what it returns. A round times ours once and pyMOR on the sample; figures are the medians, first
calls left out. Wall time depends on how many cores are free, CPU time less so. Writes speed.csv and speed.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for both sides; on matrices this small its threads only wait

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pymor.core.logger import set_log_levels
from pymor.models.iosys import LTIModel
from pymor.reductors.bt import BTReductor

from s5c.evaluation.cost import device_name
from s5c.reduction.truncation import realise, truncate
from s5c.report.csvfile import write_csv
from s5c.ssm.hippo import block_diagonal_hippo
from s5c.ssm.modal import ModalSystem, expm1, real_form
from s5c.ssm.response import frequency_response

ANGLES = np.linspace(0, np.pi, 33)


class Case(NamedTuple):
    """Systems of one network, one batch axis, and the slots they are reduced to."""

    name: str
    systems: ModalSystem
    slots: int


class Seconds(NamedTuple):
    """Wall time and CPU time of all threads."""

    wall: float
    cpu: float


def s4d(layers: int) -> Case:
    """S4D-Lin: Lambda = -1/2 + i pi n, a free complex output, one step size per channel."""
    rng, channels, n = np.random.default_rng(0), 256 * layers, 64
    Lambda = -0.5 + 1j * np.pi * np.arange(n)
    Delta = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (channels, 1)))
    C = rng.normal(size=(channels, 1, n)) + 1j * rng.normal(size=(channels, 1, n))
    B = np.asarray(expm1(jnp.asarray(Lambda * Delta))) / Lambda
    name = f"S4D: {channels} channels of 64 pairs"
    return Case(name, ModalSystem(Lambda * Delta, B[:, :, None], C, np.zeros((channels, 1, 1))), 16)


def s5(layers: int) -> Case:
    """HiPPO blocks of 8 pairs, random B and C of the size S5 starts with, one step size per state."""
    rng, p, h = np.random.default_rng(1), 96, 256
    Lambda = block_diagonal_hippo(2 * p, p // 8).Lambda
    Delta = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (layers, p)))

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2 * shape[-1])

    B = (np.asarray(expm1(jnp.asarray(Lambda * Delta))) / Lambda)[:, :, None] * normal(layers, p, h)
    systems = ModalSystem(Lambda * Delta, B, normal(layers, 2 * h, p), np.zeros((layers, 2 * h, h)))
    return Case(f"S5: {layers} bidirectional layers of 96 pairs, 256 inputs, 2 x 256 outputs", systems, 48)


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    """Returns what `work` returns and how long it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def median(runs: list[Seconds]) -> Seconds:
    return Seconds(*map(statistics.median, zip(*runs, strict=True)))


def with_pymor(system: ModalSystem, order: int) -> LTIModel:
    """Reduces one system to `order` real states."""
    A, B, C, _ = (np.asarray(x) for x in real_form(system))
    return BTReductor(LTIModel.from_matrices(A, B, C, sampling_time=1)).reduce(order)


def _theirs(systems: Sequence[ModalSystem], orders: Sequence[int]) -> list[LTIModel]:
    return [with_pymor(*pair) for pair in zip(systems, orders, strict=True)]


def deviation(ours: ModalSystem, theirs: LTIModel) -> float:
    """Returns the largest difference of two reduced transfer functions, relative to the largest gain met."""
    G = np.exp(-1j * ANGLES)[:, None, None] * np.asarray(frequency_response(ours, jnp.asarray(ANGLES)))
    H = np.stack([theirs.transfer_function.eval_tf(np.exp(1j * angle)) for angle in ANGLES])
    return float(np.abs(G - H).max() / np.abs(H).max())


def measure(case: Case, rounds: int, sample: int) -> dict[str, Any]:
    """Times one case. First calls do not count: ours compiles, which is in the row apart, and pyMOR's warms up."""
    count = len(case.systems.log_a)
    chosen = np.linspace(0, count - 1, min(sample, count)).astype(int)
    systems = [ModalSystem(*(jnp.asarray(x[i]) for x in case.systems)) for i in chosen]
    realisation, first = timed(lambda: realise(case.systems))
    reduced, first_cut = timed(lambda: truncate(realisation, case.slots))
    with_pymor(systems[0], reduced.order[chosen[0]])
    balancing, cutting, theirs = [], [], []
    for _ in range(rounds):
        realisation, seconds = timed(lambda: realise(case.systems))
        balancing.append(seconds)
        reduced, seconds = timed(partial(truncate, realisation, case.slots))
        cutting.append(seconds)
        orders = reduced.order[chosen]
        roms, seconds = timed(partial(_theirs, systems, orders))
        theirs.append(Seconds(*(count / len(chosen) * s for s in seconds)))
    ours = [ModalSystem(*(jnp.asarray(x[i]) for x in reduced.system)) for i in chosen]
    balance, cut, pymor = median(balancing), median(cutting), median(theirs)
    machine = (
        f"{device_name()}, {platform.machine()}; jax {version('jax')}, NumPy {version('numpy')}, pyMOR "
        f"{version('pymor')}; OPENBLAS_NUM_THREADS={os.environ['OPENBLAS_NUM_THREADS']}"
    )
    return {
        "case": case.name,
        "slots": case.slots,
        "balance_wall_s": balance.wall,
        "cut_wall_s": cut.wall,
        "wall_s": balance.wall + cut.wall,
        "cpu_s": balance.cpu + cut.cpu,
        "pymor_wall_s": pymor.wall,
        "pymor_cpu_s": pymor.cpu,
        "pymor_sample": len(chosen),
        "speedup_wall": pymor.wall / (balance.wall + cut.wall),
        "speedup_cpu": pymor.cpu / (balance.cpu + cut.cpu),
        "compile_s": max(first.wall + first_cut.wall - balance.wall - cut.wall, 0),
        "deviation": max(deviation(*pair) for pair in zip(ours, roms, strict=True)),
        "machine": machine,
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the page that goes with the figures."""
    lines = [
        "# Speed of balanced truncation",
        "",
        f"{rows[0]['machine']}. Medians. pyMOR: a loop over a "
        "sample, scaled to all systems. Compile: the first call less a later one; it is paid once, whatever orders are "
        "asked for. Deviation: of the reduced transfer functions from pyMOR's, relative to the largest gain.",
        "",
        "| systems | to | balance | cut | total | pyMOR | ratio | ratio, CPU | compile | deviation |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {r['case']} | {r['slots']} | {r['balance_wall_s']:.2f} s | {r['cut_wall_s']:.2f} s | {r['wall_s']:.2f} s | "
        f"{r['pymor_wall_s']:.1f} s | {r['speedup_wall']:.1f} | {r['speedup_cpu']:.1f} | {r['compile_s']:.1f} s | "
        f"{r['deviation']:.0e} |"
        for r in rows
    ]
    return "\n".join([*lines, "", "Made by `python scripts/bench_reduction.py`.", ""])


def main() -> None:
    """Runs both networks, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--output", type=Path, default=Path("results/published/reduction_speed"))
    options = parser.parse_args()
    set_log_levels({"pymor": "ERROR"})
    with jax.enable_x64(True):
        rows = [measure(make(options.layers), options.rounds, options.sample) for make in (s4d, s5)]
    print(page(rows))
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, options.output / "speed.csv")
    (options.output / "speed.md").write_text(page(rows))


if __name__ == "__main__":
    main()
