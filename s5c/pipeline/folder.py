"""The folder of a run: one per question, found again by the same question, held by one process at a time.

    results/<name>/<readable part>-<checksum of the question>

The readable part says how the command was spelled that came first; only the checksum is looked up. A folder appears
once a command has been accepted, and goes again if it is refused later with nothing in it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from s5c.errors import UserError
from s5c.pipeline.provenance import read_json, write_json
from s5c.pipeline.question import digest
from s5c.training.exclusive import alone_in, exclusive
from s5c.training.integrity import NotSavedError

IDENTITY = "identity.json"
"""Marks a run folder: its question, and the checksum of that."""

LENGTHS = (8, 16, 64)
"""Of the checksum in a name; the next one where a folder with that checksum belongs to another question."""

RESERVED = ("trained", "zoo", "published")
"""Folders of the results that hold other things than runs."""

ABANDONED = 60
"""Seconds after which nobody is making a folder any more, which takes milliseconds."""

RESULTS = ("rows.jsonl", "reduced", "finetuned", "parts/search.json")
"""What a folder is kept for when its command is refused after all."""


def check_name(given: object) -> str:
    """Returns the name of an experiment.

    Raises:
        UserError: it would lead out of the results folder, or to what is no run.
    """
    name = "" if given is None else str(given)
    parts = name.split("/")
    plain = all(re.fullmatch(r"[^\x00-\x1f\x7f\\:*?\"<>|]+", part) and part.strip(". ~") for part in parts)
    if not plain or max(len(part.encode()) for part in parts) > 200 or parts[0].lower() in RESERVED:
        raise UserError(
            f"name={name!r} cannot name a folder of results: use letters, digits, '_', '-' and '.', and '/' for a "
            f"folder in another; {', '.join(RESERVED)} hold other things. results_dir=... says where all of them are."
        )
    return name


def readable(label: str, overrides: str) -> str:
    """Returns the part of a folder's name that is for people: ASCII, and short enough for every file system.

    Args:
        label: what the checkpoint is called; "" for a training.
        overrides: what `s5c.cli.run_name` returned.
    """
    label = re.sub(r"[^\w.+-]+", "-", label, flags=re.ASCII).strip("-.")[:60]
    return "+".join(part for part in (label, overrides if not label or overrides != "run" else "") if part)


def label_of(checkpoint: str) -> str:
    """Returns what a checkpoint is called in names of folders: its own name, or that of the training of a step."""
    path = Path(checkpoint.removeprefix("zoo:")).absolute()
    step = f"-step{path.name}" if path.name.isdigit() else ""
    path = path.parent if step else path
    return (path.parent if path.name == "checkpoints" else path).name + step


def belonging(checkpoint: Path) -> Iterator[Path]:
    """Yields the folders that a checkpoint is part of: its own, and the training of a step."""
    yield checkpoint
    if checkpoint.parent.name == "checkpoints":
        yield checkpoint.parents[1]


@contextmanager
def opened(
    base: Path,
    name: str,
    question: Mapping[str, Any],
    *,
    inputs: Sequence[Path] = (),
    exact: Path | None = None,
) -> Iterator[Path]:
    """Gives the folder of a question, with its lock held.

    Args:
        base: folder of the experiment.
        name: readable part of the folder's name, if there is none yet.
        question: what `s5c.pipeline.question.ask` returned.
        inputs: folders that are read: nothing is written there.
        exact: the folder to take, if somebody has chosen one.

    Raises:
        UserError: the chosen folder belongs to another question, or the folder would be inside an input.
    """
    mine = {"digest": digest(question), "question": question}
    above = [path for path in (base, *base.parents) if not path.exists()]
    inputs = [path.resolve() for path in inputs]
    for folder in inputs:
        if (exact or base).resolve().is_relative_to(folder):
            raise UserError(
                f"Results would go to {exact or base}, inside {folder}, which is what is read. Choose another place "
                "with results_dir=... or name=..."
            )
    with ExitStack() as held:
        while True:
            folder = _reserved(base, name, mine, inputs) if exact is None else _taken(exact, mine)
            try:
                held.enter_context(exclusive(folder, "is at work here", mark=IDENTITY))
                break
            except FileNotFoundError:  # the process that held it was refused its command
                continue
        try:
            yield folder
        except NotSavedError:
            raise
        except UserError:
            if not any((folder / result).exists() for result in RESULTS):
                _remove(folder, above)
            raise


def _reserved(base: Path, name: str, mine: Mapping[str, Any], inputs: Sequence[Path]) -> Path:
    """Returns the folder of a question below `base`: the one that is there, or a new one."""
    base.mkdir(parents=True, exist_ok=True)
    with alone_in(base):
        for left in base.glob(".*.unfinished"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)
        for length in LENGTHS:
            ending = mine["digest"][:length]
            found = sorted(path for path in base.glob(f"*-{ending}") if path.is_dir())
            if not found:
                folder = base / f"{name}-{ending}"
                unfinished = base / f".{ending}-{os.getpid()}.unfinished"
                write_json(unfinished / IDENTITY, mine)
                unfinished.rename(folder)
                return folder
            for folder in found:
                inside = any(path.is_relative_to(folder.resolve()) for path in inputs)
                if read_json(folder / IDENTITY).get("digest") == mine["digest"] and not inside:
                    return folder
    raise UserError(f"{base} has a folder for this question that cannot be used: {found[0]}. Move it away.")


def _taken(exact: Path, mine: Mapping[str, Any]) -> Path:
    """Returns a folder that somebody has chosen, if it is empty or belongs to the question."""
    exact.mkdir(parents=True, exist_ok=True)
    with alone_in(exact):
        if not any(exact.iterdir()):
            write_json(exact / IDENTITY, mine)
        if read_json(exact / IDENTITY).get("digest") == mine["digest"]:
            return exact
    raise UserError(
        f"{exact} holds something else than the results of this command. Choose an empty folder, or leave the choice "
        "to s5c, which takes one per question."
    )


def _remove(folder: Path, above: Sequence[Path]) -> None:
    """Removes a folder without results, and those above it that were made for it."""
    away = folder.with_name(f".{folder.name[-8:]}-{os.getpid()}.unfinished")
    folder.rename(away)  # in one step, so that whoever waits for the lock does not go on in half a folder
    shutil.rmtree(away, ignore_errors=True)
    for path in above:
        try:
            path.rmdir()
        except OSError:
            return
