"""Errors meant for the person who typed the command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 30
"""Names that a message lists at most."""


class UserError(ValueError):
    """Wrong input: the message says what was given, what is allowed and what to do.

    Library code raises it like any `ValueError`. The entry points print the message alone, without a traceback,
    and exit with status 1 (`HYDRA_FULL_ERROR=1` shows the traceback).
    """


def nearest_first(given: str, choices: Iterable[str]) -> list[str]:
    """Returns `choices` sorted by similarity to `given`, most similar first, ties in alphabetical order."""

    def distance(choice: str) -> tuple[float, str]:
        return -difflib.SequenceMatcher(None, given.lower(), choice.lower()).ratio(), choice

    return sorted(choices, key=distance)


def unknown(kind: str, given: str, choices: Iterable[str]) -> UserError:
    """Returns the error for a name that does not exist, listing the existing ones, nearest first."""
    ordered = nearest_first(given, choices)
    hint = f" Did you mean {ordered[0]!r}?" if ordered else ""
    shown = ", ".join(ordered[:LISTED]) or "(none)"
    more = f", and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return UserError(f"Unknown {kind} {given!r}.{hint}\nAvailable, nearest first: {shown}{more}.")
