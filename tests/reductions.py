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
from white import white_moments

from s5c import cli, lookup
from s5c.config import reduction_job
from s5c.locations import conf_dir
from s5c.reduction import contract, stage
from s5c.reduction.contract import Masking, Method, Projection, Selection, load_allocation, load_method, traits
from s5c.reduction.layer import Layer
from s5c.ssm.system import DiagonalSSM

PRESET_FILES = list(lookup.presets("reduction").values())


@functools.cache
def composed(path: Path) -> dict[str, Any]:
    """Returns a preset as Hydra composes it."""
    cli.register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base=None):
        values = OmegaConf.to_container(compose(f"reduction/{path.stem}"), resolve=True)
    assert isinstance(values, dict)
    return values["reduction"]


def variants() -> dict[str, Method]:
    """Returns every method with its default options, with those of every preset, and the published code's score."""
    found = {load_method(name): name for name in contract.method_names()}
    for path in PRESET_FILES:
        found.setdefault(reduction_job(composed(path)).method, path.stem)
    found.setdefault(load_method("hinf", {"score": "released"}), "hinf released")
    return {name: method for method, name in found.items()}


VARIANTS = variants()
SELECTIONS = {name: method for name, method in VARIANTS.items() if isinstance(method, Selection)}
PROJECTIONS = {name: method for name, method in VARIANTS.items() if isinstance(method, Projection)}
MASKINGS = {name: method for name, method in VARIANTS.items() if isinstance(method, Masking)}

TRAITS = {name: traits(method) for name, method in VARIANTS.items()}

P, H = 6, 4


def make_network(seed: int = 0, dims: tuple[int, ...] = (P, P, P)) -> list[DiagonalSSM]:
    """Returns one stable bidirectional system per layer."""
    rng = np.random.default_rng(seed)
    return [random_system(rng, p, H, bidirectional=True) for p in dims]


def unstable(system: DiagonalSSM, states: list[int]) -> DiagonalSSM:
    """Returns the system with the given modes mirrored out of the unit disc."""
    Lambda = np.array(system.Lambda)
    Lambda[states] = -Lambda[states].conj()
    return with_arrays(system, Lambda=Lambda)


def treats_unstable(name: str) -> bool:
    """Returns whether a method has an option for unstable modes."""
    return "unstable" in [field.name for field in dataclasses.fields(VARIANTS[name])]


def protecting(name: str) -> dict[str, str]:
    """Returns the options with which a method never removes an unstable mode; none where it knows nothing else."""
    return {"unstable": "protect"} if treats_unstable(name) else {}


def with_arrays(system: DiagonalSSM, **arrays: Any) -> DiagonalSSM:
    """Returns the system with arrays replaced, in double precision."""
    with jax.enable_x64(True):
        return dataclasses.replace(system, **{name: jnp.asarray(value) for name, value in arrays.items()})


def rank(
    name: str, systems: list[DiagonalSSM], allocation: str = "normalised", seed: int = 0, **options: Any
) -> stage.Ranking:
    method = dataclasses.replace(SELECTIONS[name], **options)
    layers = [layer(system, moments=getattr(method, "needs_moments", False)) for system in systems]
    return stage.rank(method, load_allocation(allocation), layers, seed=seed)


def layer(system: DiagonalSSM, *, moments: bool = False) -> Layer:
    """Returns a layer whose sequences have 64 steps, if asked for with the moments that white input would give.

    An unstable mode has none; it is given those of its mirror image in the unit circle.
    """
    if not moments:
        return Layer(system, horizon=64)
    with jax.enable_x64(True):
        growing = jnp.abs(system.discretise()[0]) >= 1
        mirrored = dataclasses.replace(system, Lambda=jnp.where(growing, -system.Lambda.conj() - 1e-3, system.Lambda))
    return Layer(system, horizon=64, moments=white_moments(mirrored))


def same(one: Any, two: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))
