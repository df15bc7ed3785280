"""Where a result came from: the command, the code, the packages, the device."""

from __future__ import annotations

import functools
import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import s5c
from s5c.evaluation.cost import device_name
from s5c.training.atomic import write_text

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "hydra-core", "wandb")


def command() -> str:
    """Returns the command line of this process as a person would type it."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    program = f"python -m {module.name}" if module is not None else f"python {sys.argv[0]}"
    return " ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])])


@functools.cache  # two processes each time; the jobs of a sweep share the answer
def git_revision() -> str:
    """Returns the commit of the checkout that s5c runs from, `-dirty` if it was changed; "" outside a checkout."""
    folder = Path(s5c.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def environment() -> dict[str, Any]:
    """Returns versions, platform and device."""
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "s5c": s5c.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(),
        "jax_backend": jax.default_backend(),
        "packages": packages,
        "command": command(),
    }


def shown(path: Path) -> str:
    """Returns a path as results should show it: relative to the working directory where it lies below that."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, complete or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; an empty one if there is no such file, or no object in it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
