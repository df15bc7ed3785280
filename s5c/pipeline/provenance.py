"""Where a result came from: the command, the code, the packages, the device."""

from __future__ import annotations

import functools
import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

import s5c
from s5c.atomic import write_text
from s5c.evaluation.cost import device_name

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "hydra-core", "wandb")


def command() -> str:
    """Returns the command line of this job as a person would type it.

    Of a sweep it is that of the one job, whatever process a launcher runs it in and whoever chose its values: the
    overrides of the job, without those that say how and where the sweep runs. Outside of a job it is the process's own.
    """
    if (job := _job()) is not None:
        return " ".join([_program(job), *(shlex.quote(argument) for argument in _arguments(job))])
    return " ".join([_own_program(), *(shlex.quote(argument) for argument in sys.argv[1:])])


def _job() -> Any:
    """Returns what Hydra knows of the job; None outside of one."""
    if "hydra" not in sys.modules:
        return None
    from hydra.core.global_hydra import GlobalHydra  # 0.1 s, spared outside of jobs
    from hydra.core.hydra_config import HydraConfig

    inside = HydraConfig.initialized() and GlobalHydra.instance().is_initialized()
    return HydraConfig.get() if inside else None


def _program(job: Any) -> str:
    """Returns what runs a job: an entry point of s5c, or the script of a user, whose name Hydra gives to the job."""
    name, config = job.job.name, job.job.config_name
    if find_spec(f"s5c.{name}") is None and Path(sys.argv[0]).stem == name:
        return _own_program()
    return f"python -m s5c.{name if find_spec(f's5c.{name}') is not None else config}"


def _own_program() -> str:
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    return f"python -m {module.name}" if module is not None else f"python {sys.argv[0]}"


def _arguments(job: Any) -> list[str]:
    """Returns what says which configuration a job has: folders of configurations, and its overrides."""
    own = job.job.config_name if find_spec(f"s5c.{job.job.config_name}") is None else None
    places = [source.path for source in job.runtime.config_sources if source.provider == "command-line"]
    return [
        *([f"--config-name={own}"] if own else []),
        *(f"--config-dir={_relative(Path(place), Path(job.runtime.cwd))}" for place in places),
        *(override for override in job.overrides.hydra if override.startswith("hydra.searchpath")),
        *job.overrides.task,
    ]


def _relative(path: Path, folder: Path) -> str:
    absolute = path.absolute()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


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
    return _relative(path, Path.cwd())


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
