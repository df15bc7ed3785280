"""Which trained models the zoo holds, and what stands on their cards; reads no weights and imports nothing heavy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

CARD = "card.json"


def zoo_dir() -> Path:
    """Returns the absolute folder of the models: `$S5C_ZOO` if set, else `results/zoo` of the checkout."""
    given = os.environ.get("S5C_ZOO")
    return Path(given).expanduser().absolute() if given else Path(__file__).resolve().parents[2] / "results" / "zoo"


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
