"""What is found by its file name: methods, tasks, families, backends and so on, and the yaml files of the groups.

A kind is a package whose modules are the choices: `s5c.reduction.method` is the kind `method`. `S5C_PLUGINS` names
folders outside of s5c that hold more of them, separated as in PATH:

    FOLDER/method/NAME.py        likewise allocation/, refit/, task/, family/, backend/, and whatever else is a kind
    FOLDER/conf/GROUP/NAME.yaml  presets, as in conf/

Their files become modules of the package, `s5c.reduction.method.NAME`, so that they are pickled, checked and found like
its own. A trailing underscore keeps Python's keywords usable as names, `global_.py` is "global"; a leading one is for
what the files of a folder share.

Installed packages name their modules by entry points, `s5c.methods`, `s5c.tasks`, `s5c.families` and so on: NAME =
"package.module", a module as such a file is. The folder `conf` of such a package is searched for yaml files, too; one
that has nothing else names itself in `s5c.conf`. Further folders of yaml files are those of a command line.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from s5c.errors import UserError, unknown
from s5c.locations import conf_dir

VARIABLE = "S5C_PLUGINS"
CONF = "conf"

KINDS = ("method", "task", "family", "allocation", "refit", "backend", "stage")
"""Kinds that installed packages may give."""
GROUPS = {"family": "s5c.families", CONF: "s5c.conf"}
"""Entry points of a kind, where they are not called `s5c.<kind>s`."""


class Installed(NamedTuple):
    """A module that an installed package gives to s5c.

    Attributes:
        name: the choice.
        module: its dotted name.
        path: its file; where it would be, if there is none.
    """

    name: str
    module: str
    path: Path


_outside: set[str] = set()
"""Folders that packages search because of the variable; they are left out again when it changes."""
_added: list[Path] = []
"""Folders of yaml files that the command line of this process names."""


def folders() -> list[Path]:
    """Returns the folders that `S5C_PLUGINS` names, absolute, in its order.

    Raises:
        UserError: one of them is no folder.
    """
    for folder in _given():
        if not folder.is_dir():
            raise UserError(
                f"{VARIABLE}={os.environ[VARIABLE]}: {folder} is no folder. Give folders that hold method/, task/, "
                f"family/, backend/ or conf/, separated by {os.pathsep!r}, or unset the variable."
            )
    return _given()


def _given() -> list[Path]:
    given = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [Path(folder).expanduser().absolute() for folder in given if folder]


def extended(path: Iterable[str], package: str) -> list[str]:
    """Returns the folders of a kind, s5c's own first: the `__path__` by which Python imports the package's modules.

    Every kind sets it in its `__init__.py`, so that another process finds what was pickled here.

    Args:
        path: the package's `__path__`.
        package: its name.
    """
    kind = package.rpartition(".")[2]
    others = [str(folder / kind) for folder in _given() if (folder / kind).is_dir()]
    own = [place for place in path if place not in _outside]
    _outside.update(others)
    return [*own, *others]


def names(package: ModuleType) -> list[str]:
    """Returns the choices of a kind.

    Args:
        package: package of the kind.

    Raises:
        UserError: two files have one name.
    """
    return sorted(_modules(_search(package), installed(package.__name__.rpartition(".")[2])))


def load(package: ModuleType, kind: str, name: str, needed: Iterable[str]) -> ModuleType:
    """Imports a choice by its name.

    Args:
        package: package of the kind.
        kind: the kind in words, for messages.
        name: name of the choice.
        needed: what its file has to define.

    Raises:
        UserError: there is no file of that name, it cannot be imported, or something is not defined in it.
    """
    return _load(package, kind, name, tuple(needed), _search(package), installed(package.__name__.rpartition(".")[2]))


def installed(kind: str) -> tuple[Installed, ...]:
    """Returns what installed packages give of a kind, by their entry points; nothing of them is imported.

    Args:
        kind: last part of the name of the package of a kind, or "conf" for packages that have yaml files alone.
    """
    return _installed(GROUPS.get(kind, f"s5c.{kind}s"), tuple(sys.path))


@functools.cache  # every distribution on the path is looked at
def _installed(group: str, path: tuple[str, ...]) -> tuple[Installed, ...]:
    found = {(point.name, point.value.partition(":")[0].strip()) for point in entry_points(group=group)}
    return tuple(Installed(name, module, _file_of(module)) for name, module in sorted(found))


def _file_of(module: str) -> Path:
    """Returns the file of a module, without importing the packages that it lies in."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return Path(*module.split(".")).with_suffix(".py")
    if not spec.submodule_search_locations:
        return Path(spec.origin or top)
    place = Path(next(iter(spec.submodule_search_locations)), *below)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _packages() -> list[Path]:
    """Returns the folders of the installed packages that give something to s5c; the file of one that is no folder."""
    found: dict[Path, None] = {}
    for kind in (*KINDS, CONF):
        for one in installed(kind):
            top = _file_of(one.module.partition(".")[0])
            found[top.parent if top.name == "__init__.py" else top] = None
    return list(found)


def add(folders: Iterable[Path]) -> None:
    """Searches further folders for yaml files, in the place of those added before; messages and help know them too."""
    _added[:] = [folder.expanduser().absolute() for folder in folders]


def _search(package: ModuleType) -> tuple[str, ...]:
    folders()  # all there
    package.__path__ = extended(package.__path__, package.__name__)  # the variable may have changed
    return tuple(package.__path__)


