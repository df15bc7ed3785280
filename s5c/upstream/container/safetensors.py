"""Safetensors files of state dicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from s5c.upstream.files import UnreadableError, head

TITLE = "a safetensors file"


def holds(path: Path) -> bool:
    """Returns whether a file begins with the length of a JSON header, and the header."""
    return path.is_file() and head(path, 9)[8:9] == b"{"


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    Raises:
        UnreadableError: it is cut short, or its header does not fit its data.
    """
    try:
        return dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableError(path, TITLE, error) from error
