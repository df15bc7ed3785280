"""`listops_small`: ListOps of 21 to 99 tokens, at most 4 levels and 5 arguments, drawn in seconds. Not the papers'."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.task import listops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(listops.Task):
    """Short ListOps; the keys are those of `listops`."""

    name: ClassVar[str] = "listops_small"
    published: ClassVar[bool] = False
    max_length: int = 100
    examples: list[int] = dataclasses.field(default_factory=lambda: [20_000, 2_000, 2_000])
    max_depth: int = 4
    max_args: int = 5
    tokens: list[int] = dataclasses.field(default_factory=lambda: [20, 100])