@functools.cache  # a layer asks for its family and its backend whenever it is traced
def _load(
    package: ModuleType,
    kind: str,
    name: str,
    needed: tuple[str, ...],
    places: tuple[str, ...],
    installed: tuple[Installed, ...],
) -> ModuleType:
    found = _modules(places, installed)
    if name not in found:
        raise unknown(kind, name, found)
    path = found[name]
    own = {one.name: one.module for one in installed}
    try:
        module = importlib.import_module(own.get(name, f"{package.__name__}.{path.stem}"))
    except UserError:
        raise
    except Exception as error:  # whatever a file may do when it is run
        raise UserError(
            f"The {kind} {name!r} cannot be imported: {type(error).__name__}: {error} ({_place(error, path)}).\n"
            "Mend the file and run the same command again; HYDRA_FULL_ERROR=1 shows the traceback."
        ) from error
    if missing := [one for one in needed if not hasattr(module, one)]:
        raise UserError(
            f"The {kind} {name!r} lacks {', '.join(missing)}: {path} has to define {', '.join(needed)} (see "
            f"help({package.__name__}))."
        )
    return module


def schema(package: ModuleType, kind: str, name: str, attribute: str, one_of: tuple[str, ...]) -> type[Any]:
    """Imports a choice that is a dataclass, whose fields are the keys of its yaml.

    Args:
        package: package of the kind.
        kind: the kind in words, for messages.
        name: name of the choice.
        attribute: name of the class in the file.
        one_of: what the class does; it has one of these.

    Raises:
        UserError: as `load`, or the class is no dataclass, or does none of that.
    """
    module = load(package, kind, name, (attribute,))
    found = getattr(module, attribute)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise UserError(
            f"The {kind} {name!r} is no dataclass: write @dataclasses.dataclass(frozen=True) before "
            f"`class {attribute}` in {module.__file__}; its fields are the keys of the yaml."
        )
    missing = getattr(found, "__abstractmethods__", ())
    if not any(hasattr(found, what) and what not in missing for what in one_of):
        raise UserError(
            f"The {kind} {name!r} does nothing: `class {attribute}` in {module.__file__} needs "
            f"{' or '.join(one_of)} (see help({package.__name__}))."
        )
    return found


def conf_folders() -> list[Path]:
    """Returns the folders of yaml files: s5c's own, those of plug-ins, then those of the command line."""
    return list(dict.fromkeys([conf_dir(), *plugin_conf_folders(), *(one for one in _added if one.is_dir())]))


def plugin_conf_folders() -> list[Path]:
    """Returns the folders of yaml files in `S5C_PLUGINS` and in installed packages."""
    return [place for folder in (*folders(), *_packages()) if (place := folder / CONF).is_dir()]


def presets(group: str, places: Iterable[Path] | None = None) -> dict[str, Path]:
    """Returns the yaml files of a group by name, without those with a leading underscore, which others share.

    Args:
        group: a folder below conf/, such as "reduction".
        places: folders of yaml files, those of `conf_folders` if not given; the first that has a name counts.
    """
    found: dict[str, Path] = {}
    for folder in conf_folders() if places is None else places:
        for path in sorted((folder / group).glob("[!_]*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def yaml(group: str, name: str) -> Path:
    """Returns the yaml file of a group that Hydra takes for a name, which may be one that others share.

    Raises:
        UserError: there is none.
    """
    for folder in conf_folders():
        if (path := folder / group / f"{name}.yaml").is_file():
            return path
    raise unknown(group, name, presets(group))


def check(packages: Iterable[ModuleType]) -> None:
    """Looks through the folders of `S5C_PLUGINS` before anything is done.

    Raises:
        UserError: a folder is none or holds nothing that is looked for, or a name of s5c's is given to another file.
    """
    kinds = [package.__name__.rpartition(".")[2] for package in packages]
    for folder in folders():
        if not any((folder / kind).is_dir() for kind in (*kinds, CONF)):
            raise UserError(
                f"{VARIABLE}: {folder} holds nothing that s5c looks for. Put files into a folder of it that is called "
                f"{', '.join(kinds)} or {CONF}."
            )
    for package in packages:
        names(package)
    own, *others = conf_folders()
    for path in sorted(own.rglob("*.yaml")):
        for other in others:
            if (place := other / path.relative_to(own)).is_file() and not place.samefile(path):
                raise _twice(path, place)


def sources() -> Iterator[Path]:
    """Yields the Python files in the folders of `S5C_PLUGINS`, and of installed packages that give something to s5c."""
    for place in (*folders(), *_packages()):
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def _modules(places: tuple[str, ...], installed: tuple[Installed, ...]) -> dict[str, Path]:
    """Returns the files of a kind by name."""
    found: dict[str, Path] = {}
    for place in places:
        for module in pkgutil.iter_modules([place]):
            if module.name.startswith("_"):
                continue
            path, name = Path(place) / f"{module.name}.py", module.name.rstrip("_")
            if name in found:
                raise _twice(found[name], path)
            found[name] = path
    for one in installed:
        if one.name in found:
            raise _twice(found[one.name], one.path, one.name)
        found[one.name] = one.path
    return found


def _twice(one: Path, other: Path, name: str = "") -> UserError:
    name = name or one.stem.rstrip("_")
    return UserError(f"{name!r} is there twice: {one} and {other}. Give the second another name.")


def _place(error: Exception, path: Path) -> str:
    """Returns where in a file its import failed."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno
    return f"{path}, line {line}" if line else str(path)
