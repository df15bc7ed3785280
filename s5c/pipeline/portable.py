"""A network as a folder of its own: `weights.safetensors`, the weights, and `card.json`, all that is known about it.

Weights of few bits are integers in the file and float32 in memory (`s5c.pipeline.packing`).

Nothing in it is executed when it is read, and a byte that has changed is noticed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as as_bytes

from s5c.atomic import UNFINISHED, put
from s5c.errors import UserError
from s5c.pipeline.packing import stored_form, unpack
from s5c.pipeline.provenance import write_json
from s5c.pipeline.shelf import CARD
from s5c.pipeline.trained import WEIGHTS_FILE
from s5c.training.checkpoint import Checkpoint
from s5c.training.facts import Facts, checked
from s5c.training.integrity import DamagedCheckpointError, check_items, check_metadata, migrate, on_host, seal


def is_portable(folder: Path) -> bool:
    """Returns whether a folder holds a network in this form, whole or damaged."""
    return (folder / WEIGHTS_FILE).is_file() or (folder / CARD).is_file()


def check_free(folder: Path) -> None:
    """Raises `UserError` if a folder, or a file of its name, holds something else than a network in this form."""
    if folder.exists() and not (folder.is_dir() and (is_portable(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} holds something else than a network saved by s5c: give another folder.")


def read_card(folder: Path) -> dict[str, Any]:
    """Returns what is known about a network.

    Raises:
        DamagedCheckpointError: it is not what was written.
    """
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(folder, f"its {CARD} cannot be read ({error}).") from error
    if not isinstance(card, dict):
        raise DamagedCheckpointError(folder, f"its {CARD} is no JSON object.")
    check_metadata(card, folder)
    return card


def read(folder: Path) -> Checkpoint:
    """Reads a network.

    Raises:
        DamagedCheckpointError: a file is missing or not what was written.
    """
    card = migrate(read_card(folder))
    try:
        arrays = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, SafetensorError) as error:
        raise DamagedCheckpointError(folder, f"{WEIGHTS_FILE} cannot be read ({error}).") from error
    stored = check_items(card, {"weights": unflatten_dict(arrays, sep="/")}, folder)["weights"]
    facts = checked(Facts(card, folder))
    return Checkpoint(unpack(stored, facts), facts, card.get("step") or 0, folder)


def write(
    folder: Path,
    weights: Mapping[str, Any],
    facts: Mapping[str, Any],
    finish: Callable[[Path, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Writes a network, whole or not at all; one that is there already goes once the new one is whole.

    Args:
        folder: its place.
        weights: `{"params": ..., "batch_stats": ...}`.
        facts: JSON values, with `step`.
        finish: writes further files into the unfinished folder, given that folder and the card.

    Returns:
        The card.
    """
    arrays = flatten_dict(on_host(stored_form(weights, facts)), sep="/")  # empty collections drop out
    card, stored = seal(facts, {"weights": unflatten_dict(arrays, sep="/")})
    unfinished = folder.with_name(f"{UNFINISHED}-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        whole = {key: np.ascontiguousarray(one) for key, one in flatten_dict(stored["weights"], sep="/").items()}
        (unfinished / WEIGHTS_FILE).write_bytes(as_bytes(whole))  # `save_file` would make it its owner's alone
        write_json(unfinished / CARD, card)
        if finish is not None:
            finish(unfinished, card)
        put(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return card
