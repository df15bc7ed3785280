"""From a file of other code to a network of s5c: options found, arrays converted, answers compared.

Whether a file was read as its author meant it, only answers can tell: a gate of another kind has the same arrays. So
`check` compares with given ones, and what nobody said is listed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import s5c
from s5c import config as settings
from s5c.errors import UserError
from s5c.locations import given_path
from s5c.model import surgery
from s5c.model.config import ModelConfig
from s5c.model.network import layer_names
from s5c.pipeline import given_answers, portable, recipe
from s5c.pipeline.given_answers import Answers
from s5c.pipeline.provenance import git_revision
from s5c.pipeline.weights import fingerprint
from s5c.ssm.system import DiagonalSSM
from s5c.training.checkpoint import Checkpoint
from s5c.training.facts import Facts
from s5c.upstream import files, network
from s5c.upstream.network import Converted
from s5c.upstream.options import read as read_options

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of two log-probabilities that counts as rounding."""


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A network with what is known of it.

    Attributes:
        converted: the network.
        source: the file or folder.
        container: what it is, in words.
        layout: whose network it is, in words.
        given: options that were given.
        facts: what its card says.
        deviation: largest difference from given answers; None if there were none.
        answers: number of these answers.
    """

    converted: Converted
    source: Path
    container: str
    layout: str
    given: dict[str, Any]
    facts: dict[str, Any]
    deviation: float | None = None
    answers: int = 0

    @property
    def said(self) -> str:
        """Whether answers were compared, in a sentence."""
        if self.deviation is None:
            return (
                "Nothing was checked: give check=FILE.npz with inputs and log_probs of the original network to see "
                "whether what is assumed is right."
            )
        return f"{self.answers} answers of the original agree, to {self.deviation:.2g} at most."


def is_foreign(path: Path) -> bool:
    """Returns whether a path is of a file, or an Orbax folder that no training of s5c wrote."""
    if path.is_file():
        return True
    ours = any((path / name).exists() for name in ("weights", "metadata", "checkpoints", "trained.json"))
    ours |= path.is_dir() and any(path.glob("*/metadata"))  # the steps of one
    return path.is_dir() and not ours and not portable.is_portable(path) and files.is_known(path)


def convert(
    source: Path,
    *,
    given: object = None,
    overrides: Mapping[str, Any] | None = None,
    check: Path | None = None,
    tolerance: float = TOLERANCE,
    layout: str | None = None,
) -> Conversion:
    """Reads a network of other code; writes nothing.

    Args:
        source: file or Orbax folder.
        given: its recipe: a name in conf/experiment, a file of options, options, or a pasted argument line; None for
            what the file says by itself.
        overrides: options that count more than those of the recipe.
        check: `.npz` with `inputs`, `lengths` if some are padded, and `log_probs`.
        tolerance: how far the answers may differ.
        layout: one of `s5c.upstream.layout`; None to tell by the names of the arrays.

    Raises:
        UserError: the file, an option or an answer does not fit.
    """
    found = recipe.read(given)
    answers = None if check is None else given_answers.read(check)
    container, arrays = files.read(source)
    module = network.layout_of(arrays, layout)
    if found.family not in (None, *module.FAMILIES):
        raise UserError(
            f"recipe={given} is of a model of the family {found.family}, and {source} holds one of "
            f"{' or '.join(module.FAMILIES)}: give the recipe of the training that made it."
        )
    chosen = read_options(found.options) | read_options(overrides or {})
    chosen = {key: value for key, value in chosen.items() if key in module.OPTIONS or key not in found.incidental}
    if answers is not None and "tokens" not in chosen and "tokens" in module.OPTIONS:
        chosen["tokens"] = answers.tokens
    converted = exact(module.convert(arrays, chosen))
    deviation = None
    if answers is not None:
        assert check is not None, "they were read"
        answers = answers.fitting(converted.spec)
        deviation = answers.deviation(converted)
        if not deviation <= tolerance:
            raise UserError(_wrong(arrays, module, chosen, converted, answers, deviation, tolerance))
    length = chosen.get("length") or (answers.length if answers is not None else None)
    facts = _facts(converted, found, source.stem, length)
    facts["converted"] = {
        "file": source.name,
        "sha256": _sum(source),
        "container": container,
        "layout": module.TITLE,
        "given": chosen,
        "read": converted.read,
        "assumed": converted.assumed,
        "deviation": deviation,
        "answers": 0 if answers is None else len(answers.log_probs),
    }
    return Conversion(
        converted, source, container, module.TITLE, chosen, settings.jsonable(facts), deviation,
        0 if answers is None else len(answers.log_probs),
    )  # fmt: skip


def exact(found: Converted) -> Converted:
    """Returns a network that multiplies in single precision, in which answers are compared; a GPU else rounds more."""
    return dataclasses.replace(found, config=dataclasses.replace(found.config, precision="float32"))


def loaded(source: Path, given: object, options: Mapping[str, Any], check: Path | None) -> Checkpoint:
    """Returns a network of other code as a checkpoint that is nowhere written; says what nobody has checked.

    Args:
        source: file or Orbax folder.
        given: its recipe.
        options: those that count more.
        check: answers of the original network.
    """
    found = convert(source, given=given, overrides=options, check=check)
    if found.deviation is None:
        assumed = ", ".join(f"{key}={written(value)}" for key, value in found.converted.assumed.items())
        log.warning("%s: %s Assumed: %s.", source, found.said, assumed or "nothing")
    return Checkpoint(found.converted.weights, Facts(found.facts, source), 0, source)


def load_systems(source: str | Path, **options: Any) -> dict[str, DiagonalSSM]:
    """Returns the systems in a file of other code, by the names of their layers, whatever network is around them.

    Args:
        source: a file of layers, such as the state dict of an `S5` or an `S5Block` of s5-pytorch, or of a network.
        options: what the file does not say: `discretisation`, or those of the network.

    Returns:
        Double precision; with a leading axis where a layer has channels.

    Raises:
        UserError: an array or an option does not fit.
    """
    path = given_path(source, "source=")
    _, arrays = files.read(path)
    module, given = network.layout_of(arrays, None), read_options(options)
    if hasattr(module, "systems"):
        return dict(module.systems(arrays, given))
    found = module.convert(arrays, {"tokens": False, **given} if "tokens" in module.OPTIONS else given)
    every = surgery.systems(found.weights["params"], found.config)
    return dict(zip(layer_names(found.config), every, strict=True))


def tolerated(given: Any) -> float:
    """Returns a tolerance, or raises `UserError` unless it is a positive number."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise UserError(f"tolerance={given!r}: give a positive number such as tolerance=1e-4.")
    return float(given)


