"""Imports inside s5c point in one direction only, found by reading the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ENTRY_POINTS = "entry points"  # every module directly in s5c/ that is not listed here by name, every __main__, and
OF_ENTRY_POINTS = {"export", "pipeline", "bench", "studies"}
BASE = {"s5c", "errors", "types", "lookup", "metric", "units"}  # s5c itself holds the version
BELOW: dict[str, set[str]] = {
    "s5c": set(),
    "errors": set(),
    "types": {"errors"},
    "locations": {"errors"},
    "atomic": set(),
    "checksums": set(),
    "lookup": {"errors", "locations"},
    "metric": {"errors"},
    "units": set(),
    "tracking": {"s5c", "errors", "checksums"},
    "data": BASE | {"locations"},
    "ssm": BASE,
    "report": {"errors", "types", "metric", "locations", "atomic", "checksums"},
}
BELOW["reduction"] = BELOW["ssm"] | {"ssm"}
BELOW["model"] = BELOW["reduction"] | {"reduction"}
BELOW["upstream"] = BELOW["model"] | {"model", "data"}
BELOW["training"] = BELOW["model"] | {"model", "data", "tracking", "locations", "atomic"}
BELOW["evaluation"] = BELOW["training"] | {"training"}
BELOW[ENTRY_POINTS] = BELOW["evaluation"] | {"evaluation", "report", "checksums", "upstream"}
WITHOUT_FLAX = {"ssm", "reduction", "evaluation", "report"}  # flax.struct, which only declares pytrees, is allowed
CONFIGURATION = {"hydra", "omegaconf"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
MAX_LINES = 400


def layer_of(module: str, packages: set[str]) -> str:
    """Returns the layer of a dotted name such as `s5c.ssm.hippo`; a package missing in `BELOW` is its own layer."""
    if "__main__" in module.split("."):
        return ENTRY_POINTS
    name = module.partition(".")[2].partition(".")[0] or "s5c"
    known = name in packages or name in BELOW
    return name if known and name not in OF_ENTRY_POINTS else ENTRY_POINTS


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute dotted name) of every import, also those in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            anchor = parents[: len(parents) - node.level + is_package] if node.level else []
            base = ".".join([*anchor, node.module] if node.module else anchor)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def forbidden(layer: str, target: str, packages: set[str], names: set[str]) -> str | None:
    """Returns why a module of `layer` may not import `target`, or None if it may."""
    top, _, rest = target.partition(".")
    if top == "flax" and layer in WITHOUT_FLAX and rest.partition(".")[0] != "struct":
        return f"{layer} does without flax"
    if top in CONFIGURATION and layer != ENTRY_POINTS:
        return f"{top} is for entry points"
    if top != "s5c":
        return None
    second = rest.partition(".")[0]
    if second not in names:  # `from s5c import __version__`
        target = "s5c"
    other = layer_of(target, packages)
    if other != layer and other not in BELOW[layer]:
        return f"{layer} may not import {other}"
    return None


def violations(root: Path) -> list[str]:
    """Returns one line per broken rule in the package `root`/s5c, each starting with the file."""
    package = root / "s5c"
    packages = {path.parent.name for path in package.glob("*/*.py")}
    names = packages | {path.stem for path in package.glob("*.py")}
    found = []
    for path in sorted(package.rglob("*.py")):
        where, module, text = path.relative_to(root).as_posix(), module_name(path, root), path.read_text("utf-8")
        layer = layer_of(module, packages)
        if (count := len(text.splitlines())) > MAX_LINES:
            found.append(f"{where}: {count} lines, more than {MAX_LINES}")
        if vague := VAGUE_NAMES & set(module.split(".")):
            found.append(f"{where}: the name {vague.pop()!r} says nothing about the contents")
        if layer not in BELOW:
            found.append(f"{where}: s5c.{layer} has no place among the layers, see BELOW")
            continue
        for line, target in imports(ast.parse(text), module, path.name == "__init__.py"):
            if reason := forbidden(layer, target, packages, names):
                found.append(f"{where}:{line}: imports {target}: {reason}")
    return found


def test_the_package_keeps_the_layers() -> None:
    assert len(list((REPOSITORY / "s5c").rglob("*.py"))) > 5
    assert violations(REPOSITORY) == []


CLEAN = {
    "s5c/__init__.py": "__version__ = '1'\n",
    "s5c/errors.py": "import difflib\n",
    "s5c/types.py": "import jaxtyping\n",
    "s5c/locations.py": "from s5c.errors import UserError\n",
    "s5c/ssm/__init__.py": "",
    "s5c/ssm/system.py": "import jax\nfrom flax import struct\nfrom s5c import errors\n",
    "s5c/reduction/__init__.py": "",
    "s5c/reduction/hinf.py": "import flax.struct\nfrom s5c.ssm import system\n",
    "s5c/model/__init__.py": "",
    "s5c/model/layer.py": "import flax.linen as nn\nfrom s5c.reduction import hinf\n",
    "s5c/data/__init__.py": "from .digits import Task\n",
    "s5c/data/digits.py": "from s5c.errors import UserError\n",
    "s5c/tracking/__init__.py": "",
    "s5c/training/__init__.py": "",
    "s5c/training/loop.py": "from s5c.data.digits import Task\nfrom s5c.model import layer\nimport s5c.tracking\n",
    "s5c/evaluation/__init__.py": "",
    "s5c/evaluation/cost.py": "from s5c import __version__\nfrom s5c.training.loop import fit\n",
    "s5c/atomic.py": "import os\n",
    "s5c/checksums.py": "import json\n",
    "s5c/report/__init__.py": "",
    "s5c/report/row.py": "from s5c.errors import UserError\nfrom s5c import atomic, checksums\n",
    "s5c/report/__main__.py": "import hydra\nfrom s5c.pipeline import zoo\nfrom s5c.report import row\n",
    "s5c/train.py": "import hydra\nfrom s5c.evaluation import cost\nfrom s5c import stages\n",
    "s5c/stages.py": "from s5c.training import loop\n",
    "s5c/pipeline/__init__.py": "from s5c.evaluation import cost\n",
    "s5c/bench/__init__.py": "from s5c import pipeline\n",
    "s5c/studies/queue.py": "from s5c.pipeline import zoo\nfrom s5c.report import row\n",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_a_clean_tree_has_no_violations(tmp_path: Path) -> None:
    plant(tmp_path, CLEAN)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("s5c/errors.py", "import s5c.ssm.system", "s5c/errors.py:1: imports s5c.ssm.system: errors may not"),
        ("s5c/__init__.py", "from s5c.train import main", "s5c/__init__.py:1: imports s5c.train.main: s5c may not"),
        ("s5c/ssm/system.py", "from s5c.reduction import hinf", "ssm may not import reduction"),
        ("s5c/ssm/system.py", "from s5c import training", "ssm may not import training"),
        ("s5c/ssm/system.py", "from ..model.layer import Layer", "imports s5c.model.layer.Layer: ssm may not"),
        ("s5c/ssm/__init__.py", "from .. import model", "imports s5c.model: ssm may not import model"),
        ("s5c/reduction/hinf.py", "def f():\n    import s5c.model.layer", "s5c/reduction/hinf.py:2: "),
        ("s5c/reduction/hinf.py", "from s5c.data import digits", "reduction may not import data"),
        ("s5c/model/layer.py", "import jax, s5c.tracking", "model may not import tracking"),
        ("s5c/model/layer.py", "if TYPE_CHECKING:\n    from s5c.training.loop import fit", "layer.py:2: "),
        ("s5c/data/digits.py", "from s5c.ssm import system", "data may not import ssm"),
        ("s5c/tracking/__init__.py", "from s5c import types", "tracking may not import types"),
        ("s5c/tracking/__init__.py", "from s5c.evaluation import cost", "tracking may not import evaluation"),
        ("s5c/training/loop.py", "from s5c.evaluation import cost", "training may not import evaluation"),
        ("s5c/evaluation/cost.py", "from s5c.stages import run", "evaluation may not import entry points"),
        ("s5c/evaluation/cost.py", "import s5c.bench", "evaluation may not import entry points"),
        ("s5c/report/row.py", "from s5c.studies import queue", "report may not import entry points"),
        ("s5c/evaluation/cost.py", "from flax import linen", "imports flax.linen: evaluation does without flax"),
        ("s5c/evaluation/cost.py", "from s5c.report import row", "evaluation may not import report"),
        ("s5c/report/row.py", "from s5c.model import layer", "report may not import model"),
        ("s5c/report/row.py", "from s5c.training.loop import fit", "report may not import training"),
        ("s5c/report/row.py", "from s5c import pipeline", "report may not import entry points"),
        ("s5c/report/row.py", "from s5c.evaluation import cost", "report may not import evaluation"),
        ("s5c/report/row.py", "from s5c.report.__main__ import main", "report may not import entry points"),
        ("s5c/report/row.py", "from flax import linen", "imports flax.linen: report does without flax"),
        ("s5c/ssm/system.py", "import flax", "imports flax: ssm does without flax"),
        ("s5c/training/loop.py", "from omegaconf import DictConfig", "omegaconf is for entry points"),
        ("s5c/locations.py", "def f():\n    import hydra.utils", "s5c/locations.py:2: imports hydra.utils: hydra is"),
        ("s5c/model/utils.py", "", "the name 'utils' says nothing"),
        ("s5c/data/helpers/x.py", "", "the name 'helpers' says nothing"),
        ("s5c/model/long.py", "x = 1\n" * 401, "401 lines, more than 400"),
        ("s5c/zoo/__init__.py", "", "s5c.zoo has no place among the layers"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, name: str, text: str, expected: str) -> None:
    plant(tmp_path, {**CLEAN, name: text})
    (line,) = violations(tmp_path)
    assert expected in line
    assert line.startswith(name)


def opened(root: Path) -> list[str]:
    """Returns the places, besides `s5c.model.network`, that reach into the parameters of a network by name.

    `s5c.bench.reference` may: it writes the published form out without s5c's modules.
    """
    found = []
    for path in sorted((root / "s5c").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            inside = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
            if (
                inside
                and node.slice.value in ("encoder", "decoder")
                and path.name not in ("network.py", "reference.py")
            ):
                found.append(f"{path.relative_to(root).as_posix()}:{node.lineno}")
    return found


def test_one_module_opens_the_parameters_of_a_network(tmp_path: Path) -> None:
    assert opened(REPOSITORY) == []
    (tmp_path / "s5c").mkdir()
    (tmp_path / "s5c" / "x.py").write_text('def f(params):\n    return params["encoder"]["layers_0"]\n')
    assert opened(tmp_path) == ["s5c/x.py:2"]
