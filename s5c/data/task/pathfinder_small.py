"""`pathfinder_small`: Pathfinder's easy level, 32 x 32 pixels, drawn in seconds with numba. Not in the papers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.task import pathfinder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(pathfinder.Task):
    """A few short contours; the keys are those of `pathfinder`."""

    name: ClassVar[str] = "pathfinder_small"
    published: ClassVar[bool] = False
    few: ClassVar[dict[str, object]] = {"examples": 30}
    contour_length: int = 6
    examples: int = 10_000
