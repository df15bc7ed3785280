"""Checkpoints: the best and the latest steps of a run, and single ones for deployment.

Every checkpoint is one Orbax folder with the items `weights`, `metadata` (JSON) and, during training, `training`
(optimizer state and the like). Weights are read back without knowing their shapes, on any device.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import orbax.checkpoint as ocp

from s5c.errors import UserError, nearest_first, unknown
from s5c.training.integrity import (
    DamagedCheckpointError,
    NotSavedError,
    as_nested_dict,
    check_items,
    check_metadata,
    migrate,
    named_leaves,
    on_host,
    restructure,
    seal,
    storage_problem,
)

logger = logging.getLogger(__name__)


def _worth_showing(record: logging.LogRecord) -> bool:
    """Drops Orbax's progress reports, and its tracebacks of errors that are raised here anyway."""
    return "orbax" not in record.pathname or (record.levelno >= logging.WARNING and not record.exc_info)


logging.getLogger("absl").addFilter(_worth_showing)


@dataclass(frozen=True)
class Checkpoint:
    """One intact checkpoint.

    Attributes:
        weights: Nested dicts of numpy arrays, by collection: "params" and, if any, "batch_stats".
        metadata: What was saved beside them, with "schema", "checksum", "step" and "score" added.
        step: Training step; 0 for a single checkpoint whose metadata has none.
        path: Its folder.
    """

    weights: dict[str, Any]
    metadata: dict[str, Any]
    step: int
    path: Path


@runtime_checkable
class _Numbered(Protocol):
    @property
    def step(self) -> int: ...


@dataclass
class _LatestAndBest:
    """Keeps the newest steps and the best one, the earlier of equals.

    Orbax's `BestN` keeps the later of equal scores, gives NaN an arbitrary rank and needs a metrics item of its own.
    """

    keep_latest: int
    scores: dict[int, float | None]

    def should_preserve(self, checkpoints: Sequence[_Numbered], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.keep_latest :], *_ranked({step: self.scores.get(step) for step in steps})[:1]}
        return [step in kept for step in steps]


