"""What a training step costs: as stored in `results/costs.json`, or measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from s5c.atomic import write_text
from s5c.errors import UserError
from s5c.locations import results_dir

if TYPE_CHECKING:
    from s5c.studies.recipes import Recipe

MEASURING_MINUTES = 10
"""A recipe whose step cannot be compiled and run in this time is not for this device."""

PROGRAM = ("-m", "s5c.studies")

errors = Console(stderr=True, highlight=False)


class Cost(NamedTuple):
    """What a step costs, or why that is unknown.

    Attributes:
        seconds: of a step; None if that is unknown.
        problem: why it does not run here; "" if it does, or nobody has tried.
        device: that a stored cost was measured on; "" if that is not known.
    """

    seconds: float | None = None
    problem: str = ""
    device: str = ""

    def hours(self, steps: int) -> float | None:
        """Returns the duration of `steps` steps."""
        return None if self.seconds is None else steps * self.seconds / 3600


def place() -> Path:
    """Returns the file of measured costs."""
    return results_dir() / "costs.json"


def stored() -> dict[str, Cost]:
    """Returns the newest stored cost of every recipe, by its name; of whatever device and code. Measures nothing."""
    return {key.rpartition("-")[0]: cost for key, cost in _read().items()}


def costs(recipes: Sequence[Recipe], device: str) -> dict[str, Cost]:
    """Returns the costs of steps by recipe, each measured in a process of its own and remembered in results.

    Args:
        recipes: whose costs are asked for.
        device: that they are for; a cost is remembered for one device, one state of the code and one training.
    """
    import jax  # with what else is heavy: a stored cost is shown without it

    from s5c import __version__
    from s5c.pipeline import provenance
    from s5c.pipeline.trained import checksum, described

    remembered = _read()
    code = [jax.__version__, __version__, provenance.git_revision()]
    found = {}
    for recipe in recipes:
        key = f"{recipe.name}-{checksum({'facts': [device, code, recipe.data, described(recipe.job)]})}"
        if key in remembered:
            found[recipe.name] = remembered[key]._replace(device="")
            continue
        with errors.status(f"Measuring a step of {recipe.name} ..."):
            cost = found[recipe.name] = _measured_apart(recipe.name)
        if cost.seconds is not None and not code[-1].endswith("-dirty"):
            _remember(key, cost._replace(device=device))
            remembered[key] = cost
    return found


def device_here() -> str:
    """Returns the name of the device, asked for in another process: this one must not take its memory.

    Raises:
        UserError: JAX finds none, or not the one that `JAX_PLATFORMS` asks for.
    """
    done = subprocess.run([sys.executable, *PROGRAM, "device"], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        raise UserError(f"No device to measure on: {said[0]}. Mend that, or leave costs unknown: --no-measure.")
    return done.stdout.strip()


def _measured_apart(name: str) -> Cost:
    command = [sys.executable, *PROGRAM, "measure", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MEASURING_MINUTES)
    except subprocess.TimeoutExpired:
        return Cost(problem=f"a few steps take more than {MEASURING_MINUTES} minutes")
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        return Cost(problem=f"a step does not run here: {said[0]}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _read() -> dict[str, Cost]:
    """Returns the stored costs by recipe and checksum, the newest last. Older files hold a bare number for each."""
    try:
        found = json.loads(place().read_text("utf-8"))
    except (OSError, ValueError):  # none there, or damaged: it is measured again
        return {}
    return {key: cost for key, value in found.items() if (cost := _cost(value)) is not None}


def _cost(value: Any) -> Cost | None:
    if isinstance(value, dict):
        seconds, device = value.get("seconds"), str(value.get("device", ""))
    else:
        seconds, device = value, ""
    return Cost(float(seconds), device=device) if isinstance(seconds, int | float) else None


def _remember(key: str, cost: Cost) -> None:
    kept = {one: {"seconds": old.seconds, "device": old.device} for one, old in _read().items() if one != key}
    text = json.dumps({**kept, key: {"seconds": cost.seconds, "device": cost.device}}, indent=2)
    place().parent.mkdir(parents=True, exist_ok=True)
    write_text(place(), text + "\n")
