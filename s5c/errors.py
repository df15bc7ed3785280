"""Errors meant for the person who typed the command, and the bounds of the numbers that may be typed."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

LISTED = 30
"""Names that a message lists at most."""


class UserError(ValueError):
    """Wrong input: the message says what was given, what is allowed and what to do.

    Library code raises it like any `ValueError`. The entry points print the message alone, without a traceback,
    and exit with status 1 (`HYDRA_FULL_ERROR=1` shows the traceback).
    """


def nearest_first(given: object, choices: Iterable[str]) -> list[str]:
    """Returns `choices` sorted by similarity to `given`, most similar first, ties in alphabetical order."""

    def distance(choice: str) -> tuple[float, str]:
        return -difflib.SequenceMatcher(None, str(given).lower(), choice.lower()).ratio(), choice

    return sorted(choices, key=distance)


def unknown(kind: str, given: object, choices: Iterable[str]) -> UserError:
    """Returns the error for a name that does not exist, listing the existing ones, nearest first."""
    ordered = nearest_first(given, choices)
    hint = f" Did you mean {ordered[0]!r}?" if ordered else ""
    shown = ", ".join(ordered[:LISTED]) or "(none)"
    more = f", and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return UserError(f"Unknown {kind} {given!r}.{hint}\nAvailable, nearest first: {shown}{more}.")


# ---- numbers


def bounded(
    default: Any = dataclasses.MISSING, *, least: float | None = None, above: float | None = None,
    most: float | None = None,
) -> Any:  # fmt: skip
    """Returns a dataclass field for a number, or a list of numbers, between bounds that `check_numbers` looks at.

    Args:
        default: default of the field.
        least: the number may not be smaller.
        above: the number must be larger.
        most: the number may not be larger.
    """
    return dataclasses.field(default=default, metadata={"least": least, "above": above, "most": most})


def check_numbers(values: Any, where: str) -> None:
    """Raises `UserError` for a number in a dataclass that is not finite or is outside of its field's bounds.

    Fields of type Any are left to whoever reads them. Seeds, fields called `seed` or `..._seed`, are integers that
    random generators accept, from 0 to 2**32 - 1.

    Args:
        values: a dataclass.
        where: what its fields are called after, for messages.
    """
    for field in dataclasses.fields(values):
        bounds = dict(field.metadata)
        if field.name == "seed" or field.name.endswith("_seed"):
            bounds = {"least": 0, "most": 2**32 - 1}
        for found in _numbers(getattr(values, field.name)) if field.type != "Any" else ():
            if not math.isfinite(found) or not _between(found, **{key: bounds.get(key) for key in _WORDS}):
                told = [f" {word} {bounds[key]}" for key, word in _WORDS.items() if bounds.get(key) is not None]
                given = getattr(values, field.name)
                raise UserError(f"{where}.{field.name}={given}: give a finite number{' and'.join(told)}.")


_WORDS = {"least": "of at least", "above": "above", "most": "of at most"}


def _between(found: float, *, least: float | None, above: float | None, most: float | None) -> bool:
    return (least is None or found >= least) and (above is None or found > above) and (most is None or found <= most)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
