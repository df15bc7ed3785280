"""The folder of the Large Movie Review Dataset: aclImdb/{train,test}/{neg,pos}/<id>_<rating>.txt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from s5c.data.cache import Writer
from s5c.errors import UserError

FOLDERS = tuple(f"{split}/{label}" for split in ("train", "test") for label in ("neg", "pos"))
LISTS = {name: "{}/urls_{}.txt".format(*name.split("/")) for name in FOLDERS}
"""Lists of the films that the reviews of a folder are about."""
OFFICIAL = "9aab5254"
"""Begin of the checksum of version 1.0: all reviews of train/neg, train/pos, test/neg, test/pos by id, end to end."""


def find(folder: Path) -> Path | None:
    """Returns the folder that holds train/pos and the rest."""
    for candidate in (folder, folder / "aclImdb"):
        if (candidate / "train" / "pos").is_dir():
            return candidate
    return None


def read(folder: Path, writer: Writer) -> tuple[dict[str, list[str]], dict[str, list[int]], str]:
    """Returns the reviews and labels (neg 0, pos 1) of both splits, ordered by label and id, and the source in words.

    Raises:
        UserError: a folder is missing or empty, or a file is not UTF-8 or has an unexpected name.
    """
    texts: dict[str, list[str]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for name in FOLDERS:
        split, label = name.split("/")
        before = len(texts[split])
        for _, path in _ordered(folder / name):
            content = path.read_bytes()
            writer.raw.update(content)
            try:
                texts[split].append(content.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text ({error}). Get the archive again.") from error
        if len(texts[split]) == before:
            raise UserError(f"{folder / name} holds no reviews: the set is incomplete. Get the archive again.")
        labels[split] += [int(label == "pos")] * (len(texts[split]) - before)
    checksum = writer.raw.hexdigest()[:8]
    official = " v1.0" if checksum == OFFICIAL else ""
    return texts, labels, f"aclImdb{official} (files {checksum})"


def films(folder: Path, writer: Writer) -> dict[str, list[str]]:
    """Returns the film of each review in the order of `read`: the one in line <id> of urls_neg.txt or urls_pos.txt.

    Raises:
        UserError: a list is missing, too short, or has a line without a film.
    """
    found: dict[str, list[str]] = {"train": [], "test": []}
    for name, films_of in LISTS.items():
        path = folder / films_of
        if not path.is_file():
            raise UserError(f"{path} is missing: it says which films the reviews are about. Get the archive again.")
        content = path.read_bytes()
        writer.raw.update(content)
        lines = content.decode("utf-8", "replace").splitlines()
        for number, review in _ordered(folder / name):
            line = lines[number] if number < len(lines) else ""
            if (match := re.search(r"/title/(tt\d+)", line)) is None:
                raise UserError(f"{path}, line {number + 1}: no film of {review.name}. Get the archive again.")
            found[name.split("/")[0]].append(match[1])
    return found


def _ordered(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yields number and file of each review, by number."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: the set is incomplete. Get the archive again.")
    numbered = []
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d+)_(\d+)\.txt", path.name)
        if match is None:
            raise UserError(f"{path} is no review of this set: names are <id>_<rating>.txt. Remove it.")
        numbered.append((int(match[1]), int(match[2]), path))
    return ((number, path) for number, _, path in sorted(numbered))
