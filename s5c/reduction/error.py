"""How far a reduced layer is from the full one, as norms of the difference system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.reduction.energy import minus, parts_of, squared_norm
from s5c.reduction.layer import Layer
from s5c.reduction.slots import padded
from s5c.reduction.unstable import count
from s5c.ssm.modal import difference, from_ssm
from s5c.ssm.norms import hinf_norm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array


class LayerError(NamedTuple):
    """Of one layer.

    Attributes:
        h2: H2 norm of the difference over that of the full layer, both directions acting together; of a layer with
            channels the root of summed squares. Unstable modes are left out of both; NaN where some were removed, whose
            norm is infinite.
        hinf: H-infinity norm of the difference, the largest of the channels; NaN where it was not asked for, or a pole
            is not stable.
    """

    h2: float
    hinf: float


def layer_errors(
    layers: Sequence[Layer], reduced: Sequence[DiagonalSSM], *, hinf: Sequence[bool] | None = None
) -> list[LayerError]:
    """Returns the errors of all layers.

        ||G - G_r||_2 / ||G||_2    and    ||G - G_r||_inf,    G_r with its output constant left out

    Args:
        layers: the full layers, double precision.
        reduced: their replacements, double precision.
        hinf: of which layers the H-infinity norm is computed, which costs 170 singular value problems a system.
    """
    with jax.enable_x64(True):
        found = []
        for layer, system, peak in zip(layers, reduced, hinf or [False] * len(layers), strict=True):
            system = padded(system, layer.system.state_dim)  # one program for every order
            error, own = _squared_norms(layer.system, system)
            h2 = float(np.sqrt(error / own)) if own != 0 else 0.0
            if count(layer.system) != count(system):
                h2 = np.nan
            found.append(LayerError(h2, float(_difference_peak(layer.system, system)) if peak else np.nan))
        return found


@jax.jit
def _squared_norms(full: DiagonalSSM, reduced: DiagonalSSM) -> tuple[Array, Array]:
    def one(a: DiagonalSSM, b: DiagonalSSM) -> tuple[Array, Array]:
        return squared_norm(minus(parts_of(a), parts_of(b))), squared_norm(parts_of(a))

    if full.Lambda.ndim == 1:
        return one(full, reduced)
    error, own = jax.vmap(one)(full, reduced)
    return jnp.sum(error), jnp.sum(own)


@jax.jit
def _difference_peak(full: DiagonalSSM, reduced: DiagonalSSM) -> Array:
    def one(a: DiagonalSSM, b: DiagonalSSM) -> Array:
        error = difference(from_ssm(a), from_ssm(b))
        return jnp.where(jnp.all(error.log_a.real < 0), hinf_norm(error).gain, jnp.nan)

    return one(full, reduced) if full.Lambda.ndim == 1 else jnp.max(jax.vmap(one)(full, reduced))
