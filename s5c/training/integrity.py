"""What makes a checkpoint trustworthy: host copies, SHA-256 seals, schema versions.

Orbax commits a step by renaming a finished folder, so an interrupted save is never visible. It does not notice what
happens afterwards (a truncated copy, a flipped bit, a lost file); the seal in the metadata does.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from s5c.errors import UserError

SCHEMA = 1
MIGRATIONS: dict[int, Callable[[dict], dict]] = {}  # schema n -> the function that turns its metadata into n + 1

_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EFBIG: "has reached its file size limit"}


class DamagedCheckpointError(UserError):
    """A checkpoint that was committed but can no longer be read back as it was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"The checkpoint {path} is damaged: {reason}\n"
            "Load another step of the same run, or copy the checkpoint again from where it came."
        )


class NotSavedError(UserError):
    """The disk is full or cannot be written: nothing is wrong with what was asked for."""


def on_host(tree: Any) -> Any:
    """Returns the tree with numpy arrays as leaves.

    On CPU they are views of the device buffers. That is safe although saving goes on in the background: Orbax copies
    numpy arrays before its `save` returns, and JAX does not reuse a donated buffer that a view refers to.
    """
    return jax.tree.map(np.asarray, jax.device_get(tree))


def as_nested_dict(tree: Mapping) -> dict[str, Any]:
    """Returns nested mappings (such as `FrozenDict`) as plain dicts, the form in which weights are stored."""
    nested = {}
    for key, value in tree.items():
        if not isinstance(key, str) or isinstance(value, (list, tuple, type(None))):
            raise TypeError(f"Weights are nested dicts of arrays with string keys, not {key!r}: {type(value).__name__}")
        nested[key] = as_nested_dict(value) if isinstance(value, Mapping) else value
    return nested


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of any pytree by the name of their path, such as `[0].mu['params']['kernel']`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def restructure(leaves: Mapping[str, np.ndarray], abstract: Any, path: Path) -> Any:
    """Puts named leaves into the structure of `abstract`.

    Raises:
        UserError: If a name, shape or dtype differs: the data is sound, but belongs to another configuration.
    """
    wanted = named_leaves(jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") else np.asarray(leaf), abstract))
    problems = [f"{name} is missing from it" for name in wanted.keys() - leaves.keys()]
    problems += [f"{name} is not in the new state" for name in leaves.keys() - wanted.keys()]
    for name in wanted.keys() & leaves.keys():
        saved, new = leaves[name], wanted[name]
        if (saved.shape, saved.dtype) != (tuple(new.shape), new.dtype):
            problems.append(f"{name} is {saved.dtype}{saved.shape}, now {new.dtype}{tuple(new.shape)}")
    if problems:
        raise UserError(
            f"The training state in {path} does not fit this configuration ({len(problems)} differences):\n  "
            + "\n  ".join(sorted(problems)[:5])
            + "\nResume with the optimizer and model it was saved with, or start a new run folder."
        )
    return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in wanted])


def _walk(tree: Mapping, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray | None]]:
    """Yields path and array in sorted order, None for an empty dict."""
    for key in sorted(tree):
        value, path = tree[key], (*prefix, key)
        if not isinstance(value, Mapping):
            yield path, np.asarray(value)
        elif value:
            yield from _walk(value, path)
        else:
            yield path, None


