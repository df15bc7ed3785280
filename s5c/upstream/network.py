"""A network of other code as s5c has it, and how its arrays are taken by name: every shape is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from s5c import lookup
from s5c.errors import UserError, unknown
from s5c.model.config import ModelConfig
from s5c.model.inputs import InputSpec
from s5c.upstream import layout
from s5c.upstream.options import OPTIONS

LISTED = 8
"""Faults that a message lists at most."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """A network in s5c's layout.

    Attributes:
        weights: `{"params": ..., "batch_stats": ...}`, float32.
        config: configuration of the network.
        spec: what it reads and says.
        state_dims: stored states of every layer.
        read: options that the file itself says, by name.
        assumed: options that nobody said, with what was taken.
        open: those of all options of which another value would fit the file as well, with the others.
    """

    weights: dict[str, Any]
    config: ModelConfig
    spec: InputSpec
    state_dims: tuple[int, ...]
    read: dict[str, Any]
    assumed: dict[str, Any]
    open: dict[str, tuple[Any, ...]]


class Choice:
    """The options of one network: given, read off the file, or assumed, and what may be otherwise.

    Args:
        given: what `s5c.upstream.options.read` returned.
        understood: names of the options that the layout understands.
        title: the layout, in words.

    Raises:
        UserError: an option that the layout does not understand.
    """

    def __init__(self, given: Mapping[str, Any], understood: Sequence[str], title: str) -> None:
        if strange := [name for name in given if name not in understood]:
            raise UserError(f"{strange[0]}={given[strange[0]]} means nothing for {title}: leave it out.")
        self.given = dict(given)
        self.read: dict[str, Any] = {}
        self.assumed: dict[str, Any] = {}
        self.open: dict[str, tuple[Any, ...]] = {}

    def found(self, name: str, value: Any, where: str) -> Any:
        """Takes an option that the file says itself.

        Args:
            name: the option.
            value: what the file says.
            where: the arrays that say it, for the message.

        Raises:
            UserError: it was given, and otherwise.
        """
        if self.given.get(name, value) != value:
            raise UserError(
                f"{name}={self.given[name]} does not fit the file: {where} say {name}={value} "
                f"({OPTIONS[name].meaning}). Give the options of the training that made it."
            )
        self.read[name] = value
        return value

    def taken(self, name: str, usual: Any, others: Sequence[Any] = ()) -> Any:
        """Takes an option that the file says nothing about: the given value, or the usual one.

        Args:
            name: the option.
            usual: what is assumed.
            others: values that fit the file as well as the one that is taken.
        """
        value = self.given.get(name, usual)
        if name not in self.given:
            self.assumed[name] = value
        if left := tuple(one for one in dict.fromkeys((usual, *others)) if one != value):
            self.open[name] = left
        return value


class Arrays:
    """Arrays by name, each of which is asked for once, with its shape; what nobody asked for is a fault as well.

    Args:
        arrays: by name.
        title: the layout, in words, for messages.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], title: str) -> None:
        self._arrays, self._title, self._left, self._faults = dict(arrays), title, set(arrays), list[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array.

        Raises:
            UserError: it is not there.
        """
        if name not in self._arrays:
            raise UserError(f"The file has no array {name!r}, which {self._title} have.{self._near(name)}")
        return self._arrays[name].shape

    def take(self, name: str, *shape: int, least: float | None = None) -> np.ndarray:
        """Returns an array in double precision, complex if it is; of the wanted shape in any case.

        Args:
            name: its name.
            shape: what it has to have.
            least: no number in it may be smaller.
        """
        if name not in self._arrays:
            self._faults.append(f"{name} is missing; its shape is {_written(shape)}")
            return np.zeros(shape)
        self._left.discard(name)
        value = self._arrays[name]
        if value.shape != shape:
            self._faults.append(f"{name} has shape {_written(value.shape)}, not {_written(shape)}")
            return np.zeros(shape)
        if value.dtype.kind not in "fcV" and not np.issubdtype(value.dtype, np.floating):
            self._faults.append(f"{name} holds {value.dtype}, not real numbers")
            return np.zeros(shape)
        found = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
        if not np.isfinite(found).all():
            self._faults.append(f"{name} holds numbers that are not finite")
        elif least is not None and (found < least).any():
            self._faults.append(f"{name} holds {found.min():.3g}, and less than {least:g} is not possible there")
        return found

    def ignore(self, name: str) -> None:
        """Leaves an array aside that no answer depends on."""
        self._left.discard(name)

    def done(self) -> None:
        """Raises `UserError` if an array did not fit, is missing, or has no place in the network."""
        faults = [*self._faults, *(f"{name} has no place in this network" for name in sorted(self._left))]
        if faults:
            more = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
            raise UserError(
                f"The file does not fit {self._title}:\n  "
                + "\n  ".join([*faults[:LISTED], *more])
                + "\nEither it is of "
                "another kind of network, or an option is wrong."
            )

    def _near(self, name: str) -> str:
        known = sorted(self._arrays)
        return f" It has {', '.join(known[:LISTED])}{', ...' if len(known) > LISTED else ''}." if known else ""


def _written(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def single(tree: Any) -> Any:
    """Returns nested mappings of arrays in single precision.

    Raises:
        UserError: a number is too large for it.
    """
    if isinstance(tree, Mapping):
        return {key: single(value) for key, value in tree.items()}
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(tree, np.float32)
    if not np.isfinite(found).all():
        raise UserError("The file holds numbers that single precision cannot hold.")
    return found


def pairs(values: np.ndarray) -> np.ndarray:
    """Returns complex numbers as parts on a new last axis."""
    return np.stack([values.real, values.imag], axis=-1)


def complexes(values: np.ndarray) -> np.ndarray:
    """Returns parts on the last axis as complex numbers."""
    return values[..., 0] + 1j * values[..., 1]


def layouts() -> dict[str, ModuleType]:
    """Returns the layouts that are found, by name."""
    return {name: lookup.load(layout, "layout", name, layout.SURFACE) for name in lookup.names(layout)}


def layout_of(arrays: Mapping[str, np.ndarray], name: str | None) -> ModuleType:
    """Returns the layout of some arrays.

    Args:
        arrays: by name.
        name: the layout, if it was given.

    Raises:
        UserError: there is none of that name, or their names are of none that is known.
    """
    known = layouts()
    if name is not None and name not in known:
        raise unknown("layout", name, known)
    for module in known.values() if name is None else (known[name],):
        if module.fits(arrays):
            return module
    kinds = "; ".join(module.TITLE for module in known.values())
    shown = ", ".join(sorted(arrays)[:LISTED]) or "(no arrays)"
    raise UserError(
        f"The names of the arrays are of no network that is known: {shown}{', ...' if len(arrays) > LISTED else ''}.\n"
        f"Known are: {kinds}."
    )
