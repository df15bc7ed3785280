"""Checkpoints: the best and the latest steps of a run, and single ones for deployment.

Every checkpoint is one Orbax folder with the items `weights`, `metadata` (JSON) and, during training, `training`
(optimizer state and the like). Weights are read back without knowing their shapes, on any device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from s5c.errors import UserError, nearest_first, unknown
from s5c.locations import for_checkpoints
from s5c.training import finished
from s5c.training.finished import RESUME, LostModelError
from s5c.training.folder import CHECKPOINTS, FINISHED
from s5c.training.integrity import (
    DamagedCheckpointError,
    NotSavedError,
    as_nested_dict,
    named_leaves,
    on_host,
    restructure,
    seal,
    storage_problem,
)
from s5c.training.retention import LatestAndBest
from s5c.training.stored import (
    BEST,
    DAMAGED,
    SUPERSEDED,
    Best,
    Checkpoint,
    as_best,
    best_facts,
    find_best,
    first_intact,
    intact,
    metadata_in,
    newest_best,
    ranked,
    read_step,
    recorded,
    scores_in,
    set_aside,
    steps_in,
    training_of,
)

__all__ = ["Checkpoint", "CheckpointStore", "load", "save_single"]

logger = logging.getLogger(__name__)


def _worth_showing(record: logging.LogRecord) -> bool:
    """Drops Orbax's progress reports, and its tracebacks of errors that are raised here anyway."""
    return "orbax" not in record.pathname or (record.levelno >= logging.WARNING and not record.exc_info)


logging.getLogger("absl").addFilter(_worth_showing)


