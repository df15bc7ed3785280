"""Which trained models the zoo holds, and what stands on their cards; reads no weights and imports nothing heavy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CARD = "card.json"

_PACKAGE = Path(__file__).resolve().parents[1]


def zoo_dir() -> Path:
    """Returns the absolute folder of the models: `$S5C_ZOO` if set, else that of a wheel, or of a checkout."""
    if given := os.environ.get("S5C_ZOO"):
        return Path(given).expanduser().absolute()
    in_wheel = _PACKAGE / "zoo"  # as `s5c.locations.conf_dir`: a checkout never has it
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / "results" / "zoo"


def names() -> list[str]:
    """Returns the models that there are."""
    return sorted(path.parent.name for path in zoo_dir().glob(f"[!.]*/{CARD}"))


def card(name: str) -> dict[str, Any]:
    """Returns what a card says, unchecked (`s5c.pipeline.portable.read_card` checks it); nothing if it is unreadable.

    Args:
        name: of the model.
    """
    try:
        found = json.loads((zoo_dir() / name / CARD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
