"""The folder of the Large Movie Review Dataset: aclImdb/{train,test}/{neg,pos}/<id>_<rating>.txt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from s5c.data.cache import Writer
from s5c.errors import UserError

FOLDERS = tuple(f"{split}/{label}" for split in ("train", "test") for label in ("neg", "pos"))
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
        for path in _ordered(folder / name):
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


def _ordered(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: the set is incomplete. Get the archive again.")
    numbered = []
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d+)_(\d+)\.txt", path.name)
        if match is None:
            raise UserError(f"{path} is no review of this set: names are <id>_<rating>.txt. Remove it.")
        numbered.append((int(match[1]), int(match[2]), path))
    return (path for _, _, path in sorted(numbered))
