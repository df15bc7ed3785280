"""`imdb_small`: the last 1,023 characters of film reviews, two characters a step. A benchmark that needs no GPU.

Lower-cased; characters seen fewer than `min_freq` times become <unk>. Each step reads four characters and moves on by
two, so that 1,024 tokens are 512 steps. `task.window=1 task.stride=1` reads one character a step instead.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from s5c.data.task import imdb
from s5c.errors import bounded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(imdb.Task):
    """Ends of reviews; the keys are those of `imdb`."""

    name: ClassVar[str] = "imdb_small"
    max_length: int = bounded(1024, least=2)
    min_freq: int = bounded(3000, least=1)
    width: int | None = bounded(None, least=1)
    keep: str = "last"
    lower: bool = True
    window: int = 4
    stride: int = 2
