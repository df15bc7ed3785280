"""`pathx`: Pathfinder at 128 x 128 pixels, 16,384 steps: the Long Range Arena's Path-X."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.task import pathfinder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(pathfinder.Task):
    """Path-X; the keys are those of `pathfinder`. All 200,000 images take 3.3 GB of disk, and of memory when drawn."""

    name: ClassVar[str] = "pathx"
    size: ClassVar[int] = 128
