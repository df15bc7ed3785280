"""Steps of a training on disk: read and verified, and which of them is the best.

Every step says in its metadata which step was the best when it was written, with its score and the checksum of its
weights. The newest intact step therefore tells whether the best one is still there, also where its folder is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from s5c.training.facts import Facts
from s5c.training.finished import LostModelError
from s5c.training.folder import CHECKPOINTS
from s5c.training.integrity import DamagedCheckpointError, check_items, check_metadata, migrate

logger = logging.getLogger("s5c.training.checkpoint")

DAMAGED, SUPERSEDED = "damaged", "superseded"
"""Folders beside the steps, for those that cannot be read and for those that are made again."""

BEST = "best_so_far"
"""Key of a step's metadata; not in that of a `Checkpoint`."""


@dataclass(frozen=True)
class Best:
    """The best step of a training up to some step.

    Attributes:
        step: Its number.
        score: What it was chosen by.
        weights: Checksum of its weights.
        instead_of: Score of a better step that was lost, and accepted as lost; None in a training that lost none.
    """

    step: int
    score: float
    weights: str
    instead_of: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One intact checkpoint.

    Attributes:
        weights: Nested dicts of numpy arrays, by collection: "params" and, if any, "batch_stats".
        metadata: What was saved beside them, with "schema", "checksum", "step" and "score" added.
        step: Training step; 0 for a single checkpoint whose metadata has none.
        path: Its folder.
        best: The best step when this one was saved; None if no step had a score, or none was noted by older code.
    """

    weights: dict[str, Any]
    metadata: Facts
    step: int
    path: Path
    best: Best | None = None


def steps_in(directory: Path) -> list[int]:
    """Lists finished steps in ascending order; unfinished ones have other names."""
    return sorted(int(entry.name) for entry in directory.glob("*") if entry.name.isdigit() and entry.is_dir())


def ranked(scores: Mapping[int, float | None]) -> list[int]:
    """Returns the steps that have a score, best first, the earlier of equals first."""
    comparable = {step: score for step, score in scores.items() if score is not None and not math.isnan(score)}
    return sorted(comparable, key=lambda step: (-comparable[step], step))


def metadata_in(directory: Path) -> dict[int, dict[str, Any] | None]:
    """Returns the metadata of every step, None where it is damaged, in ascending order."""
    found: dict[int, dict[str, Any] | None] = {}
    for step in steps_in(directory):
        found[step] = None
        with contextlib.suppress(DamagedCheckpointError):  # reported when the step itself is read
            found[step] = migrate(_of_step(directory / str(step)))
    return found


def scores_in(directory: Path) -> dict[int, float | None]:
    """Returns the scores of all steps whose metadata is intact."""
    return {step: facts.get("score") for step, facts in metadata_in(directory).items() if facts is not None}


def newest_best(directory: Path) -> Best | None:
    """Returns the best step according to the newest one whose metadata is intact."""
    for step, facts in reversed(metadata_in(directory).items()):
        if facts is not None:
            return best_of(facts, step) if BEST in facts else _best_of_old(directory, step)
    return None


def _best_of_old(directory: Path, step: int) -> Best | None:
    """Returns the best step up to another, by the scores in the steps themselves, as older code wrote them."""
    known = {n: facts for n, facts in metadata_in(directory).items() if facts is not None and n <= step}
    found = ranked({n: facts.get("score") for n, facts in known.items()})[:1]
    return Best(found[0], known[found[0]]["score"], known[found[0]]["checksum"]["weights"]) if found else None


def best_of(metadata: Mapping[str, Any], step: int) -> Best | None:
    """Returns what a step's metadata says about the best step so far."""
    facts = metadata.get(BEST)
    if facts is None:
        return None
    own = metadata["checksum"]["weights"]
    return Best(facts["step"], facts["score"], facts.get("weights", own), facts.get("instead_of"))


def best_facts(best: Best | None, step: int) -> dict[str, Any] | None:
    """Returns what a step says about the best one so far; of its own weights the metadata has the checksum anyway."""
    if best is None:
        return None
    return {key: value for key, value in dataclasses.asdict(best).items() if key != "weights" or best.step != step}


def find_best(directory: Path, newest: Checkpoint) -> Checkpoint | None:
    """Returns the best step of a training that has come to `newest`; None if no step has a score.

    Raises:
        LostModelError: It is damaged or gone.
    """
    if newest.best is not None:
        if newest.best.step == newest.step:
            return newest
        return intact(directory, newest.best.step, newest.best.weights, "the best so far")
    if BEST in newest.metadata:
        return None
    damaged = [step for step, facts in metadata_in(directory).items() if facts is None and step < newest.step]
    if damaged:
        problem = f"The metadata of step {damaged[-1]} in {directory} is damaged"
        raise LostModelError(training_of(directory), f"{problem}, so it cannot be told which step is the best.")
    best = _best_of_old(directory, newest.step)
    return None if best is None else intact(directory, best.step, best.weights, "the best so far")


