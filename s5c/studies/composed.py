"""An experiment's configuration as Hydra composes it, read without Hydra: of fifty experiments in a tenth of a second.

Knows what the files of conf/ use: defaults lists with groups, `override`, files of the same group and `_self_`, and
values that refer to others, `${task.name}`. Everything else is Hydra's; `tests/test_studies.py` compares the two for
every recipe.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from s5c import lookup
from s5c.errors import UserError
from s5c.locations import conf_dir, results_dir

COMMAND = "train"
EXPERIMENT = "experiment"
OWN = "_self_"
_OVERRIDE = "override /"
_PACKAGE = re.compile(r"^# @package (\S+)", re.MULTILINE)
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_FLOAT = re.compile(
    r"[-+]?(\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+|\d[\d_]*\.[\d_]*|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|nan))$", re.IGNORECASE
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # which of them is there
    """Reads numbers as OmegaConf does: YAML 1.1 takes 1e-3 for text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def experiment(name: str) -> dict[str, Any]:
    """Returns what `python -m s5c.train +experiment=NAME` composes, with all references resolved.

    Args:
        name: file name in conf/experiment.

    Raises:
        UserError: there is none of that name, or a file of it cannot be read.
    """
    top = read(conf_dir() / f"{COMMAND}.yaml")
    files = list(_chain(lookup.yaml(EXPERIMENT, name)))
    choices = _choices(top["defaults"])
    for file in files:
        choices |= _choices(entry for entry in file.get("defaults", []) if _override(entry))
    values: dict[str, Any] = {}
    for group, choice in choices.items():
        if choice is not None:
            _merge(values, _group(group, choice))
    for file in (top, *files):
        _merge(values, {key: value for key, value in file.items() if key not in ("defaults", "hydra")})
    values["results_dir"] = str(results_dir())
    resolved = _resolved(values, values)
    assert isinstance(resolved, dict)
    return resolved


def read(path: Path) -> dict[str, Any]:
    """Returns what a yaml file holds.

    Raises:
        UserError: it is no mapping of keys, or no yaml.
    """
    return copy.deepcopy(_read(path, path.stat().st_mtime_ns))


@functools.cache  # most files of the groups are used by many experiments
def _read(path: Path, changed: int) -> dict[str, Any]:
    text = path.read_text("utf-8")
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read as yaml: {error}. Mend the file.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no keys: write `key: value` lines.")
    return found


def _chain(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the experiments that one builds on, then itself."""
    file = read(path)
    for entry in file.get("defaults", []):
        if isinstance(entry, str) and entry != OWN:
            yield from _chain(lookup.yaml(EXPERIMENT, entry))
    yield file


def _choices(entries: Any) -> dict[str, str | None]:
    """Returns the files chosen by group."""
    found = {}
    for entry in entries:
        if isinstance(entry, dict):
            ((group, name),) = entry.items()
            found[str(group).removeprefix(_OVERRIDE)] = name
    return found


def _override(entry: Any) -> bool:
    return isinstance(entry, dict) and next(iter(entry)).startswith(_OVERRIDE)


def _group(group: str, name: str) -> dict[str, Any]:
    """Returns the keys of a file of a group, with those of the files it builds on, under the group's name."""
    path = lookup.yaml(group, name)
    said = _PACKAGE.match(path.read_text("utf-8"))
    return {said[1] if said else group: _body(group, path)}


def _body(group: str, path: Path) -> dict[str, Any]:
    file = read(path)
    defaults = file.pop("defaults", [])
    found: dict[str, Any] = {}
    for entry in (*defaults, *([] if OWN in defaults else [OWN])):
        _merge(found, file if entry == OWN else _body(group, lookup.yaml(group, entry)))
    return found


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Puts values over those that are there, group by group; lists are replaced."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _resolved(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {str(key): _resolved(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, values) for value in node]
    if isinstance(node, str) and (whole := _REFERENCE.fullmatch(node)):
        return _resolved(_at(values, whole[1]), values)
    return node


def _at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found
