"""Where a task's data can come from, which of it is there, and what to say if nothing is.

A task lists its origins in order of preference: the published files, a data set that TFDS has prepared, a generator.
`Located.obtain` takes the first that is at hand, prepares it once, and returns the entry of the cache.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s5c.data.cache import Entry, Shelf, Writer
from s5c.data.source import archive, download
from s5c.data.source.folder import UnreadableError, contents, find_file, is_clutter
from s5c.errors import UserError, unknown
from s5c.locations import data_dir

log = logging.getLogger(__name__)

PLACE_KEYS = ("data_dir", "cache_dir", "download", "verify")
"""Keys of a task that say where its data lies, and never what it is; they do not enter a training's identity."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, a quota or a limit that leaves no room."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """One way to the data of a task.

    Attributes:
        kind: files | tfds | generated.
        title: what is looked for, or made, in a few words; the help on missing data prints it.
        build: writes the arrays from the data at a place; returns the source in words.
        find: the place of the data in a folder, or None if it is not there; None for generators, which need no data.
        names: files and folders at the place whose sizes and times tell whether it has changed, or a function that
            returns them; all if empty.
        archives: names of the published archives; found ones are unpacked, as is any file that is given for a folder.
        part: the folder that is taken from an archive which holds more; all of it if empty.
        tfds: data set of TFDS that this is, or whose download consists of these files.
    """

    kind: str
    title: str
    build: Callable[[Path, Writer], str]
    find: Callable[[Path], Path | None] | None = None
    names: tuple[str, ...] | Callable[[Path], tuple[str, ...]] = ()
    archives: tuple[str, ...] = ()
    part: str = ""
    tfds: str | None = None

    def place(self, folder: Path) -> Path | None:
        """Returns where the data lies in a folder; unpacks an archive if that is all there is."""
        if self.find is None:
            return folder
        if found := self.find(folder):
            return found
        for packed in [folder] if folder.is_file() else [folder / name for name in self.archives]:
            if self.archives and packed.is_file() and (found := self.find(archive.unpack(packed, self.part))):
                return found
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Located:
    """The keys of every task whose data does not ship with s5c.

    Attributes:
        source: auto (what is there: files, then tfds, then generated) | files | tfds | generated.
        data_dir: folder with the published files or with TFDS's; null: the data directory, `$S5C_DATA` or ~/.cache/s5c.
        cache_dir: folder for downloads and prepared arrays; null: the data directory.
        download: fetch what TFDS knows the address of, if nothing is there.
        verify: compare the checksums of prepared arrays of any size, not only of small ones.
    """

    source: str = "auto"
    data_dir: str | None = None
    cache_dir: str | None = None
    download: bool = True
    verify: bool = False

    @property
    def root(self) -> Path:
        """The data directory."""
        return Path(self.cache_dir).expanduser().absolute() if self.cache_dir else data_dir()

    def obtain(self, task: str, shelf: tuple[str, int, Mapping[str, Any]], origins: Sequence[Origin]) -> Entry:
        """Returns the prepared data, preparing it if need be.

        Args:
            task: named in messages.
            shelf: name of the raw data, version and options of its preparation. Tasks that share them share entries.
            origins: in order of preference.

        Raises:
            UserError: there is no data, or it is damaged.
        """
        kinds = [origin.kind for origin in origins]
        if self.source not in ("auto", *kinds):
            raise unknown("value for task.source", self.source, ("auto", *kinds))
        allowed = [origin for origin in origins if self.source in ("auto", origin.kind)]
        try:
            entry = _Search(self, task, Shelf(self.root, *shelf), allowed).run()
            entry.verify(thoroughly=self.verify)
        except OSError as error:
            raise UserError(f"The data of task {task} is not ready: {self._obstacle(error)}") from error
        log.info("Data of %s: %s [%s]", task, entry.source, entry.folder)
        return entry

    def _obstacle(self, error: OSError) -> str:
        """Returns what an error of the system means while data is read and prepared, and what to do."""
        where = str(error.filename or self.root)
        needed = "Make room there" if error.errno in FULL else "Make it readable, and writable where s5c prepares data"
        return (
            f"{error.strerror or error}: {where}.\n{needed}, or choose other folders: task.data_dir=FOLDER for raw "
            "data, task.cache_dir=FOLDER or S5C_DATA=FOLDER for what is prepared. Nothing half-written is kept; run "
            "the same command again."
        )


@dataclasses.dataclass(frozen=True)
class _Search:
    located: Located
    task: str
    shelf: Shelf
    origins: Sequence[Origin]
    obstacles: list[str] = dataclasses.field(default_factory=list)

    def run(self) -> Entry:
        for line in self.shelf.damaged():
            log.warning("%s", line)
        given = self.located.data_dir
        folder = Path(given).expanduser().absolute() if given else self.located.root
        if given and not folder.exists():
            raise UserError(f"task.data_dir={given}: there is no folder and no file {folder}.")
        for origin in self.origins:
            for searched in [folder] if given else self._folders(origin):
                if origin.find is not None and (place := self._place(origin, searched)) is not None:
                    return self._prepared(origin, place)
        if given and any(origin.find is not None for origin in self.origins):
            raise UserError(
                f"task.data_dir={given} does not hold the data of task {self.task}: {contents(folder)}.\n"
                f"{self._wanted(folder)}\nGive the folder of the right set, or leave task.data_dir out."
            )
        for origin in self.origins:
            if (entry := self.shelf.find(origin.kind)) is not None:
                return entry  # the raw data is gone, what was made of it is here
        return self._fetched(folder)

    def _place(self, origin: Origin, folder: Path) -> Path | None:
        """Returns where the data lies in a folder; data that cannot be taken is noted, and the search goes on."""
        try:
            return origin.place(folder)
        except UnreadableError as error:
            log.warning("%s", error)
            self.obstacles.extend(str(error).splitlines())
            return None

    def _folders(self, origin: Origin) -> list[Path]:
        """Returns where data is looked for if no folder is given."""
        folders = [self.located.root]
        if origin.kind == "tfds":
            folders += [
                folders[0] / "tfds",
                Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser(),
            ]
        elif origin.tfds is not None:
            folders.append(download.folder_of(origin.tfds, folders[0]))
        return folders

    def _fetched(self, folder: Path) -> Entry:
        """Generates the data, or downloads it, or explains."""
        why = "Nothing downloads it: TFDS does not have it, or task.source=tfds asks for what TFDS has prepared."
        for origin in self.origins:
            if origin.find is None:
                return self._prepared(origin, folder)
            if origin.kind == "files" and origin.tfds is not None:
                why = "Not downloaded: task.download=false."
                if self.located.download:
                    obstacle = download.fetch(origin.tfds, self.located.root)
                    for searched in self._folders(origin) if obstacle is None else []:
                        if (place := self._place(origin, searched)) is not None:
                            return self._prepared(origin, place)
                    why = f"Not downloaded: {obstacle or 'what came is not the expected set.'}"
        raise UserError(self._help(folder, why))

    def _prepared(self, origin: Origin, place: Path) -> Entry:
        stamp = "" if origin.find is None else _stamp(place, origin.names)
        entry = self.shelf.find(origin.kind, stamp)
        if entry is not None:
            return entry
        with self.shelf.locked():
            entry = self.shelf.find(origin.kind, stamp)  # made by the process that held the lock
            if entry is not None:
                return entry
            verb = "Generating" if origin.find is None else "Preparing"
            where = self.shelf.folder if origin.find is None else f"{place} -> {self.shelf.folder}"
            log.info("%s %s, once: %s", verb, origin.title, where)
            with self.shelf.writer() as writer:
                source = origin.build(place, writer)
                return self.shelf.keep(writer, kind=origin.kind, source=source, place=str(place), stamp=stamp)

    def _wanted(self, folder: Path) -> str:
        lines = []
        for origin in self.origins:
            if origin.find is not None:
                packed = f" (or {', '.join(origin.archives)})" if origin.archives else ""
                lines.append(f"  {origin.title}{packed}: none in {folder}")
        lines += [f"  {obstacle}" for obstacle in (*self.obstacles, *self.shelf.damaged())]
        return "Looked for:\n" + "\n".join(lines)

    def _help(self, folder: Path, why: str) -> str:
        root, task = self.located.root, self.task
        ways = []
        files = [origin for origin in self.origins if origin.kind == "files"]
        if files:
            packed = "".join(f", or the archive {name}," for origin in files for name in origin.archives[:1])
            ways.append(
                f"Published files: put {files[0].title}{packed} into\n       {root}\n"
                f"     or say where they are:  task.data_dir=/path/to/it"
            )
        if any(origin.kind == "files" and origin.tfds for origin in self.origins):
            ways.append(f"Download: on a connected machine  python -m s5c.data prepare task={task}\n     fills {root}")
        for origin in self.origins:
            if origin.kind == "tfds":
                build = f"tfds build {origin.tfds} --file_format=array_record --data_dir={root / 'tfds'}"
                ways.append(f"TFDS, on a machine with TensorFlow:\n       {build}")
        ways.append(
            f"A machine that has them prepared: copy its folder {self.shelf.folder.relative_to(root)} to\n"
            f"       {self.shelf.folder}"
        )
        listed = "\n".join(f"  {i}. {way}" for i, way in enumerate(ways, start=1))
        return (
            f"There is no data for task {task}. {why}\n{self._wanted(folder)}\nWays to get it:\n{listed}\n"
            "S5C_DATA=/another/folder moves the data directory. task=digits needs no data."
        )


def _stamp(place: Path, names: tuple[str, ...] | Callable[[Path], tuple[str, ...]]) -> str:
    """Returns a checksum of the names, sizes and times of the files, without reading them."""
    digest = hashlib.sha256(os.fsencode(place))
    wanted = names if isinstance(names, tuple) else names(place)
    for start in [find_file(place, name) or place / name for name in wanted] or [place]:
        for path, facts in sorted(_files(start)):
            digest.update(os.fsencode(f"{path} {facts.st_size} {facts.st_mtime_ns}\n"))
    return digest.hexdigest()


def _files(start: Path) -> Iterator[tuple[str, os.stat_result]]:
    if start.is_file():
        yield str(start), start.stat()
    elif start.is_dir():
        with os.scandir(start) as found:
            for entry in found:
                if is_clutter(entry.name):
                    continue
                if entry.is_dir():
                    yield from _files(Path(entry.path))
                elif entry.is_file():  # no link to nowhere: readers say what it is
                    yield entry.path, entry.stat()