def intact(directory: Path, step: int, weights: str | None, role: str) -> Checkpoint:
    """Reads a step that nothing can stand in for.

    Args:
        directory: The folder of steps.
        step: Its number.
        weights: Checksum its weights must have; None if it is not known.
        role: What it is to its training, for the message.

    Raises:
        LostModelError: It is damaged, gone or another one.
    """
    path, folder = directory / str(step), training_of(directory)
    if not path.is_dir():
        raise LostModelError(folder, f"Step {step}, {role} of the training {folder}, is gone: there is no {path}.")
    try:
        checkpoint = read_step(path)[0]
        if weights not in (None, checkpoint.metadata["checksum"]["weights"]):
            raise DamagedCheckpointError(path, "its weights are not those that were saved as this step.")
    except DamagedCheckpointError as error:
        reason = str(error).splitlines()[0].partition("is damaged: ")[2]
        raise LostModelError(folder, f"Step {step}, {role} of the training {folder}, is damaged: {reason}") from error
    return checkpoint


def as_best(checkpoint: Checkpoint) -> Best:
    """Returns a step with a score as the best one."""
    return Best(checkpoint.step, checkpoint.metadata["score"], checkpoint.metadata["checksum"]["weights"])


def recorded(directory: Path, facts: Mapping[str, Any], which: str) -> Checkpoint:
    """Returns the step of a finished training that its `trained.json` names.

    Args:
        directory: The folder of steps.
        facts: Of `s5c.training.finished.read`.
        which: "best" or "latest".

    Raises:
        LostModelError: It is damaged or gone.
    """
    role, folder = f"the {which} one", training_of(directory)
    if (named := facts.get(which)) is not None:
        found = intact(directory, named["step"], named["weights"], role)
        return dataclasses.replace(found, metadata=found.metadata.replaced(trained_id=facts["trained_id"]))
    seen = metadata_in(directory)  # older code named the epoch and its accuracy
    known = {step: said for step, said in seen.items() if said is not None and said.get("score") is not None}
    if which == "best":
        wanted = f"of epoch {facts['best_epoch']}, selection accuracy {facts['selection_accuracy']}"
        found_steps = [
            step
            for step, said in known.items()
            if (said["epoch"], said["score"]) == (facts["best_epoch"], facts["selection_accuracy"])
        ]
    else:
        wanted = "of the last epoch"
        found_steps = [step for step, said in known.items() if said["epoch"] == said["recipe"]["epochs"]]
    if not found_steps:
        damaged = ", ".join(str(step) for step, said in seen.items() if said is None)
        problem = f"the metadata of step {damaged} is damaged" if damaged else f"it is not in {directory}"
        raise LostModelError(folder, f"The step {wanted}, of the training {folder} is lost: {problem}.")
    return intact(directory, found_steps[0], None, role)


def first_intact(directory: Path, steps: Iterable[int]) -> Checkpoint | None:
    """Returns the first of some steps that is intact, and reports those that are not."""
    for step in steps:
        try:
            return read_step(directory / str(step))[0]
        except DamagedCheckpointError as error:
            logger.warning("%s\nTrying the next one.", error)
    return None


def set_aside(directory: Path, step: int, name: str) -> Path:
    """Moves a step to the folder `name` beside the steps, so that it can be saved again; returns where it is now."""
    folder = directory / name
    folder.mkdir(exist_ok=True)
    number = sum(1 for entry in folder.iterdir() if entry.name.split("-")[0] == str(step))
    return (directory / str(step)).rename(folder / (f"{step}-{number}" if number else str(step)))


def training_of(directory: Path) -> Path:
    """Returns the folder of the training that a folder of steps belongs to."""
    return directory.parent if directory.name == CHECKPOINTS else directory


def read_step(path: Path, *, training: bool = False) -> tuple[Checkpoint, dict | None]:
    """Reads and verifies the weights and, if asked for and saved, the training item by leaf name.

    Raises:
        DamagedCheckpointError: Something in it is not what was written.
    """
    metadata = _of_step(path)
    if (path / "training").exists() and "training" not in metadata["checksum"]:
        raise DamagedCheckpointError(path, "its metadata has no checksum of its training state.")
    names = ["weights", "training"] if training and "training" in metadata["checksum"] else ["weights"]
    restored = _restore(path, **{name: ocp.args.StandardRestore() for name in names})
    checked = check_items(metadata, {name: restored[name] for name in names}, path)
    migrated = migrate(metadata)
    step = migrated.get("step") or 0
    return Checkpoint(checked["weights"], Facts(migrated, path), step, path, best_of(migrated, step)), checked.get(
        "training"
    )


def _of_step(path: Path) -> dict:
    metadata = check_metadata(_restore(path, metadata=ocp.args.JsonRestore()).metadata, path)
    if path.parent.name == CHECKPOINTS and path.name.isdigit() and metadata.get("step") != int(path.name):
        raise DamagedCheckpointError(path, f"it holds step {metadata.get('step')} under another number.")
    return metadata


def _restore(path: Path, **items: Any) -> Any:
    """Reads items of a checkpoint folder; any failure inside Orbax means damage, except lack of memory or rights."""
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(**items))
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise DamagedCheckpointError(path, f"{type(error).__name__}: {said}") from error
