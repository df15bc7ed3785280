"""Folders of yaml files that a command line adds: `--config-dir=FOLDER` and `hydra.searchpath=[...]`.

Hydra composes from them; what s5c itself reads (help, completions, presets, messages) finds them through `s5c.lookup`.
Hydra is not imported, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from s5c import lookup
from s5c.errors import UserError

FLAG = re.compile(r"(?:--config-dir|-cd)(?:=(?P<value>.*))?$", re.DOTALL)
KEY = re.compile(r"\+{0,2}hydra\.searchpath=(?P<value>.*)$", re.DOTALL)


def add(arguments: Sequence[str]) -> None:
    """Lets s5c find what lies in the folders of a command line.

    Raises:
        UserError: one of them is no folder.
    """
    lookup.add([])  # of a command before, in the same process
    lookup.add(list(_folders(arguments)))


def override(folders: Iterable[Path]) -> str:
    """Returns `hydra.searchpath=[...]` for folders."""
    quoted = ("'file://{}'".format(str(folder).replace("\\", "\\\\").replace("'", "\\'")) for folder in folders)
    return f"hydra.searchpath=[{','.join(quoted)}]"


def _folders(arguments: Sequence[str]) -> Iterable[Path]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=bool(arguments)):
        if (found := FLAG.fullmatch(argument)) is not None:
            yield _checked(argument, Path(following if found["value"] is None else found["value"]))
        elif (found := KEY.fullmatch(argument)) is not None:
            for place in _listed(found["value"]):
                yield _checked(argument, _place(place))


def _listed(value: str) -> list[str]:
    """Returns the entries of a list as Hydra's overrides write it; what refers to other keys is Hydra's to say."""
    import yaml  # for the few that have such a list

    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return []
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str) and "${" not in one]


def _place(text: str) -> Path:
    """Returns the folder that an entry of Hydra's search path means."""
    kind, separator, rest = text.partition("://")
    if not separator or kind == "file":
        return Path(rest if separator else text)
    if kind != "pkg":
        return Path()  # Hydra knows, or says so
    top, *below = rest.replace("/", ".").split(".")
    spec = importlib.util.find_spec(top)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places)), *below) if places else Path(rest)


def _checked(argument: str, folder: Path) -> Path:
    if not folder.expanduser().is_dir():
        raise UserError(f"{argument}: {folder} is no folder. Give one with experiment/, task/, reduction/ ... in it.")
    return folder
