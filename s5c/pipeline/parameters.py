"""How much a reduction leaves stored: what `reduction.params` and `reduction.bytes` are measured by."""

from __future__ import annotations

import dataclasses
from typing import Any

from s5c.axes import ReductionJob
from s5c.model import surgery
from s5c.model.config import ModelConfig
from s5c.model.network import dense_layers, sequence_layers
from s5c.model.roles import parameters_of
from s5c.reduction.contract import Fresh, Projection
from s5c.reduction.parameters import Parameters
from s5c.reduction.size import Bytes
from s5c.reduction.target import Target
from s5c.types import Params


def stored_after(job: ReductionJob, params: Params, config: ModelConfig, bits: int | None = None) -> Parameters:
    """Returns how many parameters a network stores at every cut of a job.

    Args:
        job: the preset.
        params: parameters of the network before, or their shapes.
        config: its configuration.
        bits: of a weight; as the job says if None.
    """
    fitted = (bits or bits_of(job)) != 32 and job.ungrouped()["bits_fit"] == "calibrated"
    found, present = surgery.parameters(params, config), surgery.constants(params, config)
    if isinstance(job.method, Fresh):  # layers as drawn: channels share their poles again, and there are no constants
        return dataclasses.replace(found, rest=found.rest - sum(present), own_poles=None)
    refit: Any = job.refit
    added = sum(config.d_model for n in present if n == 0) if getattr(refit, "constant", False) or fitted else 0
    return dataclasses.replace(found, rest=found.rest + added, new_poles=isinstance(job.method, Projection))


def bits_of(job: ReductionJob) -> int:
    """Returns the bits of a weight after a reduction; 32 where they are still to be found."""
    return int(job.ungrouped()["bits"] or 32)


def with_bits(job: ReductionJob, bits: int) -> ReductionJob:
    """Returns the job with weights of so many bits."""
    change: Any = {"bits": bits}
    axes = (dataclasses.replace(axis, **change) if "bits" in axis.fields() else axis for axis in job.axes)
    return dataclasses.replace(job, axes=tuple(axes))


def bytes_after(job: ReductionJob, params: Params, config: ModelConfig, bits: int, *, tokens: bool) -> Bytes:
    """Returns how many bytes a network takes up at every cut of a job.

    Args:
        job: the preset.
        params: parameters of the network before, or their shapes.
        config: its configuration.
        bits: of a weight.
        tokens: the network reads ids, and its embedding has a row for each.
    """
    shapes = {name: one["kernel"].shape for name, one in dense_layers(params, config).items()}
    dense = tuple((n, m) if name == "inputs" and tokens else (m, n) for name, (n, m) in shapes.items())
    roles = parameters_of(config)
    inputs = any(roles[name].role == "input" for name in sequence_layers(params, config)[0])
    directions = 2 if getattr(config, "bidirectional", False) else 1
    return Bytes(
        stored_after(job, params, config, bits), bits, config.d_model, directions,
        config.per_channel, config.per_channel and inputs, dense,
        2 * config.d_model * config.n_layers if config.norm == "batch" else 0,
    )  # fmt: skip


def too_many(before: Parameters, params: Params, config: ModelConfig, target: Target) -> list[str]:
    """Returns what to say where a network stores more parameters than were asked for.

    Args:
        before: parameters of the network before the reduction.
        params: parameters of the network after it.
        config: its configuration.
        target: a target of kind `params`.
    """
    assert isinstance(target.value, float)
    stored = surgery.parameters(params, config).total
    if stored <= (1 - target.value) * before.total + 1e-9:
        return []
    return [
        f"params {target.value:g} was asked for and {before.removed(stored):.3g} is reached: {stored:,} are stored."
    ]
