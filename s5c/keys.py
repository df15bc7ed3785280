"""The keys that all tasks, all reductions, all evaluations share: what their yaml files are checked against."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from s5c.errors import UserError, bounded, unknown
from s5c.tracking.mirror import MODES

AUTO, RATIO = "auto", 0.5
"""What `reduction.ratio` is left at, and what it is then, unless something else says how much is removed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskKeys:
    """Keys of every conf/task yaml; the others belong to the task's own dataclass.

    Attributes:
        name: file name in s5c/data/task.
        validation_fraction: share of the training split carved for validation where the task publishes none.
        validation_seed: seeds that carving.
    """

    name: str
    validation_fraction: float = bounded(0.1, least=0)
    validation_seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReductionKeys:
    """Keys of every conf/reduction yaml; the others belong to the method's own dataclass and to the axes (`s5c.axes`).

    Attributes:
        name: the preset, printed in tables.
        method: file name in s5c/reduction/method.
        allocation: file name in s5c/reduction/allocation.
        ratio: fraction of stored states to remove, network-wide; a number or a list of numbers. `auto`: 0.5, unless one
            of the next four, or `max_drop`, is given.
        params: instead of a ratio: fraction of all trainable parameters of the network to remove; a number or a list.
        bytes: instead of a ratio: what the weights may take up, such as 32k; a number or a list. Of weights of several
            numbers of bits the best network on validation data is taken, unless `bits` is given.
        order: instead of a ratio: stored states to keep in every layer (every channel); a number, a list of numbers, or
            a list of lists with one number per layer.
        tolerance: instead of a ratio: share of a layer's summed scores that may be lost; a number or a list.
        seed: seeds methods that draw random numbers, and the training after the reduction.
        weights: best | latest checkpoint of the training.
        save: keep the reduced models as checkpoints.
    """

    name: str
    method: str
    allocation: str
    ratio: Any = AUTO
    params: Any = None
    bytes: Any = None
    order: Any = None
    tolerance: Any = None
    seed: int = 0
    weights: str = "best"
    save: bool = True

    def __post_init__(self) -> None:
        if self.weights not in ("best", "latest"):
            raise unknown("value for reduction.weights", self.weights, ("best", "latest"))
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise UserError(
                f"reduction.name={self.name} names folders: use letters, digits, '_', '+', '-' and '.', a letter first."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationKeys:
    """Keys of conf/evaluation.

    Attributes:
        batch_size: examples per batch of evaluation and of the latency measurement.
        latency: measure latency and memory; costs one compilation of the whole network per ratio.
        rounds: interleaved rounds of the latency measurement.
        test_examples: score a fixed, seeded part of the test split only, the same for every model; all of it if None.
        test_skip: leave out the part that `test_examples` of this number scores, so that what was looked at on the way
            and what is reported in the end have no example in common.
    """

    batch_size: int = 64
    latency: bool = True
    rounds: int = 9
    test_examples: int | None = None
    test_skip: int = 0

    def __post_init__(self) -> None:
        for key in ("batch_size", "rounds", "test_examples"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"evaluation.{key}={value}: it must be at least 1.")
        if self.test_skip < 0:
            raise UserError(f"evaluation.test_skip={self.test_skip}: it must be at least 0, which leaves nothing out.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WandbKeys:
    """Keys of conf/wandb.

    Attributes:
        mode: auto (online if a key is configured, else offline) | online | offline | disabled.
        project: W&B project.
        tags: added to the automatic ones.
    """

    mode: str = "auto"
    project: str = "s5c"
    tags: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("value for wandb.mode", self.mode, MODES)
