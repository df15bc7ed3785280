"""Arrays beside `rows.jsonl`, in files that may be gone or damaged: a report is made without them, and says so."""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, SyntaxError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What NumPy and zipfile raise where a bit has flipped or a part is missing."""


def read_arrays(path: Path, lacking: str) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an `.npz`; none if there is no such file, or a damaged one, which is reported.

    Args:
        path: the file. Its arrays have checksums, which are verified.
        lacking: what is left out without it, for the message.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        said = " ".join(str(error).split())
        log.warning("%s is damaged (%s): %s. Run its job again.", path, said or type(error).__name__, lacking)
        return {}
