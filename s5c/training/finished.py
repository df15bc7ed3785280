"""`trained.json`: says that a training is finished, and which of its steps is the model.

    {"seconds": ..., "best_epoch": ..., "selection_accuracy": ..., "environment": {...},
     "best": {"step": ..., "score": ..., "weights": SHA-256}, "latest": {...}, "checksum": SHA-256 of all others}

Files written before `best`, `latest` and `checksum` were added say it by epoch and accuracy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5c.atomic import write_text
from s5c.errors import UserError
from s5c.training.folder import FINISHED
from s5c.training.integrity import metadata_digest

RESUME = ("auto", "rebuild", "best_intact")
"""What to do where the step that a training is known by is lost: refuse, train it again, take another one."""

_OF_OLD = ("seconds", "best_epoch", "selection_accuracy", "environment")


class LostModelError(UserError):
    """The step that a training is known by is damaged or gone; any other would be another model under its name.

    Attributes:
        folder: folder of the training.
        problem: what is damaged, in a sentence.
    """

    def __init__(self, folder: Path, problem: str, command: str | None = None) -> None:
        self.folder, self.problem = folder, problem
        given = _command_of(folder) if command is None else command
        bare = re.sub(r"\s'?resume=[^\s']*'?", "", given or "the command of the training,")
        again = f"{bare} resume="
        super().__init__(
            f"{problem}\nAnother step would be another model under the same name, so none is taken. Choose:\n"
            f"  {again}rebuild\n"
            "    goes back to the newest intact step from which the lost one can be made again, and trains from there\n"
            f"  {again}best_intact\n"
            "    takes the best step that is still there; its results are marked as those of another model\n"
            f"  or copy {folder} from a backup."
        )


def read(folder: Path, name: str = FINISHED) -> dict[str, Any] | None:
    """Returns what `write` wrote, without the checksum; None if the training is not finished.

    Args:
        folder: folder of the training.
        name: name of the file.

    Raises:
        LostModelError: the file is not what was written.
    """
    path = folder / name
    try:
        facts = json.loads(path.read_text("utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("it holds no JSON object")
        checksum = facts.pop("checksum", None)
        if checksum is None and (missing := [key for key in _OF_OLD if key not in facts]):
            raise ValueError(f"it lacks {', '.join(missing)}")
        if checksum is None and "best" in facts:
            raise ValueError("it lacks its checksum")
        if checksum is not None and checksum != metadata_digest(facts):
            raise ValueError("it does not match its checksum")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise UserError(
            f"{path} is a folder, where the file should be that says what step of this training is the model. Move it "
            "away, or copy the file from a backup, and run the same command again."
        ) from None
    except ValueError as error:
        raise LostModelError(
            folder, f"{path}, which says what step of this finished training is the model, is damaged: {error}."
        ) from error
    return facts


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes `trained.json`, complete or not at all.

    Args:
        folder: folder of the training.
        facts: JSON values.
    """
    sealed = json.loads(json.dumps(dict(facts), default=str))
    text = json.dumps({**sealed, "checksum": metadata_digest(sealed)}, indent=2)
    write_text(folder / FINISHED, f"{text}\n")


def _command_of(folder: Path) -> str | None:
    """Returns the command a training was made with, as far as its files still tell."""
    for name in (FINISHED, "environment.json"):
        try:
            facts = json.loads((folder / name).read_text("utf-8"))
            command = facts.get("environment", facts)["command"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(command, str) and command.startswith("python "):
            return command
    return None
