"""Orbax folders of a TrainState or of variables, as `orbax.checkpoint` and `flax.training.checkpoints` write them."""

from __future__ import annotations

import gc
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from s5c.errors import UserError
from s5c.upstream.files import UnreadableError, flattened

TITLE = "an Orbax folder"

TREE = ("_METADATA", "checkpoint")
"""Files in the folder of a tree of arrays; the second one is of older versions."""
STEP = re.compile(r"(?:.*_)?(\d+)$")


def holds(path: Path) -> bool:
    """Returns whether a folder, or a step in it, is a tree of arrays."""
    return path.is_dir() and _found(path) is not None


def _found(path: Path) -> Path | None:
    """Returns the folder of the tree: itself, an item of a step, or that of the latest step."""
    if any((path / name).is_file() for name in TREE):
        return path
    items = sorted(one.parent for name in TREE for one in path.glob(f"*/{name}"))
    steps = {int(m[1]): one for one in path.iterdir() if one.is_dir() and (m := STEP.match(one.name))}
    if steps:
        return _found(steps[max(steps)])
    return items[0] if items else None


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a folder by name, of several steps those of the latest.

    Raises:
        UnreadableError: a file is damaged or gone.
        UserError: a step holds several trees.
    """
    folder = _found(path)
    assert folder is not None, "it holds one"
    beside = sorted(one.name for one in folder.parent.glob("*") if (one / TREE[0]).is_file())
    if folder != path and len(beside) > 1 and not all(STEP.match(name) for name in beside):
        raise UserError(f"{folder.parent} holds several trees, {', '.join(beside)}: give the folder of one.")
    try:
        with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that lay on other devices
            described = checkpointer.metadata(folder.absolute()).item_metadata
            if described is None:
                raise ValueError("what is in it cannot be read")
            tree = described.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            found = checkpointer.restore(folder.absolute(), restore_args=as_numpy)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # any failure inside of Orbax and TensorStore is damage
        damage = UnreadableError(folder, TITLE, error)
    else:
        return flattened(found, folder, TITLE)
    with _quiet():
        gc.collect()  # the other arrays, which fail as well
    raise damage


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what Orbax logs, and asyncio of errors that nobody waited for: of all arrays but the first that fails."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