class CheckpointStore:
    """The checkpoints of one training run: a folder of steps, written in the background.

    One process at a time may hold a store; readers use `load`. Opening it removes what an interrupted save left.

    Args:
        directory: Folder of the steps, created if missing.
        keep_latest: How many of the newest steps to keep beside the best one. With 1, damage to the newest step
            loses the training state.
    """

    def __init__(self, directory: Path, *, keep_latest: int = 2) -> None:
        if keep_latest < 1:
            raise UserError(f"keep_latest is {keep_latest}; at least 1 checkpoint must be kept to resume from.")
        self.directory = Path(directory).absolute()
        self._keep_latest = keep_latest
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot create the checkpoint folder {self.directory}: {error.strerror}.") from error
        self._open()

    def _open(self) -> None:
        self._policy = _LatestAndBest(self._keep_latest, _scores(self.directory))
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
        sealed, stored = seal({**metadata, "step": int(step), "score": score}, on_host(items))
        with self._reporting():
            self._policy.scores[step] = score
            self._manager.save(step, args=_composite(sealed, stored), force=True)
            if wait:
                self._manager.wait_until_finished()

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
            steps = _steps(self.directory)
            last = f"The last good checkpoint is step {steps[-1]}" if steps else "No checkpoint has been written yet"
            raise NotSavedError(
                f"Saving a checkpoint failed: {self.directory} {problem}.\n{last}. "
                "Free space or repair the folder, then run the same command again; it resumes from there."
            ) from error

    def restore_training(self, abstract: Any) -> tuple[Checkpoint, Any] | None:
        """Reads the newest intact step that has a training state.

        A damaged step is reported and moved to the folder `damaged`, so that training can save that step again.

        Args:
            abstract: A pytree with the structure, shapes and dtypes that were saved as `training`.

        Returns:
            The checkpoint and the training state as numpy arrays; None if there is none.

        Raises:
            UserError: If the state is intact but of another structure, or was written by a newer version.
        """
        self.wait()
        for step in reversed(_steps(self.directory)):
            path = self.directory / str(step)
            try:
                checkpoint, leaves = _read(path, training=True)
            except DamagedCheckpointError as error:
                logger.warning("%s\nMoved to %s; trying the step before it.", error, self._set_aside(step))
                continue
            if leaves is not None:
                return checkpoint, restructure(leaves, abstract, path)
        return None

    def _set_aside(self, step: int) -> Path:
        folder = self.directory / "damaged"
        folder.mkdir(exist_ok=True)
        number = sum(1 for entry in folder.iterdir() if entry.name.split("-")[0] == str(step))
        target = (self.directory / str(step)).rename(folder / (f"{step}-{number}" if number else str(step)))
        self._policy.scores.pop(step, None)
        self._manager.reload()
        return target

    def best(self) -> Checkpoint | None:
        """Returns the intact step with the highest score, the earlier of equals; None if no step has a score."""
        self.wait()
        return _first_intact(self.directory, _ranked(_scores(self.directory)))

    def latest(self) -> Checkpoint | None:
        """Returns the newest intact step, None if there is none."""
        self.wait()
        return _first_intact(self.directory, reversed(_steps(self.directory)))

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
        which: "best" or "latest", where there are several steps.

    Raises:
        UserError: If nothing intact is found there.
    """
    if which not in ("best", "latest"):
        raise unknown("checkpoint", which, ("best", "latest"))
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise _not_found(folder)
    if (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    if any((folder / item).exists() for item in ("weights", "metadata", "_CHECKPOINT_METADATA")):
        return _read(folder)[0]
    steps = _steps(folder)
    if not steps:
        content = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"No checkpoint in {folder}; it contains: {content}.\n"
            "Give a run folder (with checkpoints/ in it), one of its steps or a saved reduced model."
        )
    order = _ranked(_scores(folder)) if which == "best" else list(reversed(steps))
    found = _first_intact(folder, order)
    if found is None:
        problem = "is intact. Train again or restore a backup" if order else "has a score. Ask for 'latest' or one step"
        raise UserError(f"None of the steps {steps} in {folder} {problem}.")
    return found


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
    target = Path(path).expanduser().absolute()
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


def _steps(directory: Path) -> list[int]:
    """Lists finished steps in ascending order; unfinished ones have other names."""
    return sorted(int(entry.name) for entry in directory.glob("*") if entry.name.isdigit() and entry.is_dir())


def _ranked(scores: Mapping[int, float | None]) -> list[int]:
    """Returns the steps that have a score, best first, the earlier of equals first."""
    comparable = {step: score for step, score in scores.items() if score is not None and not math.isnan(score)}
    return sorted(comparable, key=lambda step: (-comparable[step], step))


def _scores(directory: Path) -> dict[int, float | None]:
    scores = {}
    for step in _steps(directory):
        with contextlib.suppress(DamagedCheckpointError):  # reported when the step itself is read
            scores[step] = migrate(_read_metadata(directory / str(step))).get("score")
    return scores


def _first_intact(directory: Path, steps: Iterable[int]) -> Checkpoint | None:
    for step in steps:
        try:
            return _read(directory / str(step))[0]
        except DamagedCheckpointError as error:
            logger.warning("%s\nTrying the next one.", error)
    return None


def _restore(path: Path, **items: Any) -> Any:
    """Reads items of a checkpoint folder; any failure inside Orbax means damage, except lack of memory or rights."""
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(**items))
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        raise DamagedCheckpointError(path, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error


def _read_metadata(path: Path) -> dict:
    return check_metadata(_restore(path, metadata=ocp.args.JsonRestore()).metadata, path)


def _read(path: Path, *, training: bool = False) -> tuple[Checkpoint, dict | None]:
    """Reads and verifies the weights and, if asked for and saved, the training item by leaf name."""
    metadata = _read_metadata(path)
    names = ["weights", "training"] if training and "training" in metadata["checksum"] else ["weights"]
    restored = _restore(path, **{name: ocp.args.StandardRestore() for name in names})
    checked = check_items(metadata, {name: restored[name] for name in names}, path)
    migrated = migrate(metadata)
    return Checkpoint(checked["weights"], migrated, migrated.get("step") or 0, path), checked.get("training")


def _not_found(path: Path) -> UserError:
    if path.is_file():
        return UserError(f"{path} is a file; a checkpoint is a folder. Give its run folder or the folder of a step.")
    nearest = next(parent for parent in path.parents if parent.is_dir())
    missing = path.relative_to(nearest).parts[0]
    names = nearest_first(missing, [entry.name for entry in nearest.iterdir() if not entry.name.startswith(".")])
    return UserError(f"{path} does not exist. {nearest} contains, nearest first: {', '.join(names[:8]) or 'nothing'}.")