def _digest(tree: Mapping) -> str:
    sha = hashlib.sha256()
    for path, leaf in _walk(tree):
        sha.update(json.dumps([path, None if leaf is None else [leaf.dtype.name, leaf.shape]]).encode())
        sha.update(b"" if leaf is None else np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()


def metadata_digest(metadata: Mapping) -> str:
    unsealed = {key: value for key, value in metadata.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode()).hexdigest()


def seal(metadata: Mapping, items: Mapping[str, Mapping]) -> tuple[dict, dict[str, dict]]:
    """Adds schema and checksums to the metadata and makes the arrays fit for Orbax.

    Orbax refuses arrays without elements, which a layer that lost all its states has. They are stored with each
    length 0 replaced by 1; the metadata holds their true shapes.

    Args:
        metadata: JSON values.
        items: Nested dicts of numpy arrays by item name.

    Returns:
        The metadata and the items to write.

    Raises:
        TypeError: If the metadata is not JSON.
    """
    shapes = {
        name: [[path, leaf.shape] for path, leaf in _walk(tree) if leaf is not None and leaf.size == 0]
        for name, tree in items.items()
    }
    # Through JSON and back, so that the digest is taken over exactly what a reader will see (lists, string keys).
    sealed = json.loads(json.dumps({**metadata, "schema": SCHEMA, "empty_arrays": shapes}))
    sealed["checksum"] = {name: _digest(tree) for name, tree in items.items()} | {"metadata": metadata_digest(sealed)}
    stored = jax.tree.map(
        lambda leaf: leaf if leaf.size else np.zeros([max(n, 1) for n in leaf.shape], leaf.dtype), items
    )
    return sealed, stored


def check_metadata(metadata: Any, path: Path) -> dict:
    """Verifies the metadata's own checksum and its schema version.

    Raises:
        DamagedCheckpointError: If it is not what was written.
        UserError: If it was written by a newer version.
    """
    # The digest of the metadata comes first and must stay the same in every schema; otherwise a flipped bit in the
    # version number would be reported as "written by a newer s5c".
    checksum = metadata.get("checksum") if isinstance(metadata, dict) else None
    if not isinstance(checksum, dict):
        raise DamagedCheckpointError(
            path, "its metadata has no checksum, so it was not written by s5c or was cut short."
        )
    if checksum.get("metadata") != metadata_digest(metadata):
        raise DamagedCheckpointError(path, "its metadata does not match its checksum.")
    if not isinstance(metadata.get("schema"), int):
        raise DamagedCheckpointError(path, "its metadata have no schema.")
    if metadata["schema"] > SCHEMA:
        raise UserError(
            f"The checkpoint {path} was written by a newer s5c (schema {metadata['schema']}; this version reads up to "
            f"{SCHEMA}). Update s5c."
        )
    return metadata


def check_items(metadata: Mapping, items: Mapping[str, Mapping], path: Path) -> dict[str, dict]:
    """Restores arrays without elements and verifies each item's checksum.

    Raises:
        DamagedCheckpointError: If a byte, shape, dtype or name differs from what was written.
    """
    checked = {}
    for name, tree in items.items():
        checked[name] = jax.tree.map(np.asarray, dict(tree))
        try:
            for (*parents, last), shape in metadata["empty_arrays"][name]:
                node = functools.reduce(operator.getitem, parents, checked[name])
                node[last] = np.zeros(shape, node[last].dtype)
        except KeyError as error:
            raise DamagedCheckpointError(path, f"its {name} lack {error}.") from error
        if _digest(checked[name]) != metadata["checksum"].get(name):
            raise DamagedCheckpointError(path, f"its {name} do not match their checksum.")
    return checked


def migrate(metadata: dict) -> dict:
    """Brings metadata of an older schema to `SCHEMA`, one version at a time.

    Raises:
        UserError: If no migration leads from that schema.
    """
    while (schema := metadata["schema"]) < SCHEMA:
        if schema not in MIGRATIONS:
            raise UserError(f"Metadata of schema {schema} can no longer be read. Use the s5c version that wrote it.")
        metadata = {**MIGRATIONS[schema](metadata), "schema": schema + 1}
    return metadata


def storage_problem(error: BaseException) -> str | None:
    """Returns what is wrong with the disk if that is why a save failed, such as "is full".

    Orbax and TensorStore wrap the system's error, some in exceptions without `errno`, so the whole chain and the
    system's own wording are looked at.
    """
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        for code, problem in _FULL.items():
            if (isinstance(link, OSError) and link.errno == code) or os.strerror(code) in str(link):
                return problem
        seen.append(link)
        link = link.__cause__ or link.__context__
    found = next((link for link in seen if isinstance(link, OSError)), None)
    return None if found is None else f"cannot be written ({found.strerror or found})"
