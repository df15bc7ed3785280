"""What all containers share: which one a file is, the first bytes of a file, nested mappings as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from s5c import lookup
from s5c.errors import UserError
from s5c.upstream import container

LARGEST = 2**34
"""Bytes of a file; more is no network of this kind."""


class UnreadableError(UserError):
    """A file that is not what it looks like."""

    def __init__(self, path: Path, title: str, reason: object) -> None:
        said = " ".join(str(reason).split())[:200] or type(reason).__name__
        super().__init__(
            f"{path} cannot be read as {title}: {said}.\nIt is damaged or cut short, or holds something else: copy it "
            "again from where it came, or save the weights alone."
        )


def read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Returns what a file or folder is, in words, and its arrays by name.

    Raises:
        UserError: it is not there, of no kind that is known, or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: source= takes the file, or the Orbax folder, of a network.")
    if path.is_file() and not 0 < path.stat().st_size <= LARGEST:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes: it holds no network.")
    kinds = _containers()
    for module in kinds:
        if module.holds(path):
            return module.TITLE, module.read(path)
    known = "; ".join(module.TITLE for module in kinds)
    raise UserError(f"{path} is none of the kinds that can be read: {known}.")


def is_known(path: Path) -> bool:
    """Returns whether a file or folder looks like one of the kinds that can be read."""
    return any(module.holds(path) for module in _containers())


def _containers() -> list[ModuleType]:
    return [lookup.load(container, "container", name, container.SURFACE) for name in lookup.names(container)]


def head(path: Path, count: int) -> bytes:
    """Returns the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(count)


def flattened(tree: Any, path: Path, title: str) -> dict[str, np.ndarray]:
    """Returns the arrays and numbers of nested mappings by name; what is no array is left out.

    Raises:
        UnreadableError: it is no mapping.
    """
    if not isinstance(tree, Mapping):
        raise UnreadableError(path, title, f"it holds {type(tree).__name__}, not a mapping of names to arrays")
    found: dict[str, np.ndarray] = {}
    left: list[tuple[str, Mapping[Any, Any]]] = [("", tree)]
    while left:
        prefix, node = left.pop()
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                left.append((f"{name}/", value))
            elif isinstance(value, list | tuple):
                left.append((f"{name}/", dict(enumerate(value))))
            elif isinstance(value, np.ndarray | np.generic | int | float) or hasattr(value, "__array__"):
                found[name] = np.asarray(value)
    return found
