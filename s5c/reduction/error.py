"""How far a reduced layer is from the full one, as norms of the difference system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.reduction.balanced import CHUNK
from s5c.reduction.energy import STABLE, minus, parts_of, squared_norm
from s5c.reduction.layer import Layer
from s5c.reduction.slots import padded
from s5c.reduction.unstable import count
from s5c.ssm.modal import ModalSystem, difference, from_ssm, log_poles
from s5c.ssm.norms import hinf_norm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array


class LayerError(NamedTuple):
    """Of one layer.

    Attributes:
        h2: H2 norm of the difference over that of the full layer, both directions acting together; of a layer with
            channels the root of summed squares. Unstable modes are left out of both; NaN where some were removed, whose
            norm is infinite.
        hinf: H-infinity norm of the difference, both directions acting together, the largest of the channels. Unstable
            modes that are the same on both sides, bit for bit, cancel; NaN where others are there, or where it was not
            asked for.
    """

    h2: float
    hinf: float


def layer_errors(
    layers: Sequence[Layer], reduced: Sequence[DiagonalSSM], *, hinf: Sequence[bool] | None = None
) -> list[LayerError]:
    """Returns the errors of all layers.

        ||G - G_r||_2 / ||G||_2    and    ||G - G_r||_inf,    G_r with its output constant left out

    Of a bidirectional layer G = G_f + conj(G_b) (`s5c.ssm.response.frequency_response`). Given as they are read back
    from a network, the reduced layers are those that run, with all that writing them did to them: the errors are those
    of the stored parameters, evaluated in double precision. The H-infinity norm is attained at some tone, a lower
    estimate that is right to 1e-6 and better (`s5c.ssm.norms.hinf_norm`).

    Args:
        layers: the full layers, double precision.
        reduced: their replacements, double precision.
        hinf: for which layers the H-infinity norm is computed, which costs 170 singular value problems a system.
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
    def one(pair: tuple[DiagonalSSM, DiagonalSSM]) -> Array:
        a, b = pair
        same, both = _same_unstable(a, b), [_stable(from_ssm(x)) for x in pair]
        gain = hinf_norm(difference(*both), bidirectional=a.C_backward is not None).gain
        return jnp.where(same, gain, jnp.nan)

    pair = full, reduced
    return one(pair) if full.Lambda.ndim == 1 else jnp.max(jax.lax.map(one, pair, batch_size=CHUNK))


def _stable(system: ModalSystem) -> ModalSystem:
    """Returns the system with its unstable slots emptied."""
    log_a, B, C, D = system
    stable = log_a.real < 0
    return ModalSystem(jnp.where(stable, log_a, STABLE), jnp.where(stable[:, None], B, 0), jnp.where(stable, C, 0), D)


def _same_unstable(a: DiagonalSSM, b: DiagonalSSM) -> Array:
    """Returns whether the unstable modes of both are the same to the last bit, so that they cancel for ever."""
    outputs = [jnp.concatenate([x.C] if x.C_backward is None else [x.C, x.C_backward]).T for x in (a, b)]
    one, other = (
        jnp.concatenate([x.Lambda[:, None], x.Delta[:, None], x.B, C], axis=1)
        for x, C in zip((a, b), outputs, strict=True)
    )
    equal = jax.lax.map(lambda row: jnp.all(row == other, axis=1), one)
    unstable = [log_poles(x).real >= 0 for x in (a, b)]
    pairs = equal & unstable[0][:, None] & unstable[1]
    # As many of the one as of the other, in case a mode is there twice.
    matched = jnp.all(jnp.where(unstable[0], jnp.sum(pairs, 1) > 0, True)) & jnp.all(
        jnp.where(unstable[1], jnp.sum(pairs, 0) > 0, True)
    )
    return matched & (jnp.sum(unstable[0]) == jnp.sum(unstable[1]))
