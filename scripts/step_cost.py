"""What a training step of a published recipe costs on this device, found out without the data."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.data import padding
from s5c.data.base import Task
from s5c.model.classifier import Classifier, InputSpec
from s5c.pipeline.trained import TrainJob
from s5c.training.optimiser import optimiser
from s5c.training.steps import Inputs, init_state, make_train_step

STEPS, SECONDS = 12, 20
"""What is run: so many steps, fewer if they take longer than this."""


class Data(NamedTuple):
    """What is published of a task, so that its cost is known without its data.

    Attributes:
        train: examples for training, those included that are carved for validation.
        validation: whether a validation split is published.
        length: steps of a sequence.
        spec: inputs and classes.
        lengths: how many training sequences have up to 128 steps, up to 256, and so on, the last as many as they are
            cut to; empty where all have as many, or it is not known.
    """

    train: int
    validation: bool
    length: int
    spec: InputSpec
    lengths: tuple[int, ...] = ()


BIN = 128
IMDB = (
    *(18, 390, 1080, 1008, 1653, 4039, 2868, 2179, 1681, 1288, 1149, 911, 791, 660, 596, 544, 444, 389, 372, 305, 272),
    *(223, 235, 201, 175, 150, 146, 138, 100, 99, 90, 806),
)
SAME_MOVIE = (
    *(0, 74, 771, 1363, 2842, 11192, 12044, 11555, 10075, 8970, 8750, 7610, 7282, 6034, 5719, 5194, 4306, 3483, 3832),
    *(3268, 3053, 2534, 2934, 2451, 2062, 1703, 1766, 1692, 1451, 1498, 1127, 10451),
)
LISTOPS = (0, 0, 0, 1446, 15584, 13854, 12147, 10535, 9026, 7775, 6576, 5624, 4588, 3779, 3308, 1758)
"""As drawn here; of the Arena's files it is not known."""
FSDD = (
    *(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 10, 14, 22, 25, 40, 49, 71, 81, 86, 102, 107, 141, 137, 132, 141, 154, 151, 124),
    *(125, 118, 105, 104, 91, 97, 52, 59, 47, 45, 51, 37, 33, 19, 20, 12, 12, 4, 9, 5, 5, 7, 3, 5, 1, 4, 8, 1, 2, 4, 1),
    *(1, 2, 3, 19),
)

PUBLISHED = {
    "digits": Data(1_437, False, 64, InputSpec(1, 10)),
    "fashion": Data(54_000, True, 784, InputSpec(1, 10)),
    "fsdd": Data(2_700, False, 8_000, InputSpec(1, 10), FSDD),
    "image": Data(45_000, True, 1_024, InputSpec(1, 10)),
    "imdb": Data(25_000, False, 4_096, InputSpec(135, 2, tokens=True), IMDB),
    "imdb_small": Data(25_000, False, 512, InputSpec(4 * 51, 2)),
    "listops": Data(96_000, True, 2_048, InputSpec(20, 10, tokens=True), LISTOPS),
    "listops_small": Data(20_000, True, 100, InputSpec(20, 10, tokens=True)),
    "pathfinder": Data(160_000, True, 1_024, InputSpec(1, 2)),
    "pathfinder_small": Data(8_000, True, 1_024, InputSpec(1, 2)),
    "pathx": Data(160_000, True, 16_384, InputSpec(1, 2)),
    "psmnist": Data(54_000, True, 784, InputSpec(1, 10)),
    "retrieval": Data(147_086, True, 4_000, InputSpec(98, 2, tokens=True, pairs=True)),
    "same_movie": Data(147_086, True, 4_000, InputSpec(134, 2, tokens=True, pairs=True), SAME_MOVIE),
    "scifar": Data(45_000, True, 1_024, InputSpec(3, 10)),
    "smnist": Data(54_000, True, 784, InputSpec(1, 10)),
    "smnist_small": Data(54_000, True, 196, InputSpec(1, 10)),
    "speech35": Data(84_843, True, 16_000, InputSpec(1, 35)),
}


class Cost(NamedTuple):
    """What a step costs, or why that is unknown."""

    seconds: float | None = None
    problem: str = ""

    def hours(self, steps: int) -> float | None:
        """Returns the duration of `steps` steps."""
        return None if self.seconds is None else steps * self.seconds / 3600


def measure(job: TrainJob, data: Data) -> Cost:
    """Runs some training steps on a batch of zeros of the right shape, if the memory suffices.

    Where sequences are padded to several lengths it is a batch of their mean, and the memory is that of the longest:
    time grows with the steps in proportion, but for the update of the weights, which does not depend on them.

    Uses the device: call it in a process of its own, or the training finds the memory taken.
    """
    longest, mean = padded_steps(job.task.task, data)
    model = Classifier(job.model, data.spec, (job.model.full_state_dim,) * job.model.n_layers)
    groups = {key: getattr(job.recipe, key) for key in ("weight_decay", "grouping", "dt_global")}
    make = partial(optimiser, lr=_tiny_rate, ssm_lr=_tiny_rate, **groups)
    key, batch = jax.random.key(0), _zeros(data.spec, job.recipe.batch_size, longest)
    state, transform = init_state(model, make, batch, key)
    train_step = make_train_step(model, transform)
    step = train_step.lower(state, batch, key).compile()
    needed, there = _bytes_needed(step), _bytes_there()
    if there is not None and needed > there:
        return Cost(problem=f"needs {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are free")
    if mean < longest:
        batch = _zeros(data.spec, job.recipe.batch_size, mean)
        step = train_step.lower(state, batch, key).compile()
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        began = time.perf_counter()
        state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    return Cost(statistics.median(times[1:] or times))


def padded_steps(task: Task, data: Data) -> tuple[int, int]:
    """Returns the steps of the longest sequences of a training and of the mean one, padding included.

    Args:
        task: its keys, of which `max_length`, if it cuts more than is published, `stride` and `pad` count.
        data: what is published of it. Where the lengths of its sequences are not known, all count as the longest.
    """
    most = getattr(task, "max_length", None)
    longest = data.length if most is None else min(data.length, -(-most // getattr(task, "stride", 1)))
    pad = getattr(task, "pad", padding.FULL)
    if most is None or pad == padding.FULL or not data.lengths:
        return longest, longest
    ends = np.minimum(BIN * np.arange(1, 1 + len(data.lengths)), most)
    chosen = np.array(padding.chosen_lengths(pad, most, np.repeat(ends, data.lengths), int(ends[-1])))
    padded = chosen[np.searchsorted(chosen, ends)]
    return int(chosen[-1]), round(float(np.average(padded, weights=data.lengths)))


def _zeros(spec: InputSpec, batch_size: int, length: int) -> Inputs:
    rows, features = (2 if spec.pairs else 1) * batch_size, () if spec.tokens else (spec.features,)
    inputs = jnp.zeros((rows, length, *features), jnp.int32 if spec.tokens else jnp.float32)
    ones = jnp.ones(batch_size)
    return Inputs(inputs, ones.astype(jnp.int32), None, ones)


def _tiny_rate(step: Any) -> jax.Array:
    return jnp.asarray(1e-6)


def _bytes_needed(program: Any) -> int:
    analysis = program.memory_analysis()
    return 0 if analysis is None else int(analysis.temp_size_in_bytes + analysis.argument_size_in_bytes)


def _bytes_there() -> int | None:
    """Returns the memory of the device that is free, None if the system does not say."""
    if facts := jax.devices()[0].memory_stats():
        return int(facts["bytes_limit"])
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return None
    lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