class CheckpointStore:
    """The checkpoints of one training run: a folder of steps, written in the background.

    One process at a time may hold a store; readers use `load`. Opening it removes what an interrupted save left.

    Args:
        directory: Folder of the steps, created if missing.
        keep_latest: How many of the newest steps to keep beside the best one. With 1, damage to the newest step
            loses the training state.
        resume: What `restore_training` does where the best step is lost: "auto" refuses, "rebuild" goes back to a step
            from which it can be made again, "best_intact" takes the best of those that are there.
    """

    def __init__(self, directory: Path, *, keep_latest: int = 2, resume: str = "auto") -> None:
        if keep_latest < 1:
            raise UserError(f"keep_latest is {keep_latest}; at least 1 checkpoint must be kept to resume from.")
        if resume not in RESUME:
            raise unknown("value for resume", resume, RESUME)
        self._resume = resume
        self.directory = for_checkpoints(Path(directory).absolute())
        self._keep_latest = keep_latest
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot create the checkpoint folder {self.directory}: {error.strerror}.") from error
        self._open()

    def _open(self) -> None:
        self._policy = LatestAndBest(self._keep_latest, scores_in(self.directory))
        self._best = newest_best(self.directory)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            lightweight_initialize=True,  # the policy has its scores from our metadata, not from Orbax's
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(
        self,
        step: int,
        *,
        weights: Mapping,
        training: Any | None,
        metadata: Mapping,
        score: float | None,
        wait: bool = False,
    ) -> None:
        """Starts writing a checkpoint; older ones are deleted only after it is complete.

        Everything is copied in host memory before this returns, so the caller may donate or overwrite its arrays. A
        failed write is reported by the next `save`, `wait` or `close`.

        Args:
            step: Training step, not saved before.
            weights: Nested dicts of arrays with string keys.
            training: Any pytree of arrays needed to resume; None for weights alone. PRNG keys as their uint32 data.
            metadata: JSON values.
            score: Higher is better; None or NaN never becomes the best.
            wait: Return only when the checkpoint is on disk.

        Raises:
            UserError: If the disk is full or not writable.
            ValueError: If the step exists.
        """
        if (self.directory / str(step)).exists():
            raise ValueError(f"Step {step} is already saved in {self.directory}.")
        items = {"weights": as_nested_dict(weights)}
        if training is not None:
            items["training"] = named_leaves(training)
        score = None if score is None else float(score)
        best = self._better(step, score)
        facts = {**metadata, "step": int(step), "score": score, BEST: best_facts(best, step)}
        sealed, stored = seal(facts, on_host(items))
        with self._reporting():
            self._policy.scores[step] = score
            self._manager.save(step, args=_composite(sealed, stored), force=True)
            if best is not None and best.step == step:
                best = dataclasses.replace(best, weights=sealed["checksum"]["weights"])
            self._best = best
            if wait:
                self._manager.wait_until_finished()

    def _better(self, step: int, score: float | None) -> Best | None:
        """Returns the best step once `step` is saved."""
        best = self._best
        if score is None or score != score or (best is not None and score <= best.score):
            return best
        lost = None if best is None else best.instead_of
        return Best(step, score, "", lost if lost is not None and score <= lost else None)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns a failed write into a UserError, after forgetting what the manager believed about it."""
        try:
            yield
        except Exception as error:
            with contextlib.suppress(Exception):
                self._manager.close()
            self._open()  # also removes the unfinished folder, which occupies space
            problem = storage_problem(error)
            if problem is None:
                raise
            steps = steps_in(self.directory)
            last = f"The last good checkpoint is step {steps[-1]}" if steps else "No checkpoint has been written yet"
            raise NotSavedError(
                f"Saving a checkpoint failed: {self.directory} {problem}.\n{last}. "
                "Free space or repair the folder, then run the same command again; it resumes from there."
            ) from error

    def restore_training(self, abstract: Any) -> tuple[Checkpoint, Any] | None:
        """Reads the newest intact step that has a training state.

        A damaged step is reported and moved to the folder `damaged`, so that training can save that step again. So are
        those that come after a lost best step, with "rebuild", to the folder `superseded`.

        Args:
            abstract: A pytree with the structure, shapes and dtypes that were saved as `training`.

        Returns:
            The checkpoint and the training state as numpy arrays; None if there is none.

        Raises:
            UserError: If the state is intact but of another structure, or was written by a newer version.
            LostModelError: If the best step so far is damaged or gone, unless `resume` says what to do.
        """
        self.wait()
        for step in reversed(steps_in(self.directory)):
            path = self.directory / str(step)
            try:
                checkpoint, leaves = read_step(path, training=True)
            except DamagedCheckpointError as error:
                logger.warning("%s\nMoved to %s; trying the step before it.", error, self._set_aside(step))
                continue
            if leaves is None:
                continue
            state = restructure(leaves, abstract, path)
            try:
                best = find_best(self.directory, checkpoint)
                self._best = checkpoint.best or (None if best is None else as_best(best))
            except LostModelError as error:
                if self._resume == "auto":
                    raise
                if self._resume == "rebuild":
                    logger.warning("%s\nGoing back to before step %d.", error.problem, step)
                    self._set_aside(step, SUPERSEDED)
                    continue
                self._accept_loss(checkpoint, error)
            return checkpoint, state
        self._best = None
        return None

    def _accept_loss(self, newest: Checkpoint, error: LostModelError) -> None:
        """Takes the best of the intact steps for the best."""
        lost = newest.best
        if lost is not None and (self.directory / str(lost.step)).exists():
            self._set_aside(lost.step)  # kept for its score, it would have the best intact one removed
        facts = metadata_in(self.directory)
        for step in [step for step, found in facts.items() if found is None]:
            self._set_aside(step)
        found = first_intact(self.directory, ranked(scores_in(self.directory)))
        if found is None:
            raise LostModelError(error.folder, f"{error.problem}\nNo other step that has a score is intact.") from error
        logger.warning("%s\nStep %d is taken in its place.", error.problem, found.step)
        score = math.inf if lost is None else lost.score if lost.instead_of is None else lost.instead_of
        self._best = dataclasses.replace(as_best(found), instead_of=score)

    def _set_aside(self, step: int, name: str = DAMAGED) -> Path:
        target = set_aside(self.directory, step, name)
        self._policy.scores.pop(step, None)
        self._manager.reload()
        return target

    def best(self) -> Checkpoint | None:
        """Returns the step with the highest score, the earlier of equals; None if no step has a score.

        Raises:
            LostModelError: It is damaged or gone.
        """
        self.wait()
        if self._best is None:
            return None
        found = intact(self.directory, self._best.step, self._best.weights, "the best")
        return dataclasses.replace(found, best=self._best)

    def latest(self) -> Checkpoint | None:
        """Returns the newest intact step, None if there is none."""
        self.wait()
        return first_intact(self.directory, reversed(steps_in(self.directory)))

    def drop_superseded(self) -> None:
        """Removes the steps that were made again."""
        shutil.rmtree(self.directory / SUPERSEDED, ignore_errors=True)

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError if it failed."""
        with self._reporting():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and ends the background threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> CheckpointStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def load(path: Path, *, which: str = "best") -> Checkpoint:
    """Reads a checkpoint without knowing the shapes in it.

    Args:
        path: A run folder that contains `checkpoints/`, a folder of steps, one step, or a single saved checkpoint.
        which: "best" or "latest", where there are several steps. Of a finished training they are the steps that its
            `trained.json` names; of another one, those that the newest intact step knows of.

    Raises:
        UserError: If nothing intact is found there.
        LostModelError: If it was there and is damaged or gone.
    """
    if which not in ("best", "latest"):
        raise unknown("checkpoint", which, ("best", "latest"))
    folder = Path(path).expanduser().absolute()
    training = training_of(folder)
    if not folder.is_dir() and not (training != folder and training.is_dir()):
        raise _not_found(folder)
    if any((folder / item).exists() for item in ("weights", "metadata", "_CHECKPOINT_METADATA")):
        return read_step(folder)[0]
    if (training / FINISHED).exists():
        facts = finished.read(training)
        assert facts is not None, "it exists"
        return recorded(training / CHECKPOINTS, facts, which)
    if (folder / CHECKPOINTS).is_dir():
        folder = folder / CHECKPOINTS
    if not folder.is_dir():
        raise _not_found(folder)
    steps = steps_in(folder)
    if not steps:
        content = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"No checkpoint in {folder}; it contains: {content}.\n"
            "Give a run folder (with checkpoints/ in it), one of its steps or a saved reduced model."
        )
    newest = first_intact(folder, reversed(steps))
    found = newest if newest is None or which == "latest" else find_best(folder, newest)
    if found is None:
        problem = (
            "is intact. Train again or restore a backup"
            if newest is None
            else "has a score. Ask for 'latest' or one step"
        )
        raise UserError(f"None of the steps {steps} in {folder} {problem}.")
    return found


