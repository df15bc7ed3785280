"""The folder of the Large Movie Review Dataset: aclImdb/{train,test}/{neg,pos}/<id>_<rating>.txt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from s5c.data.cache import Writer
from s5c.data.source.folder import entries, shown
from s5c.errors import UserError

FOLDERS = tuple(f"{split}/{label}" for split in ("train", "test") for label in ("neg", "pos"))
LISTS = {name: "{}/urls_{}.txt".format(*name.split("/")) for name in FOLDERS}
"""Lists of the films that the reviews of a folder are about."""
OFFICIAL = "9aab5254"
"""Begin of the checksum of version 1.0: all reviews of train/neg, train/pos, test/neg, test/pos by id, end to end."""
UNPACKED = ("aclImdb", "aclImdb_v1/aclImdb", "IMDB/aclImdb")
"""Where unpackers, Keras and torchtext put the folder."""


class Reviews(NamedTuple):
    """The reviews of both splits, ordered by label and id.

    Attributes:
        texts: by split.
        labels: by split; neg 0, pos 1.
        names: by split, of the files below the folder.
        source: in words.
    """

    texts: dict[str, list[str]]
    labels: dict[str, list[int]]
    names: dict[str, list[str]]
    source: str

    @classmethod
    def none(cls, source: str = "") -> Reviews:
        """Returns no reviews, to be filled."""
        return cls({"train": [], "test": []}, {"train": [], "test": []}, {"train": [], "test": []}, source)


def find(folder: Path) -> Path | None:
    """Returns the folder that holds train/pos and the rest."""
    for candidate in (folder, *(folder / name for name in UNPACKED)):
        if (candidate / "train" / "pos").is_dir():
            return candidate
    return None


def read(folder: Path, writer: Writer) -> Reviews:
    """Returns all reviews.

    Raises:
        UserError: a folder is missing or empty, or files are not UTF-8 or have unexpected names; all of them are named.
    """
    reviews = Reviews.none()
    undecoded = []
    for name, numbered in _ordered(folder).items():
        split, label = name.split("/")
        for _, path in numbered:
            content = path.read_bytes()
            writer.raw.update(content)
            try:
                reviews.texts[split].append(content.decode("utf-8"))
            except UnicodeDecodeError:
                undecoded.append(path)
            reviews.names[split].append(f"{name}/{path.name}")
        reviews.labels[split].extend([int(label == "pos")] * len(numbered))
    if undecoded:
        plural = "is not UTF-8 text" if len(undecoded) == 1 else "are not UTF-8 text"
        raise UserError(f"{shown(undecoded)} {plural}. Get the archive again.")
    checksum = writer.raw.hexdigest()[:8]
    official = " v1.0" if checksum == OFFICIAL else ""
    return reviews._replace(source=f"aclImdb{official} (files {checksum})")


def films(folder: Path, writer: Writer) -> dict[str, list[str]]:
    """Returns the film of each review in the order of `read`: the one in line <id> of urls_neg.txt or urls_pos.txt.

    Raises:
        UserError: a list is missing, too short, or has a line without a film.
    """
    found: dict[str, list[str]] = {"train": [], "test": []}
    ordered = _ordered(folder)
    for name, films_of in LISTS.items():
        path = folder / films_of
        if not path.is_file():
            raise UserError(f"{path} is missing: it says which films the reviews are about. Get the archive again.")
        content = path.read_bytes()
        writer.raw.update(content)
        lines = content.split(b"\n")
        for number, review in ordered[name]:
            line = lines[number] if number < len(lines) else b""
            if (match := re.search(rb"/title/(tt[0-9]+)", line)) is None:
                raise UserError(f"{path}, line {number + 1}: no film of {review.name}. Get the archive again.")
            found[name.split("/")[0]].append(match[1].decode())
    return found


def _ordered(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    """Returns number and file of the reviews of each folder, by number; passes over what systems leave in folders."""
    ordered: dict[str, list[tuple[int, Path]]] = {}
    strangers: list[Path] = []
    for name in FOLDERS:
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name} is missing: the set is incomplete. Get the archive again.")
        numbered = []
        for path in entries(folder / name):
            match = re.fullmatch(r"([0-9]{1,9})_([0-9]{1,9})\.txt", path.name)
            if match is None or path.is_dir():
                strangers.append(path)
            else:
                numbered.append((int(match[1]), int(match[2]), path))
        ordered[name] = [(number, path) for number, _, path in sorted(numbered)]
    if strangers:
        are = "is no review of this set" if len(strangers) == 1 else "are no reviews of this set"
        raise UserError(f"{shown(strangers)} {are}: names are <id>_<rating>.txt. Remove what does not belong there.")
    for name, reviews in ordered.items():
        if not reviews:
            raise UserError(f"{folder / name} holds no reviews: the set is incomplete. Get the archive again.")
    return ordered
