"""Methods, allocations and presets are found by looking into their folders; each of them explains itself."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from reductions import PRESET_FILES, VARIANTS, composed, make_network

from s5c import axes
from s5c.config import ReductionJob, reduction_job
from s5c.errors import UserError
from s5c.keys import ReductionKeys
from s5c.pipeline.stage import features, train
from s5c.reduction import allocation as allocations
from s5c.reduction import contract, stage
from s5c.reduction import method as methods
from s5c.reduction.contract import Masking, Selection, load_allocation, load_method
from s5c.reduction.layer import Layer

# --- the folders ------------------------------------------------------------------------------------------------------


def test_the_folders_are_not_empty() -> None:
    assert {"hinf", "magnitude", "none", "random", "unstructured_random"} <= set(contract.method_names())
    assert {"global", "normalised", "uniform"} <= set(contract.allocation_names())
    assert "last" in [path.stem for path in PRESET_FILES]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_is_a_hashable_value_of_one_kind(name: str) -> None:
    method = VARIANTS[name]
    assert sum(isinstance(method, kind) for kind in get_args(contract.Method)) == 1
    assert dataclasses.is_dataclass(method)
    twin = dataclasses.replace(method)
    assert twin == method and hash(twin) == hash(method)  # equal options must hit the same compiled program
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.anything = 1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", contract.method_names())
def test_a_method_names_its_source_and_documents_its_options(name: str) -> None:
    method = contract.method_class(name)
    text = f"{inspect.getmodule(method).__doc__}\n{method.__doc__}"
    assert f"`{name}`" in text
    assert "Source:" in text or "ours" in text.lower()
    for field in dataclasses.fields(method):
        assert f"\n        {field.name}: " in text, f"option {field.name} is not documented"


@pytest.mark.parametrize("name", contract.allocation_names())
def test_an_allocation_names_its_source(name: str) -> None:
    priority = load_allocation(name).priority
    assert f"`{name}`" in inspect.getmodule(priority).__doc__
    assert "Source:" in priority.__doc__ or "ours" in priority.__doc__.lower()


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown reduction method 'hinff'.*'hinf'\?\nAvailable, nearest first: hinf,"):
        load_method("hinff")
    with pytest.raises(UserError, match=r"(?s)Unknown allocation 'normalized'.*nearest first: normalised, "):
        load_allocation("normalized")
    with pytest.raises(UserError, match=r"(?s)reduction.score 'papr'.*nearest first: paper, released"):
        load_method("hinf", {"score": "papr"})


METHOD = """
import dataclasses
import jax.numpy as jnp

@dataclasses.dataclass(frozen=True)
class Method:
    power: int = 1

    def scores(self, layer, key):
        return jnp.abs(layer.system.B).sum(1) ** self.power
"""


def test_a_new_file_is_a_new_method_and_a_new_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name, text in (
        (methods, "planted", METHOD),
        (allocations, "try_", "def priority(ranked):\n    return ranked**2\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
    importlib.invalidate_caches()
    assert "planted" in contract.method_names()
    assert "try" in contract.allocation_names()
    method, system = load_method("planted", {"power": 3}), make_network()[0]
    assert isinstance(method, Selection)
    ranking = stage.rank(method, load_allocation("try"), [Layer(system)], seed=0)
    np.testing.assert_allclose(ranking.scores[0], np.abs(np.asarray(system.B)).sum(1) ** 3)
    np.testing.assert_array_equal(ranking.order, np.argsort(-ranking.scores[0]))
    for module in ("s5c.reduction.method.planted", "s5c.reduction.allocation.try_"):
        sys.modules.pop(module)


# --- the presets ------------------------------------------------------------------------------------------------------


def of_axes() -> list[str]:
    """Returns what axes add to the keys of a reduction: their own, or the group that these are in."""
    return [name for axis in axes.find() for name in ([axis.GROUP] if axis.GROUP else keys_of(axis))]


def keys_of(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_is_complete_and_explains_itself(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith(".")
    assert lines[1].startswith(f"#   python -m s5c.reduce checkpoint=PATH reduction={path.stem} ")
    values = composed(path)
    assert values["name"] == path.stem
    method = contract.method_class(values["method"])
    assert sorted(values) == sorted([*keys_of(ReductionKeys), *of_axes(), *keys_of(method)])
    job = reduction_job(values)
    assert isinstance(job, ReductionJob)
    assert job.method == method(**job.options)
    assert isinstance(job.method, Masking) == ("masked only" in lines[0])


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_a_preset_repeats_the_defaults_or_says_that_it_does_not(path: Path) -> None:
    """Where it sets another value its comment names the default: `power: 2   # default 1; ...`."""
    values, lines = composed(path), path.read_text().splitlines()
    ungrouped = [axis for axis in axes.find() if not axis.GROUP]
    for schema in (ReductionKeys, *ungrouped, contract.method_class(values["method"])):
        for field in dataclasses.fields(schema):
            if field.default is not dataclasses.MISSING and values[field.name] != field.default:
                (line,) = [line for line in lines if line.startswith(f"{field.name}: ")]
                usual = "null" if field.default is None else re.escape(str(field.default))
                assert re.search(rf"# default {usual}\b", line), line


def test_every_method_has_a_preset_and_every_allocation_of_s5c() -> None:
    jobs = [reduction_job(composed(path)) for path in PRESET_FILES]
    assert {job.keys.method for job in jobs} == set(contract.method_names())
    own = Path(inspect.getfile(allocations)).parent.glob("[!_]*.py")
    assert {path.stem.rstrip("_") for path in own} <= {job.keys.allocation for job in jobs}
    points = {(job.method, job.keys.allocation, job.refit, job.of(train.Stage), job.of(features.Stage)) for job in jobs}
    assert len(points) == len(jobs)  # no two presets are the same point
