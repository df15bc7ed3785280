"""Flax's msgpack files: what `flax.serialization.to_bytes` writes, of a TrainState or of variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flax.serialization import msgpack_restore

from s5c.upstream.files import UnreadableError, flattened, head

TITLE = "a msgpack file of Flax"

MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)
"""First bytes of a map that is not empty."""


def holds(path: Path) -> bool:
    """Returns whether a file begins as a map does."""
    return path.is_file() and head(path, 1)[:1] in [bytes([one]) for one in MAPS]


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    Raises:
        UnreadableError: it is cut short, or holds something else.
    """
    try:
        found = msgpack_restore(path.read_bytes())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever bytes that are none of Flax's come to
        raise UnreadableError(path, TITLE, error) from error
    return flattened(found, path, TITLE)
