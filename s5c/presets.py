"""The reduction preset of a job, as it is by itself: what a job's own settings are compared with."""

from __future__ import annotations

import copy
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

GROUP = "reduction"


def chosen(config: DictConfig) -> tuple[str, dict[str, Any]] | None:
    """Returns the name of the preset that Hydra took for this job, and its keys without command line and experiment.

    The preset may lie in any folder that Hydra was told to search. What refers to other groups, such as `${seed}`,
    gets the value that it has in this job.

    Args:
        config: of the job, as composed.

    Returns:
        Name and keys; None without a preset: `reduction=null`, or a file that is for another package.
    """
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
    return str(name), {str(key): value for key, value in values.items()}
