"""Arrays that NumPy stores: one npz per split, one npz of all, or a folder of npy files.

train.npz, test.npz            each with inputs and labels or targets, and lengths where sequences differ
data.npz                       the same once, to be split; or with names such as inputs_train, y_test
inputs_train.npy, y_train.npy  likewise, a file an array

inputs, x     (n, l) of one channel or (n, l, channels), real numbers
labels        (n,) classes: whole numbers or text
targets       (n,) or (n, k), one answer an example; (n, l, k) or (n, l), one a step
y             labels if they are whole numbers or text, else targets
lengths       (n,) valid steps; what comes after them is padding
"""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s5c.data.source.folder import entries
from s5c.data.source.sequences import Sequences, real, split_named
from s5c.errors import UserError

ROLES = {"inputs": "inputs", "x": "inputs", "labels": "labels", "targets": "targets", "y": "y", "lengths": "lengths"}
"""What arrays are for, by their names."""

ALL = ""
"""The split of arrays whose names say none."""

PADDED = "; if it is padding, store the `lengths` of the sequences"

DAMAGE = (
    *(OSError, EOFError, ValueError, MemoryError, KeyError, RuntimeError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy raises of files that are damaged, encrypted, or claim more than there is."""


class Place:
    """One stored array.

    Args:
        path: file.
        key: name in an npz; None in an npy.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path, self.key = path, key

    def __str__(self) -> str:
        return str(self.path) if self.key is None else f"{self.path}, array {self.key!r}"

    def load(self) -> np.ndarray:
        """Returns the array.

        Raises:
            UserError: it is damaged, or made of Python objects.
        """
        try:
            if self.key is None:
                return np.load(self.path, allow_pickle=False)
            with np.load(self.path, allow_pickle=False) as archive:
                return archive[self.key]
        except DAMAGE as error:
            if "allow_pickle" in str(error) or "pickle" in str(error).lower():
                raise UserError(
                    f"{self}: it holds Python objects, which are not loaded, for that would run whatever is stored in "
                    "it; expected an array of numbers or text. Pad sequences to one length and store `lengths` beside "
                    "them, or store a file for each."
                ) from error
            raise UserError(f"{self}: expected a NumPy array; it is cut off or damaged ({_short(error)}).") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


Stored = dict[str, dict[str, Place]]
"""The arrays of every split by what they are for."""


def find(place: Path) -> Stored:
    """Returns what a file or folder has of such arrays; nothing if it has none.

    Raises:
        UserError: an npz is damaged.
    """
    found: Stored = {}
    if place.is_file():
        if place.suffix.lower() != ".npz":
            return found
        if split_named(place.stem) is not None:  # the others lie beside it
            return find(place.parent)
        _add_npz(found, place, None)
        return found
    paths = entries(place) if place.is_dir() else []
    archives = [path for path in paths if path.suffix.lower() == ".npz"]
    for path in archives:
        split = split_named(re.split(r"[_.-]", path.stem)[-1])
        if split is not None or len(archives) == 1:
            _add_npz(found, path, split)
    if not archives:
        for path in paths:
            if path.suffix.lower() == ".npy" and (named := _named(path.stem)) is not None:
                found.setdefault(named[0], {})[named[1]] = Place(path)
    return found if any("inputs" in arrays for arrays in found.values()) or archives else {}


def _add_npz(found: Stored, path: Path, split: str | None) -> None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files) if isinstance(archive, np.lib.npyio.NpzFile) else []
    except DAMAGE as error:
        reason = "it is none" if "pickled" in str(error) else f"it is cut off or damaged ({_short(error)})"
        raise UserError(f"{path}: expected an npz archive; {reason}.") from error
    for name in names:
        if (named := _named(name)) is not None:
            found.setdefault(split or named[0], {})[named[1]] = Place(path, name)
    if not any(named is not None and named[1] == "inputs" for named in map(_named, names)):
        raise UserError(
            f"{path} holds {', '.join(map(repr, names[:12])) or 'no array'}; expected `inputs` (n, length, channels) "
            "with `labels` or `targets`, and `lengths` where sequences differ."
        )


def _named(name: str) -> tuple[str, str] | None:
    """Returns the split and the role that an array's name says: inputs, X_train, test_y."""
    words = [word for word in re.split(r"[_.-]", name.lower()) if word]
    roles = [ROLES[word] for word in words if word in ROLES]
    splits = [split for word in words if (split := split_named(word)) is not None]
    if len(roles) != 1 or len(splits) > 1 or len(words) != len(roles) + len(splits):
        return None
    return (splits[0] if splits else ALL), roles[0]


def read(arrays: Mapping[str, Place], answers: str) -> Sequences:
    """Returns the examples of one split.

    Args:
        arrays: as `find` returns them.
        answers: auto | classes | values: what `y` is.

    Raises:
        UserError: an array is missing, of the wrong shape or type, or does not belong to the others.
    """
    where = arrays.get("inputs") or next(iter(arrays.values()))
    if "inputs" not in arrays:
        raise UserError(f"{where.path}: expected `inputs` beside {', '.join(sorted(arrays))}; there are none.")
    inputs = where.load()
    if inputs.ndim == 2:
        inputs = inputs[..., None]
    if inputs.ndim != 3 or inputs.dtype.kind not in "fiub":
        raise UserError(
            f"{where}: shape {inputs.shape}, {inputs.dtype}; expected real numbers of shape (n, length) or "
            "(n, length, channels)."
        )
    n, steps = inputs.shape[:2]
    lengths = np.full(n, steps) if "lengths" not in arrays else _lengths(arrays["lengths"], n, steps)
    found = Sequences()
    for i, length in enumerate(lengths.tolist()):
        found.where.append(f"{where}, example {i}")
        found.values.append(real(inputs[i, :length], found.where[-1], PADDED if "lengths" not in arrays else ""))
    _answer(found, arrays, answers, lengths, steps)
    return found


def _lengths(place: Place, n: int, steps: int) -> np.ndarray:
    lengths = place.load()
    whole = lengths.dtype.kind in "iu" and lengths.shape == (n,)
    if not whole or (n and not 1 <= lengths.min() <= lengths.max() <= steps):
        raise UserError(f"{place}: expected {n} whole numbers from 1 to {steps}, the valid steps of each example.")
    return lengths.astype(np.int64)


def _answer(found: Sequences, arrays: Mapping[str, Place], answers: str, lengths: np.ndarray, steps: int) -> None:
    """Adds labels or targets."""
    given = [role for role in ("labels", "targets", "y") if role in arrays]
    if len(given) != 1:
        held = " and ".join(f"`{role}`" for role in given) or "none"
        raise UserError(f"{arrays['inputs'].path}: expected one of `labels`, `targets` and `y`, got {held}.")
    place = arrays[given[0]]
    values: Any = place.load()
    if values.ndim == 0 or len(values) != len(found):
        raise UserError(f"{place}: shape {values.shape}; expected an answer for each of {len(found)} examples.")
    kind = given[0]
    if kind == "y":
        kind = {"classes": "labels", "values": "targets"}.get(answers) or (
            "labels" if values.dtype.kind in "iubUS" else "targets"
        )
    if kind == "labels":
        found.labels = _labels(values, place)
        return
    if values.dtype.kind not in "fiub" or values.ndim > 3:
        raise UserError(
            f"{place}: shape {values.shape}, {values.dtype}; expected real targets, (n,), (n, k) or (n, l, k)."
        )
    values = values.astype(np.float64)
    if values.ndim == 1:
        values = values[:, None]
    elif values.ndim == 2 and values.shape[1] == steps > 1:
        values = values[..., None]
    if values.ndim == 3 and values.shape[1] != steps:
        raise UserError(f"{place}: targets for {values.shape[1]} steps; expected one for each of {steps}.")
    found.targets = [
        value if value.ndim == 1 else value[:length] for value, length in zip(values, lengths, strict=True)
    ]


def _labels(values: np.ndarray, place: Place) -> list[str]:
    if values.ndim != 1:
        raise UserError(
            f"{place}: shape {values.shape}; expected one class an example, (n,). One-hot rows: store their argmax."
        )
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iubUS":
        raise UserError(f"{place}: {values.dtype}; expected classes as whole numbers or text.")
    if values.dtype.kind == "b":
        values = values.astype(np.int64)
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in values.tolist()]
