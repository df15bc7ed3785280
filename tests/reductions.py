"""Every reduction method as the presets use it, and networks to try them on."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from systems import random_system

from s5c.config import reduction_job
from s5c.locations import conf_dir
from s5c.reduction import contract, stage
from s5c.reduction.contract import Masking, Selection, load_allocation, load_method
from s5c.ssm.system import DiagonalSSM

PRESET_FILES = sorted(path for path in (conf_dir() / "reduction").glob("*.yaml") if not path.stem.startswith("_"))


@functools.cache
def composed(path: Path) -> dict[str, Any]:
    """Returns a preset as Hydra composes it."""
    with initialize_config_dir(str(conf_dir()), version_base=None):
        values = OmegaConf.to_container(compose(f"reduction/{path.stem}"))
    assert isinstance(values, dict)
    return values["reduction"]


def variants() -> dict[str, Selection | Masking]:
    """Returns every method with its default options, with those of every preset, and the published code's score."""
    found = {load_method(name): name for name in contract.method_names()}
    for path in PRESET_FILES:
        found.setdefault(reduction_job(composed(path)).method, path.stem)
    found.setdefault(load_method("hinf", {"score": "released"}), "hinf released")
    return {name: method for method, name in found.items()}


VARIANTS = variants()
SELECTIONS = {name: method for name, method in VARIANTS.items() if isinstance(method, Selection)}
MASKINGS = {name: method for name, method in VARIANTS.items() if isinstance(method, Masking)}

# The exemptions: what a method is documented not to do.
PROTECTS_ALL = {"none"}
DRAWS_NUMBERS = {"random"}  # its scores belong to positions, not to states
DEPENDS_ON_REALISATION = {"hinf released"}  # on bidirectional layers

P, H = 6, 4


def make_network(seed: int = 0, dims: tuple[int, ...] = (P, P, P)) -> list[DiagonalSSM]:
    """Returns one stable bidirectional system per layer."""
    rng = np.random.default_rng(seed)
    return [random_system(rng, p, H, bidirectional=True) for p in dims]


def with_arrays(system: DiagonalSSM, **arrays: Any) -> DiagonalSSM:
    """Returns the system with arrays replaced, in double precision."""
    with jax.enable_x64(True):
        return dataclasses.replace(system, **{name: jnp.asarray(value) for name, value in arrays.items()})


def rank(name: str, systems: list[DiagonalSSM], allocation: str = "normalised", seed: int = 0) -> stage.Ranking:
    return stage.rank(SELECTIONS[name], load_allocation(allocation), systems, seed=seed)


def same(one: Any, two: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
