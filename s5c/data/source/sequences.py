"""Sequences as a reader found them, before anything is made of them, and what is refused in all formats alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s5c.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""The splits, and how files and folders may call them."""

LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass
class Sequences:
    """The examples of one split, or of all if nobody has split them.

    Attributes:
        values: of each example, (l, channels), float32.
        where: of each example, the file and the line or number it came from, for messages.
        labels: class of each example, as text; None if there are targets.
        targets: of each example, (k,) or one row per step, (l, k), float64; None if there are labels.
        splits: split of each example, where a file of labels says so; None otherwise.
        channels: names of the channels; empty if they have none.
        outputs: names of the targets; empty if they have none.
        declared: classes that the file lists, in its order; empty if it lists none.
    """

    values: list[np.ndarray] = dataclasses.field(default_factory=list)
    where: list[str] = dataclasses.field(default_factory=list)
    labels: list[str] | None = None
    targets: list[np.ndarray] | None = None
    splits: list[str] | None = None
    channels: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)


def split_named(name: str) -> str | None:
    """Returns the split that a file, a folder or a cell calls by one of its names, in any case; None if it is none."""
    return next((split for split, names in SPLITS.items() if name.strip().lower() in names), None)


def real(values: np.ndarray, where: str, hint: str = "") -> np.ndarray:
    """Returns numbers as float32.

    Args:
        values: (l, channels), of any real type.
        where: for messages.
        hint: what else may be done about a missing value.

    Raises:
        UserError: they are no real numbers, not finite, or beyond single precision.
    """
    if values.dtype.kind not in "fiub":
        raise UserError(f"{where}: expected real numbers, got {values.dtype}. Store them as float32.")
    if values.shape[0] == 0:
        raise UserError(f"{where}: the sequence has no step. Leave it out.")
    wide = values.astype(np.float64)
    wrong = np.argwhere(~(np.abs(wide) <= LARGEST))
    if len(wrong):
        step, channel = (int(i) for i in wrong[0])
        found = wide[step, channel]
        said = "NaN, a missing value" if np.isnan(found) else f"{found:g}"
        raise UserError(
            f"{where}: step {step + 1}, channel {channel + 1} is {said}; expected finite numbers of single "
            f"precision. Fill in what is missing, or leave the sequence out{hint}."
        )
    return wide.astype(np.float32)


def check_alike(parts: Sequence[tuple[str, Sequences]]) -> None:
    """Refuses splits that do not belong together.

    Args:
        parts: name of each split, and its examples.

    Raises:
        UserError: one has no example, an example has other channels, or other targets, than the first.
    """
    for name, part in parts:
        if not len(part):
            raise UserError(f"The {name} split has no example: expected one sequence at least.")
    first, kind = parts[0][1], "labels" if parts[0][1].labels is not None else "targets"
    channels = first.values[0].shape[1]
    for _, part in parts:
        for value, where in zip(part.values, part.where, strict=True):
            if value.shape[1] != channels:
                raise UserError(
                    f"{where}: {value.shape[1]} channel{'s' * (value.shape[1] != 1)}; expected {channels}, as in "
                    f"{first.where[0]}."
                )
        if (part.labels is None) == (kind == "labels"):
            raise UserError(
                f"{part.where[0]}: expected {kind}, as in {first.where[0]}; there are none, but other answers."
            )
    if first.targets is None:
        return
    shape = first.targets[0].shape
    for _, part in parts:
        for target, value, where in zip(part.targets or (), part.values, part.where, strict=True):
            if target.ndim != len(shape) or target.shape[-1] != shape[-1]:
                raise UserError(f"{where}: targets of shape {target.shape}; expected as in {first.where[0]}, {shape}.")
            if target.ndim == 2 and len(target) != len(value):
                raise UserError(f"{where}: {len(target)} targets for {len(value)} steps; expected one for each step.")
            if not np.isfinite(target).all():
                raise UserError(
                    f"{where}: a target of it is not a finite number; expected one for every example and step."
                )


def text_of(path: Path) -> str:
    """Returns the text of a file, in UTF-8 or, as older archives have it, Latin-1.

    Raises:
        UserError: it is no text.
    """
    raw = path.read_bytes()
    if b"\0" in raw[:4096] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: expected text, got binary data.")
    for encoding in ("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "latin-1"):
        try:
            return raw.decode(encoding)
        except UnicodeError:
            continue
    raise UserError(f"{path}: expected text in UTF-8.")
