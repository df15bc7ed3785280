"""Whether the model of a recipe has unstable modes, which decides what its studies compare."""

from __future__ import annotations

import json

from s5c.atomic import write_text
from s5c.errors import UserError
from s5c.locations import results_dir
from s5c.pipeline import shelf


def has_unstable_modes(recipe: str) -> bool:
    """Returns whether the model of a recipe has unstable modes; False for one that is not in the zoo yet.

    The queue exports a model before it runs its studies, and looks again. Cards say it, but for those that are older
    than the count: of these the weights are read once, and `results/unstable_modes.json` remembers the answer.

    Args:
        recipe: its name, and that of its model in the zoo.
    """
    if recipe not in shelf.names():
        return False
    card = shelf.card(recipe)
    if isinstance(counts := card.get("unstable_modes"), list):
        return any(counts)
    key = f"{recipe}-{card.get('checksum', '')}"
    remembered = _read()
    if key in remembered:
        return remembered[key]
    found = _counted(recipe)
    if found is not None:
        _remember({**remembered, key: found})
    return bool(found)


def _counted(recipe: str) -> bool | None:
    """Returns whether the weights have unstable modes; None where they cannot be read: the study's own commands say
    what is wrong with them. Imports JAX."""
    from s5c.model.config import from_dict
    from s5c.model.surgery import unstable_modes
    from s5c.pipeline import zoo

    try:
        model = zoo.load(recipe)
    except (UserError, OSError):
        return None
    return any(unstable_modes(model.weights["params"], from_dict(model.metadata["model"])))


def _read() -> dict[str, bool]:
    try:
        found = json.loads((results_dir() / "unstable_modes.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, bool)} if isinstance(found, dict) else {}


def _remember(found: dict[str, bool]) -> None:
    try:
        write_text(results_dir() / "unstable_modes.json", json.dumps(found, indent=2) + "\n")
    except OSError:  # no such folder yet, or one that cannot be written: the next call counts again
        return
