"""What a network costs: states, parameters and operations counted, latency and memory measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from s5c.model.classifier import Classifier
from s5c.model.compilation import compiler_options
from s5c.model.config import load_family
from s5c.model.surgery import parameters
from s5c.ssm.call import Shape
from s5c.ssm.convolution import siso_backend
from s5c.ssm.operator import resolve_backend
from s5c.training.steps import Inputs
from s5c.types import Params


class Size(NamedTuple):
    """Counted, not measured.

    Attributes:
        states: stored complex states, all layers and channels, silent ones among them.
        orders: the same per layer, all channels together.
        params: real parameters of the whole network.
        state_params: those that belong to states (Lambda, Delta, B, C).
        macs: real multiply-accumulates of one forward pass of one sequence.
    """

    states: int
    orders: list[int]
    params: int
    state_params: int
    macs: int


class Measured(NamedTuple):
    """One compiled network on one device.

    Attributes:
        latency_ms: median of the warm forward pass of one batch.
        temp_bytes: XLA's temporary memory of that program.
        backend: implementation of the sequence operator in its first layer.
        times_ms: times of every round, in order.
    """

    latency_ms: float
    temp_bytes: int
    backend: str
    times_ms: list[float]


class Stored(NamedTuple):
    """What weights take up, in bytes: the same whenever and wherever they are stored.

    Attributes:
        arrays: the numbers alone.
        safetensors: one safetensors file of them, names and shapes included.
    """

    arrays: int
    safetensors: int


def size(model: Classifier, params: Params, length: int) -> Size:
    """Counts states, parameters and operations.

    Args:
        model: the network.
        params: its parameters.
        length: steps per sequence.
    """
    config, spec, h = model.config, model.spec, model.config.d_model
    family = load_family(config.family)
    counted = parameters(params, config)
    gates = {"gelu": 0, "half_glu1": 1, "half_glu2": 1, "full_glu": 2, "lqo": 2, "geglu": 3}[config.activation]
    per_step = 0 if spec.tokens else spec.features * h
    per_step += sum(family.macs_per_step(config, p) + gates * h * h for p in model.state_dims)
    sequences, pair_head = (2, 4 * h * h) if spec.pairs else (1, 0)
    heads = length if spec.targets is not None and spec.targets.per_step else 1
    total = sequences * length * per_step + pair_head + heads * h * spec.classes
    orders = [p * (h if config.per_channel else 1) for p in model.state_dims]
    return Size(sum(orders), orders, counted.total, counted.total - counted.rest, total)


def stored(weights: Mapping[str, Any]) -> Stored:
    """Returns what weights take up; the file is the one that the zoo would hold of them, made in memory.

    Args:
        weights: nested dicts of arrays, such as `{"params": ..., "batch_stats": ...}`.
    """
    arrays = named_arrays(weights)
    return Stored(sum(array.nbytes for array in arrays.values()), len(save(arrays)))


def named_arrays(weights: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of nested dicts by their path, `params/encoder/...`, as a safetensors file names them."""
    found: dict[str, np.ndarray] = {}
    for key, value in weights.items():
        if isinstance(value, Mapping):
            found |= named_arrays(value, f"{prefix}{key}/")
        else:
            found[f"{prefix}{key}"] = np.ascontiguousarray(value)
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """Returns the lower and the upper quartile; both are the value of a single one."""
    found = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return [found[0], found[2]]


def device_name() -> str:
    """Returns the device that JAX computes on, in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu ({line.split(':', 1)[1].strip()})"
    return "cpu"


def measure(
    networks: Mapping[str, tuple[Classifier, Params]],
    batch: Inputs,
    *,
    rounds: int = 9,
    calls: int = 3,
    step_rescale: float = 1.0,
) -> dict[str, Measured]:
    """Times the forward passes of several networks against each other.

    The networks take turns within every round, so that a drift of the machine's speed falls on all of them; ratios of
    the medians are what should be quoted.

    Args:
        networks: by name, the module and `{"params": ..., "batch_stats": ...}`.
        batch: one batch on the device, the same for all.
        rounds: rounds that count, after one that does not.
        calls: forward passes per turn.
        step_rescale: multiplies every Delta.
    """
    programs = {}
    for name, (model, weights) in networks.items():
        forward = jax.jit(
            lambda w, x, n, model=model: model.apply(w, x, n, step_rescale=step_rescale),
            compiler_options=compiler_options(),
        )
        on_device = jax.device_put(dict(weights))
        programs[name] = (forward.lower(on_device, batch.inputs, batch.lengths).compile(), on_device)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, (program, weights) in programs.items():
            began = time.perf_counter()
            for _ in range(calls):
                output = program(weights, batch.inputs, batch.lengths)
            jax.block_until_ready(output)
            if turn > 0:
                times[name].append(1e3 * (time.perf_counter() - began) / calls)
    return {
        name: Measured(
            statistics.median(times[name]), _temp_bytes(program), backend_of(networks[name][0], batch), times[name]
        )
        for name, (program, _) in programs.items()
    }


def _temp_bytes(program: Any) -> int:
    analysis = program.memory_analysis()
    return int(analysis.temp_size_in_bytes) if analysis is not None else 0


def backend_of(model: Classifier, batch: Inputs) -> str:
    """Returns the operator implementation that the first layer of `model` runs with on this batch."""
    config = model.config
    rows, length = batch.inputs.shape[:2]
    if config.per_channel:
        return siso_backend(config.backend, length)
    shape = Shape(rows, length, config.d_model, model.state_dims[0], getattr(config, "bidirectional", False))
    return resolve_backend(config.backend, jax.default_backend(), shape)
