"""`listops_small`: ListOps of 21 to 99 tokens, at most 4 levels and 5 arguments, drawn in seconds. Not the papers'."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.task import listops
from s5c.errors import bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(listops.Task):
    """Short ListOps; the keys are those of `listops`."""

    name: ClassVar[str] = "listops_small"
    published: ClassVar[bool] = False
    few: ClassVar[dict[str, object]] = {"examples": [300, 30, 30]}
    max_length: int = bounded(100, least=2)
    examples: list[int] = dataclasses.field(default_factory=lambda: [20_000, 2_000, 2_000])
    max_depth: int = bounded(4, least=1)
    max_args: int = bounded(5, least=2)
    tokens: list[int] = dataclasses.field(default_factory=lambda: [20, 100])
