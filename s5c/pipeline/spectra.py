"""What goes to `spectra.npz`: poles, scores and Hankel singular values of a network before and after reductions."""

from __future__ import annotations

import jax
import numpy as np

from s5c.model import surgery
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.trained import TrainedModel
from s5c.reduction import stage
from s5c.reduction.single import hankel_singular_values
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Complex


def full_arrays(trained: TrainedModel, ranking: stage.Ranking) -> dict[str, np.ndarray]:
    """Returns what the figures of all reductions of a network have in common.

    Per layer l, each with a leading axis of channels where a layer has them:

        Lambda_bar_layer{l}         discrete poles of the full layer
        hsv_layer{l}                Hankel singular values of its stable modes, descending
        scores_layer{l}             one score per slot
        priority_layer{l}           the same after the allocation
        error_h2_quadratic_layer{l} with LQO, the relative error that it minimises with 0, ..., p slots left
    """
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for i, system in enumerate(surgery.systems(trained.weights["params"], trained.model.config)):
            arrays[f"Lambda_bar_layer{i}"] = _poles(system)
            arrays[f"hsv_layer{i}"] = hankel_singular_values(system)
    for i, (scores, priorities) in enumerate(zip(ranking.scores, ranking.priorities, strict=True)):
        arrays |= {f"scores_layer{i}": scores, f"priority_layer{i}": priorities}
    arrays |= {f"error_h2_quadratic_layer{i}": curve for i, curve in enumerate(ranking.errors or ())}
    return arrays


def reduced_arrays(network: ReducedNetwork) -> dict[str, np.ndarray]:
    """Returns what the figures show of one reduction.

    Per layer l, with `{target}` the label of its target:

        lambda_{target}_layer{l}    discrete poles of the reduced layer
        keep_{target}_layer{l}      which slots stay; not of a masked-only baseline
    """
    label, arrays = network.target.label, {}
    with jax.enable_x64(True):
        for i, system in enumerate(surgery.systems(network.weights["params"], network.model.config)):
            arrays[f"lambda_{label}_layer{i}"] = _poles(system)
    if network.selected is not None:
        arrays |= {f"keep_{label}_layer{i}": keep for i, keep in enumerate(network.selected.keep)}
    return arrays


def _poles(system: DiagonalSSM) -> np.ndarray:
    return np.asarray(_discrete(system))


@jax.jit  # one program for layers of one shape, where a dozen operations would be a dozen
def _discrete(system: DiagonalSSM) -> Complex[Array, "*channels p"]:
    one = jax.vmap(DiagonalSSM.discretise) if system.Lambda.ndim == 2 else DiagonalSSM.discretise
    return one(system)[0]