def write(found: Conversion, folder: Path) -> None:
    """Writes a network as a checkpoint, whole or not at all.

    Raises:
        UserError: something else is there.
    """
    portable.check_free(folder)
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        portable.write(folder, found.converted.weights, {**found.facts, "name": folder.name})
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): give another folder.") from error


def _facts(converted: Converted, found: recipe.Given, name: str, length: int | None) -> dict[str, Any]:
    config: ModelConfig = converted.config
    return {
        "step": 0,
        "name": name,
        "trained_id": f"converted-{fingerprint(converted.weights)}",
        "model": config.to_dict(),
        "state_dims": list(converted.state_dims),
        "input_spec": list(converted.spec),
        "task": found.task,
        "source": None,
        "data": None,
        "vocabulary": None,
        "step_rescale": 1.0,
        "protocol": "validation",
        "selected_on": None,
        "seed": None,
        "recipe": found.training,
        "experiment": None,
        "parent": None,
        "steps": length,
        # Sequences of ids are padded to one length, and what runs backwards starts in the padding.
        "padding": {"lengths": [length], "step": None} if converted.spec.tokens and length else None,
        "s5c": s5c.__version__,
        "git": git_revision(),
    }


def _sum(source: Path) -> str:
    """Returns the SHA-256 of a file, or of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    paths = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for path in paths:
        digest.update(b"" if path == source else path.relative_to(source).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# ---- what is wrong


def _wrong(
    arrays: Mapping[str, Any],
    module: Any,
    chosen: Mapping[str, Any],
    converted: Converted,
    answers: Answers,
    deviation: float,
    tolerance: float,
) -> str:
    """Returns the message for answers that differ, with the options that would make them agree."""
    said = f"The answers differ from those given by up to {deviation:.3g}, and {tolerance:g} is allowed."
    tried = given_answers.Search(arrays, module, chosen, converted, answers)
    fits, nearest = tried.run(tolerance)
    names = ", ".join(tried.names) or "nothing"
    if not fits:
        better = f"; the nearest is {_written(nearest[1])}, off by {nearest[0]:.3g}" if nearest is not None else ""
        return (
            f"{said} No other values of {names}, one or two at a time, make them agree{better}. Either the answers are "
            "not of these weights (before or after some training, of other inputs), or the network has something that "
            "is not among the options."
        )
    (off, changes), *others = fits
    also = f" So does {_written(others[0][1])}." if others else ""
    words = " ".join(f"options.{key}={written(value)}" for key, value in changes.items())
    return f"{said} With {_written(changes)} they agree to {off:.2g}.{also} Nothing was written: add {words}"


def _written(changes: Mapping[str, Any]) -> str:
    return " and ".join(f"{key}={written(value)}" for key, value in changes.items())


def written(value: Any) -> str:
    """Returns a value as the command line takes it."""
    return str(value).lower() if isinstance(value, bool) else re.sub(r"\.0$", "", str(value))
