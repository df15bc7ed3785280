"""What a training step of a published recipe costs on this device, found out without the data."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.data import padding
from s5c.data.base import Task
from s5c.model.classifier import Classifier
from s5c.model.inputs import InputSpec
from s5c.pipeline.trained import TrainJob
from s5c.studies.cost import Cost
from s5c.studies.sizes import BIN, Data
from s5c.training.optimiser import optimiser
from s5c.training.steps import Inputs, init_state, make_train_step

STEPS, SECONDS = 12, 20
"""What is run: so many steps, fewer if they take longer than this."""


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
    train_step: Any = make_train_step(model, transform)  # jitted, which its type does not say
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
