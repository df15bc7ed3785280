"""The finished parts of a run: each one whole or absent, and known by what it answers.

    reduced/<preset>-<target>/   a saved model (`weights`, `metadata`), its row (`row.json`) and arrays (`arrays.npz`)
    parts/full/                  the unpruned model's row and answers
    parts/ranking/               scores and priorities, which all targets of a run share
    parts/latency/               the times of all networks, measured against each other
    parts/<preset>-<target>/     instead of reduced/..., with reduction.save=false; its model goes when the run ends

A part is written to `.unfinished` and moved to its place in one step (`s5c.atomic`). What is replaced (a part
that older code made, or that is damaged) goes only after that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s5c.atomic import UNFINISHED, put
from s5c.pipeline.provenance import write_json
from s5c.pipeline.question import digest
from s5c.training.checkpoint import load, save_single

log = logging.getLogger(__name__)

REDUCED, PARTS = "reduced", "parts"
FULL, RANKING, LATENCY = "full", "ranking", "latency"
ROW_FILE, ARRAYS_FILE, MODEL = "row.json", "arrays.npz", "model"

DAMAGE = (OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)
"""What reading damaged JSON, arrays or networks raises: a `UserError` of a checkpoint is a `ValueError`."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One finished part.

    Attributes:
        place: its folder.
        identity: checksum of all that it answers.
        row: what is said about it in `rows.jsonl`, or other JSON values.
        arrays: what goes to the arrays beside `rows.jsonl`.
        model: where its network lies; None if it has none (any more).
    """

    place: Path
    identity: str
    row: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    model: Path | None = None


class Parts:
    """The parts of one run folder, whose lock the caller holds.

    Args:
        folder: folder of the run.
        shared: what decides all of its parts (`s5c.pipeline.question.of_part`).
    """

    def __init__(self, folder: Path, shared: Mapping[str, Any]) -> None:
        self.folder = folder
        self._shared = shared
        self._read: dict[Path, Part | None] = {}
        self._outdated: set[Path] = set()
        for left in folder.glob(f"{UNFINISHED}*"):  # of a process that was killed: else it would hold the lock
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def identity(self, part: Any) -> str:
        """Returns the checksum of what a part answers, in JSON values besides what all parts share."""
        return digest({**self._shared, "part": part})

    def place(self, name: str, *, saved: bool = False) -> Path:
        """Returns the folder of a part."""
        return self.folder / (REDUCED if saved else PARTS) / name

    def read(self, place: Path) -> Part | None:
        """Returns the part in a folder, whatever it answers; None if there is none that is whole."""
        if place not in self._read:
            self._read[place] = read(place)
        return self._read[place]

    def find(self, place: Path, part: Any) -> Part | None:
        """Returns a part if it is there, whole, and answers just this."""
        found = self.read(place)
        if found is None or found.identity == self.identity(part):
            return found
        if place not in self._outdated:
            self._outdated.add(place)
            log.warning("%s comes from other weights or from another version of the code: it is made again.", place)
        return None

    def keep(
        self,
        place: Path,
        part: Any,
        row: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        model: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    ) -> Part:
        """Writes a part and moves it to its place.

        Args:
            place: what `place` returned.
            part: what it answers, as given to `find`.
            row: JSON values.
            arrays: by name.
            model: weights and metadata of a network to save with it.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        unfinished, saved = self.folder / UNFINISHED / place.name, None
        facts: dict[str, Any] = {"identity": self.identity(part), "row": dict(row)}
        try:
            if model is not None:
                saved = MODEL if place.parent.name == PARTS else ""
                save_single(unfinished / saved, weights=model[0], metadata=model[1])
                facts |= {"model": saved, "weights": _weights_of(unfinished / saved)}
            unfinished.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(unfinished / ARRAYS_FILE, **arrays)  # type: ignore[arg-type]
            facts = json.loads(json.dumps({**facts, "arrays": _checksum(unfinished / ARRAYS_FILE)}))
            write_json(unfinished / ROW_FILE, {**facts, "checksum": digest(facts)})
            put(unfinished, place)
        finally:
            shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)
        kept = Part(place, facts["identity"], facts["row"], dict(arrays), None if saved is None else place / saved)
        self._read[place] = kept
        return kept

    def drop_models(self) -> None:
        """Removes the networks of parts that were to be saved only until the run ends."""
        away = self.folder / UNFINISHED
        for model in self.folder.glob(f"{PARTS}/*/{MODEL}"):
            away.mkdir(exist_ok=True)
            model.rename(away / model.parent.name)  # a half-removed network would look damaged
        shutil.rmtree(away, ignore_errors=True)


def read(place: Path) -> Part | None:
    """Returns the part in a folder, whatever it answers; None if there is none, or a damaged one, which is said."""
    if not place.is_dir():
        return None
    try:
        facts = json.loads((place / ROW_FILE).read_text("utf-8"))
        if facts.pop("checksum") != digest(facts) or facts["arrays"] != _checksum(place / ARRAYS_FILE):
            raise ValueError("its checksums do not match")
        with np.load(place / ARRAYS_FILE) as stored:
            arrays = dict(stored)
        model = None if facts.get("model") is None else place / facts["model"]
        if model is not None and not model.is_dir():
            model = None  # dropped when the run ended
        if model is not None and _weights_of(model) != facts["weights"]:
            raise ValueError("its weights are not those of its row")
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        # A UserError is a ValueError: of a checkpoint that is damaged or gone.
        log.warning("%s is not whole (%s): it is made again.", place, str(error).splitlines()[0])
        return None
    return Part(place, facts["identity"], facts["row"], arrays, model)


def _weights_of(model: Path) -> str:
    """Returns the checksum of a saved network's weights, after comparing them with it."""
    return load(model).metadata["checksum"]["weights"]


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
