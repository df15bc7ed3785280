"""`spectra.npz`: poles, scores and Hankel singular values of a network before and after its reductions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import surgery
from s5c.pipeline.reduction import Reduced
from s5c.pipeline.trained import TrainedModel
from s5c.reduction import stage
from s5c.ssm.gramian import hankel_singular_values
from s5c.ssm.modal import from_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array


def write_spectra(path: Path, trained: TrainedModel, ranking: stage.Ranking, reduced: Sequence[Reduced]) -> None:
    """Writes what the figures of a reduction are drawn from.

    Per layer l, each with a leading axis of channels where a layer has them:

        Lambda_bar_layer{l}         discrete poles of the full layer
        hsv_layer{l}                Hankel singular values of its stable modes, descending
        scores_layer{l}             one score per slot
        priority_layer{l}           the same after the allocation
        keep_{target}_layer{l}      which slots stay
        lambda_{target}_layer{l}    discrete poles of the reduced layer
    """
    arrays: dict[str, np.ndarray] = {}
    full = surgery.systems(trained.weights["params"], trained.model.config)
    with jax.enable_x64(True):
        for i, system in enumerate(full):
            arrays[f"Lambda_bar_layer{i}"] = _poles(system)
            arrays[f"hsv_layer{i}"] = np.asarray(_hankel(system))
        for network in reduced:
            for i, system in enumerate(surgery.systems(network.weights["params"], network.model.config)):
                arrays[f"lambda_{network.target.label}_layer{i}"] = _poles(system)
    for i, (scores, priorities) in enumerate(zip(ranking.scores, ranking.priorities, strict=True)):
        arrays |= {f"scores_layer{i}": scores, f"priority_layer{i}": priorities}
        for network in reduced:
            if network.selected is not None:
                arrays[f"keep_{network.target.label}_layer{i}"] = network.selected.keep[i]
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _poles(system: DiagonalSSM) -> np.ndarray:
    one = jax.vmap(DiagonalSSM.discretise) if system.Lambda.ndim == 2 else DiagonalSSM.discretise
    return np.asarray(one(system)[0])


@jax.jit
def _hankel(system: DiagonalSSM) -> Array:
    def one(system: DiagonalSSM) -> Array:
        modal = from_ssm(system)
        stable = modal.log_a.real < 0
        B = jnp.where(stable[:, None], modal.B, 0)
        return hankel_singular_values(modal._replace(log_a=jnp.where(stable, modal.log_a, -1), B=B))

    return jax.lax.map(one, system, batch_size=32) if system.Lambda.ndim == 2 else one(system)