def best_step(directory: Path) -> int | None:
    """Returns the step of a folder of steps that has the highest score; None if none has one."""
    return next(iter(ranked(scores_in(directory))), None)


def save_single(path: Path, *, weights: Mapping, metadata: Mapping) -> Path:
    """Writes one checkpoint of weights alone, complete or not at all.

    Args:
        path: Its folder; must not exist.
        weights: Nested dicts of arrays with string keys.
        metadata: JSON values.

    Returns:
        The absolute path.

    Raises:
        UserError: If the folder exists, or the disk is full or not writable.
    """
    target = for_checkpoints(Path(path).expanduser().absolute())
    if target.exists():
        raise UserError(f"{target} already exists. Delete it first, or choose another name.")
    sealed, stored = seal(metadata, on_host({"weights": as_nested_dict(weights)}))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(target, args=_composite(sealed, stored))
    except Exception as error:
        for unfinished in target.parent.glob(f"{target.name}.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if (problem := storage_problem(error)) is None:
            raise
        raise NotSavedError(f"Saving {target} failed: {target.parent} {problem}. Free space and try again.") from error
    return target


def _composite(metadata: dict, items: Mapping[str, dict]) -> Any:
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    return ocp.args.Composite(metadata=ocp.args.JsonSave(metadata), **arrays)


def _not_found(path: Path) -> UserError:
    if path.is_file():
        return UserError(
            f"{path} is a file; a checkpoint is a folder. Give its run folder or the folder of a step; a file of other "
            f"code becomes a checkpoint by python -m s5c.convert source={path} out=FOLDER."
        )
    nearest = next(parent for parent in path.parents if parent.is_dir())
    missing = path.relative_to(nearest).parts[0]
    names = nearest_first(missing, [entry.name for entry in nearest.iterdir() if not entry.name.startswith(".")])
    return UserError(f"{path} does not exist. {nearest} contains, nearest first: {', '.join(names[:8]) or 'nothing'}.")
