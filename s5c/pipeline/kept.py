"""A finished training stays the model it was: it is found again whole, or refused, or made again on request."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from s5c.pipeline.provenance import command, write_json
from s5c.training import finished
from s5c.training.checkpoint import Checkpoint, CheckpointStore, load
from s5c.training.finished import LostModelError
from s5c.training.folder import CHECKPOINTS, FINISHED
from s5c.training.stored import SUPERSEDED, metadata_in, set_aside

log = logging.getLogger(__name__)

PREVIOUS = "trained.previous.json"
"""What `trained.json` said before the model was lost and made again."""


@contextlib.contextmanager
def command_named() -> Iterator[None]:
    """Lets the message about a lost model name the command that was given."""
    try:
        yield
    except LostModelError as error:
        raise LostModelError(error.folder, error.problem, command()) from error


def found(
    folder: Path, described: Mapping[str, Any], trained_id: str, *, which: str, resume: str
) -> dict[str, Any] | None:
    """Returns what a finished training says about itself; None if there is something to train.

    The descriptions beside it, which decide nothing, are written again where they are damaged.

    Args:
        folder: folder of the training.
        described: everything that decides its result.
        trained_id: checksum of that.
        which: the step that is wanted, best | latest.
        resume: auto | rebuild | best_intact, where that step is lost.

    Raises:
        LostModelError: the step is lost, and `resume` is auto.
    """
    try:
        facts = finished.read(folder)
        if facts is None:
            return None
        checkpoint = load(folder, which=which)
        _check_id(folder, checkpoint, trained_id)
    except LostModelError as error:
        if resume == "auto":
            raise
        log.warning("%s", error.problem)
        _put_away(folder, resume)
        return None
    if "instead_of" in facts:
        log.warning(
            "The best step of %s was lost, and step %d was taken in its place (resume=best_intact): its results carry "
            "trained_id=%s.",
            folder,
            facts["best"]["step"],
            facts["trained_id"],
        )
    for name, value in (("identity.json", described), ("environment.json", facts["environment"])):
        if not _holds(folder / name, value):
            log.warning("%s was damaged or gone; it is written again.", folder / name)
            write_json(folder / name, value)
    return facts


def finish(folder: Path, result: Mapping[str, Any], trained_id: str, best: Checkpoint, store: CheckpointStore) -> None:
    """Writes `trained.json`, and says how a model that was made again compares with the one that was lost.

    Args:
        folder: folder of the training.
        result: what is said about it besides.
        trained_id: checksum of everything that decides the result.
        best: the best step that the store knows of.
        store: the training's steps, all on disk.
    """
    latest = store.latest()
    assert latest is not None and best.best is not None, "the best one is there, and has a score"
    facts = {**result, "trained_id": trained_id, "best": _named(best), "latest": _named(latest)}
    if (lost := best.best.instead_of) is not None:
        facts |= {"trained_id": f"{trained_id}-step{best.step}", "instead_of": lost if math.isfinite(lost) else None}
    finished.write(folder, facts)
    store.drop_superseded()
    if lost is None:
        _compare(folder, facts)


def _named(checkpoint: Checkpoint) -> dict[str, Any]:
    score, weights = checkpoint.metadata["score"], checkpoint.metadata["checksum"]["weights"]
    return {"step": checkpoint.step, "score": score, "weights": weights}


def _check_id(folder: Path, checkpoint: Checkpoint, trained_id: str) -> None:
    """Raises unless a checkpoint belongs to the training in whose folder it lies."""
    given = str(checkpoint.metadata["trained_id"])
    if given.partition("-step")[0] != trained_id:
        raise LostModelError(folder, f"{checkpoint.path} holds a step of another training, {given}.")


def _put_away(folder: Path, resume: str) -> None:
    """Makes a training count as not finished; what it was stays known, to be compared with what it becomes."""
    if resume == "rebuild":
        _go_back(folder)
    (folder / FINISHED).replace(folder / PREVIOUS)


def _go_back(folder: Path) -> None:
    """Puts the steps after a lost best one aside, where only `trained.json` knows of that one, as of older code."""
    facts = None
    try:
        facts = finished.read(folder)
        assert facts is not None, "there was something to be lost"
        load(folder)
    except LostModelError:
        if facts is None or "best" in facts:
            return
        for step, said in metadata_in(folder / CHECKPOINTS).items():
            if said is not None and said["epoch"] >= facts["best_epoch"]:
                set_aside(folder / CHECKPOINTS, step, SUPERSEDED)


def _compare(folder: Path, facts: Mapping[str, Any]) -> None:
    """Says whether a model that was made again is the one that was lost."""
    previous = folder / PREVIOUS
    try:
        before = finished.read(folder, PREVIOUS)
    except LostModelError:  # damaged, which was the reason
        before = None
    if before is None:
        previous.unlink(missing_ok=True)
        return
    if "best" in before:
        same = before["best"] == facts["best"]
    else:
        same = all(before.get(key) == facts[key] for key in ("best_epoch", "selection_accuracy"))
    if same:
        log.info("The model is the one that was lost: step %d.", facts["best"]["step"])
        previous.unlink()
        return
    log.warning(
        "The model made again is another one than the one that was lost: epoch %s, selection accuracy %s, then epoch "
        "%s, %s. Results of the lost one do not belong to it. It was made with %s; %s keeps what is known of it.",
        facts["best_epoch"],
        facts["selection_accuracy"],
        before.get("best_epoch"),
        before.get("selection_accuracy"),
        ", ".join(f"{key}={value}" for key, value in (before.get("environment") or {}).items() if key != "command"),
        previous,
    )


def _holds(path: Path, value: Any) -> bool:
    try:
        return json.loads(path.read_text("utf-8")) == json.loads(json.dumps(value, default=str))
    except (OSError, ValueError):
        return False
