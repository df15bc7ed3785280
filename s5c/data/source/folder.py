"""What lies in a folder of raw data: the files of a set, and what operating systems leave beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from s5c.errors import LISTED, UserError

CLUTTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("__macosx", "icon\r", "@eadir", "#recycle", "@recycle", "lost+found"),
    }
)
"""Names, in lower case, that Windows, macOS and network storage give to files of their own."""


class UnreadableError(UserError):
    """Data that is there and cannot be taken: the search goes on, and says so if it finds nothing else."""


def is_clutter(name: str) -> bool:
    """Says whether a name is none of a data set's: hidden (.DS_Store, ._x), of the system, or an editor's copy (x~)."""
    return name.startswith(".") or name.endswith("~") or name.lower() in CLUTTER


def entries(folder: Path, suffix: str = "") -> list[Path]:
    """Returns what is in a folder, by name, without clutter; with `suffix` only names that end in it, in any case."""
    found = (path for path in folder.iterdir() if not is_clutter(path.name))
    return sorted(path for path in found if path.name.lower().endswith(suffix))


def find_file(folder: Path, *names: str) -> Path | None:
    """Returns the file of the first of several names, else one whose name differs from them in case only."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        return None
    return match_file(folder, *(re.escape(name) for name in names))


def match_file(folder: Path, *patterns: str) -> Path | None:
    """Returns the file whose name matches the first of several patterns, in any case; of many the first by name."""
    for pattern in patterns:
        for path in entries(folder):
            if re.fullmatch(pattern, path.name, re.IGNORECASE) and path.is_file():
                return path
    return None


def shown(names: Iterable[object]) -> str:
    """Returns names for a message: some thirty, and how many more there are."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def contents(folder: Path) -> str:
    """Returns what is in a folder, for a message."""
    if not folder.is_dir():
        return "it is a file"
    names = [f"{path.name}/" if path.is_dir() else path.name for path in entries(folder)]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it holds {', '.join(names[:8])}{more}" if names else "it is empty"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of the lines of a small text file that are not blank; without a byte-order mark."""
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if text := line.decode("utf-8", "backslashreplace").strip():
            yield number, text
