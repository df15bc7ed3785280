"""The reduction preset of a job, as it is by itself: what a job's own settings are compared with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from s5c import lookup
from s5c.errors import UserError, nearest_first, unknown

GROUP = "reduction"
HOW_MUCH = ("ratios", *(f"{GROUP}.{key}" for key in ("ratio", "params", "bytes", "order", "tolerance", "max_drop")))
"""Overrides that say how much is removed."""


def chosen(config: DictConfig) -> tuple[str, dict[str, Any]] | None:
    """Returns the name of the preset that Hydra took for this job, and its keys without command line and experiment.

    The preset may lie in any folder that Hydra was told to search. What refers to other groups, such as `${seed}`,
    gets the value that it has in this job.

    Args:
        config: configuration of the job, as composed.

    Returns:
        Name and keys; None without a preset: `reduction=null`, or a file that is for another package.

    Raises:
        UserError: the command line says how much is removed where nothing is. Of an experiment that is no fault: its
            targets wait for a preset.
    """
    import hydra  # 0.1 s, spared where presets are read without it
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    name = job.runtime.choices.get(GROUP)
    if name in (None, "null"):
        return None
    places = [override for override in job.overrides.hydra if override.startswith("hydra.searchpath")]
    alone = hydra.compose(f"{GROUP}/{name}", places)
    if GROUP not in alone:
        return None
    around = copy.deepcopy(config)
    with open_dict(around):
        around[GROUP] = alone[GROUP]
    values = OmegaConf.to_container(around[GROUP], resolve=True)
    assert isinstance(values, dict)
    if values.get("method") == "none":
        _check_no_target(job.overrides.task)
    return str(name), {str(key): value for key, value in values.items()}


def names() -> list[str]:
    """Returns the presets that are found (`s5c.lookup`)."""
    return list(lookup.presets(GROUP))


def read(name: str) -> dict[str, Any]:
    """Returns the keys of a preset as Hydra composes them, without Hydra.

    Args:
        name: file name in conf/reduction.

    Raises:
        UserError: there is none of that name.
    """
    if name not in names():
        raise unknown("reduction preset", name, nearest_first(name, names()))
    around = OmegaConf.create({"seed": 0, GROUP: _composed(name)})
    values = OmegaConf.to_container(around[GROUP], resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _check_no_target(typed: Sequence[str]) -> None:
    for override in typed:
        key, _, value = override.lstrip("+").partition("=")
        if key in HOW_MUCH and value not in ("null", "auto"):
            raise UserError(
                f"{override} changes nothing: reduction=none removes no states. Leave it out, or choose a preset, such "
                f"as reduction=last {override}."
            )


def _composed(name: str) -> DictConfig:
    own = OmegaConf.load(lookup.yaml(GROUP, name))
    assert isinstance(own, DictConfig)
    defaults = own.pop("defaults", [])
    parts = [own if other == "_self_" else _composed(other) for other in defaults]
    merged = OmegaConf.merge(*(parts if "_self_" in defaults else [*parts, own]))
    assert isinstance(merged, DictConfig)
    return merged
