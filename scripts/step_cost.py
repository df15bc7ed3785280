"""What a training step of a published recipe costs on this device, found out without the data."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
    """

    train: int
    validation: bool
    length: int
    spec: InputSpec


PUBLISHED = {
    "digits": Data(1_437, False, 64, InputSpec(1, 10)),
    "fashion": Data(54_000, True, 784, InputSpec(1, 10)),
    "fsdd": Data(2_700, False, 8_000, InputSpec(1, 10)),
    "image": Data(45_000, True, 1_024, InputSpec(1, 10)),
    "imdb": Data(25_000, False, 4_096, InputSpec(135, 2, tokens=True)),
    "imdb_small": Data(25_000, False, 512, InputSpec(4 * 51, 2)),
    "listops": Data(96_000, True, 2_048, InputSpec(20, 10, tokens=True)),
    "listops_small": Data(20_000, True, 100, InputSpec(20, 10, tokens=True)),
    "pathfinder": Data(160_000, True, 1_024, InputSpec(1, 2)),
    "pathfinder_small": Data(8_000, True, 1_024, InputSpec(1, 2)),
    "pathx": Data(160_000, True, 16_384, InputSpec(1, 2)),
    "psmnist": Data(54_000, True, 784, InputSpec(1, 10)),
    "retrieval": Data(147_086, True, 4_000, InputSpec(98, 2, tokens=True, pairs=True)),
    "same_movie": Data(147_086, True, 4_000, InputSpec(134, 2, tokens=True, pairs=True)),
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

    Uses the device: call it in a process of its own, or the training finds the memory taken.
    """
    length, spec = data.length, data.spec
    rows, features = (2 if spec.pairs else 1) * job.recipe.batch_size, () if spec.tokens else (spec.features,)
    inputs = jnp.zeros((rows, length, *features), jnp.int32 if spec.tokens else jnp.float32)
    ones = jnp.ones(job.recipe.batch_size)
    batch = Inputs(inputs, ones.astype(jnp.int32), None, ones)
    model = Classifier(job.model, spec, (job.model.full_state_dim,) * job.model.n_layers)
    groups = {key: getattr(job.recipe, key) for key in ("weight_decay", "grouping", "dt_global")}
    make = partial(optimiser, lr=_tiny_rate, ssm_lr=_tiny_rate, **groups)
    key = jax.random.key(0)
    state, transform = init_state(model, make, batch, key)
    step = make_train_step(model, transform).lower(state, batch, key).compile()
    needed, there = _bytes_needed(step), _bytes_there()
    if there is not None and needed > there:
        return Cost(problem=f"needs {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are free")
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        began = time.perf_counter()
        state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    return Cost(statistics.median(times[1:] or times))


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
