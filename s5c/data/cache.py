"""Prepared data on disk: plain arrays, memory-mapped when read, and a manifest that says what they are.

An entry is a folder `<data directory>/prepared/<set>/<key>`, whose key is a checksum of the raw data and of everything
done to it. It is written beside its place and renamed when it is whole, so a half-written one is never found.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from s5c.data.ragged import Ragged
from s5c.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
"""Raised when the layout of entries changes; others are ignored."""

KEYS = {*("format", "set", "version", "options", "kind", "source", "raw_sha256", "place", "stamp", "facts", "arrays")}
"""Of a manifest, besides its checksum."""

ALWAYS_VERIFIED = 2**28
"""Bytes up to which the checksums of an entry are compared at every start: about 0.3 s. Larger ones on request."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Prepared data.

    Attributes:
        folder: where it lies.
        manifest: what it is.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """What the preparation found out besides arrays: vocabulary, counts."""
        return self.manifest["facts"]

    @property
    def source(self) -> str:
        """Where the data came from, in words."""
        return self.manifest["source"]

    @functools.cached_property
    def checksum(self) -> str:
        """Checksum of all arrays and facts."""
        content = [self.manifest[key] for key in ("set", "version", "options", "facts", "arrays")]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["arrays"]

    def array(self, name: str) -> np.ndarray:
        """Returns an array, memory-mapped and read-only."""
        facts = self.manifest["arrays"][name]
        return np.memmap(self.folder / name, np.dtype(facts["dtype"]), "r", shape=tuple(facts["shape"]))

    def labels(self, split: str) -> np.ndarray:
        """Returns the classes of a split."""
        return self.array(f"{split}.labels").astype(np.int32)

    def ragged(self, split: str, length: int) -> Ragged:
        """Returns the sequences of a split that `Writer.sequences` wrote, to be padded to `length`."""
        lengths = np.asarray(self.array(f"{split}.lengths"), np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return Ragged(self.array(f"{split}.inputs"), offsets, length)

    def verify(self, *, thoroughly: bool) -> None:
        """Compares the files with the manifest: sizes, and checksums if they are small or if asked to.

        Raises:
            UserError: a file is missing or differs.
        """
        arrays = self.manifest["arrays"]
        sizes = {name: _nbytes(facts) for name, facts in arrays.items()}
        thoroughly = thoroughly or sum(sizes.values()) <= ALWAYS_VERIFIED
        for name, facts in arrays.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != sizes[name]:
                wrong = f"has {path.stat().st_size} bytes instead of {sizes[name]}" if path.is_file() else "is missing"
            elif thoroughly and _checksum(path) != facts["sha256"]:
                wrong = "does not have the checksum it was written with"
            else:
                continue
            raise UserError(
                f"The prepared data is damaged: {path} {wrong}.\nRemove the folder {self.folder}; the next start "
                "prepares it again."
            )


class Writer:
    """Arrays in the making: each grows by chunks along its first axis, straight to disk."""

    def __init__(self, folder: Path) -> None:
        self.facts: dict[str, Any] = {}
        self.raw = hashlib.sha256()
        self.folder = folder
        self._arrays: dict[str, dict[str, Any]] = {}
        self._sums: dict[str, Any] = {}

    def add(self, name: str, chunk: np.ndarray) -> None:
        """Appends to an array.

        Args:
            name: `<split>.inputs`, `<split>.labels` and so on.
            chunk: an array with the dtype and the trailing shape of all other chunks.
        """
        chunk = np.ascontiguousarray(chunk)
        facts = self._arrays.setdefault(name, {"dtype": chunk.dtype.str, "shape": [0, *chunk.shape[1:]]})
        if (facts["dtype"], facts["shape"][1:]) != (chunk.dtype.str, list(chunk.shape[1:])):
            raise ValueError(f"{name} is {facts}, a chunk of it {chunk.dtype.str} {chunk.shape}")
        facts["shape"][0] += len(chunk)
        self._sums.setdefault(name, hashlib.sha256()).update(chunk.data.cast("B") if chunk.size else b"")
        with (self.folder / name).open("ab") as file:
            file.write(chunk.data.cast("B") if chunk.size else b"")  # tofile says not why it failed

    def sequences(self, split: str, flat: np.ndarray, lengths: np.ndarray) -> None:
        """Appends sequences of different lengths, given end to end."""
        self.add(f"{split}.inputs", flat)
        self.add(f"{split}.lengths", lengths.astype(np.int32))

    def labels(self, split: str, labels: Sequence[int] | np.ndarray, *, classes: int, where: object = "") -> None:
        """Appends classes, after checking them.

        Raises:
            UserError: a label that is not 0 .. classes - 1; `where` says which file has it.
        """
        numbers = np.asarray(labels, np.int64)
        if len(wrong := np.flatnonzero((numbers < 0) | (numbers >= classes))):
            raise UserError(
                f"{where or split}: example {wrong[0] + 1} has label {numbers[wrong[0]]}; allowed are 0 to "
                f"{classes - 1}. The data is damaged or of another set."
            )
        self.add(f"{split}.labels", numbers.astype(np.uint8))

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Returns what was written, for the manifest."""
        return {name: {**facts, "sha256": self._sums[name].hexdigest()} for name, facts in self._arrays.items()}


@dataclasses.dataclass(frozen=True)
class Shelf:
    """All entries of one set of raw data, prepared in one way.

    Attributes:
        root: the data directory.
        name: the set.
        version: version of the preparation; raised when its code changes what it writes.
        options: options of the preparation, all that change what it writes.
    """

    root: Path
    name: str
    version: int
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the entries of this set lie, however prepared."""
        return self.root / "prepared" / self.name

    def find(self, kind: str, stamp: str | None = None) -> Entry | None:
        """Returns the newest entry made from a kind of source, and, with `stamp`, from files with that stamp."""
        wanted = {**self._description(), "kind": kind, **({} if stamp is None else {"stamp": stamp})}
        found = []
        for path in self.folder.glob(f"*/{MANIFEST}"):
            manifest = _manifest(path)
            if manifest is not None and all(manifest.get(key) == value for key, value in wanted.items()):
                found.append((path.stat().st_mtime, path.parent, manifest))
        return Entry(*max(found, key=lambda item: item[:2])[1:]) if found else None

    def damaged(self) -> list[str]:
        """Returns a line for each entry whose manifest is damaged."""
        paths = sorted(path for path in self.folder.glob(f"*/{MANIFEST}") if _manifest(path) is None)
        return [f"{path} is damaged; what lies beside it is not used." for path in paths]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from preparing this set; the system frees the lock of a process that dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            for left in self.folder.glob("*.part"):  # of a process that was killed, or it would hold the lock
                shutil.rmtree(left)
            yield

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Gives a writer whose files vanish unless `keep` takes them. Only under `locked`."""
        part = self.folder / f"{os.getpid()}.part"
        part.mkdir()
        try:
            yield Writer(part)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def keep(self, writer: Writer, *, kind: str, source: str, place: str, stamp: str) -> Entry:
        """Makes what was written an entry, or refreshes the stamp of an entry with the same content.

        Args:
            writer: holds the arrays.
            kind: files | tfds | generated.
            source: in words.
            place: the raw data.
            stamp: tells cheaply whether `place` has changed since.
        """
        manifest = {
            **self._description(),
            "kind": kind,
            "source": source,
            "raw_sha256": writer.raw.hexdigest(),
            "place": place,
            "stamp": stamp,
            "facts": writer.facts,
            "arrays": writer.arrays(),
        }
        manifest = json.loads(json.dumps(manifest))
        manifest["sha256"] = _own_checksum(manifest)
        (writer.folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        final = self.folder / _folder_name(manifest)
        if final.exists():
            (writer.folder / MANIFEST).replace(final / MANIFEST)
        else:
            writer.folder.replace(final)
        return Entry(final, manifest)

    def _description(self) -> dict[str, Any]:
        description = {"format": FORMAT, "set": self.name, "version": self.version, "options": dict(self.options)}
        return json.loads(json.dumps(description))


def _manifest(path: Path) -> dict[str, Any] | None:
    """Returns what a manifest says, or None if it is damaged.

    It carries a checksum of itself. Those of versions before that are checked by the name of their folder.
    """
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if "sha256" in manifest:
            sound = manifest["sha256"] == _own_checksum(manifest)
        else:
            sound = set(manifest) == KEYS and path.parent.name == _folder_name(manifest)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return manifest if sound else None


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _folder_name(manifest: Mapping[str, Any]) -> str:
    key = [manifest[name] for name in ("version", "options", "kind", "raw_sha256", "arrays", "facts")]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _nbytes(facts: Mapping[str, Any]) -> int:
    return int(np.prod(facts["shape"], dtype=np.int64)) * np.dtype(facts["dtype"]).itemsize


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
