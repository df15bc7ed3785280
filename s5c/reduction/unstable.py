"""Unstable modes, |Lambda_bar| >= 1, and what scores make of them.

Nothing but `clip_eigs` keeps the poles of S5 inside the unit circle, and training leaves some outside. Over the length
of a sequence they are modes like others. Their H-infinity norm and their energy are infinite, and what the published
formulas give for them is neither. The option `unstable` of the methods that score modes says what is done:

    formula   what the published formula gives: LAST's (1 - |a|)^2 is an ordinary number for |a| > 1; AIRE's 1 - |a|^2
              is negative, and so is the score; magnitudes have no denominator
    protect   infinity: the mode is never removed
    clip      the score of the layer with Re Lambda <= -1e-4, as S5 runs it with `clip_eigs`; the mode itself stays
              what it is

Stability is decided on Re log a and not on |a|, which rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import unknown
from s5c.reduction.layer import Layer
from s5c.ssm.modal import log_poles
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Bool, Float, Int

TREATMENTS = ("formula", "protect", "clip")
SAID = {"formula": "by the formula", "clip": "as if clipped"}

STEEPEST = 300.0
"""Growth of an energy over the sequence, as a logarithm, beyond which all modes count alike: e^300 is a number, e^710
is none."""


def check_treatment(value: str) -> None:
    """Raises `UserError` unless `value` is one of `TREATMENTS`."""
    if value not in TREATMENTS:
        raise unknown("value for reduction.unstable", value, TREATMENTS)


def unstable(system: DiagonalSSM) -> Bool[Array, "*layers p"]:
    """Returns which modes are not stable: Re log a >= 0."""
    return log_poles(system).real >= 0


def treated(system: DiagonalSSM, treatment: str) -> DiagonalSSM:
    """Returns the system that is scored."""
    return system.clipped() if treatment == "clip" else system


def guarded(scores: Float[Array, "p"], system: DiagonalSSM, treatment: str) -> Float[Array, "p"]:
    """Returns the scores, infinite for the unstable modes of the system if they are protected."""
    return jnp.where(unstable(system), jnp.inf, scores) if treatment == "protect" else scores


def quotient(gain: Float[Array, "p"], margin: Float[Array, "p"]) -> Float[Array, "p"]:
    """Returns gain / margin: 0 for a mode without gain, infinity on the unit circle, where the margin is 0."""
    found = gain / margin
    return jnp.where(gain == 0, 0, jnp.where(jnp.isnan(found), jnp.inf, found))


def within_reach(decay: Float[Array, "p"], horizon: int | None) -> Float[Array, "p"]:
    """Returns real parts of logarithms of poles whose energy over the horizon can be computed (`STEEPEST`)."""
    return decay if horizon is None else jnp.minimum(decay, STEEPEST / (2 * horizon))


def count(system: DiagonalSSM) -> int:
    """Returns how many unstable modes there are, all channels together; empty slots (B = 0 or C = 0) are none.

    Args:
        system: one layer, double precision.
    """
    with jax.enable_x64(True):
        return int(_count(system))


@jax.jit
def _count(system: DiagonalSSM) -> Int[Array, ""]:
    heard = jnp.any(system.C != 0, axis=-2)
    if system.C_backward is not None:
        heard |= jnp.any(system.C_backward != 0, axis=-2)
    return jnp.sum(unstable(system) & heard & jnp.any(system.B != 0, axis=-1))


def account(layers: Sequence[Layer], keep: Sequence[Bool[np.ndarray, "..."]], treatment: str) -> list[str]:
    """Returns in a sentence what became of unstable modes that were free to go; nothing if there are none.

    Args:
        layers: double precision.
        keep: which states stay.
        treatment: treatment of the method.
    """
    if treatment == "protect":
        return []  # the stage says so
    with jax.enable_x64(True):
        masks = [np.asarray(unstable(layer.system)) for layer in layers]
    there = [
        (i, int(mask.sum()), int((mask & ~kept).sum())) for i, (mask, kept) in enumerate(zip(masks, keep, strict=True))
    ]
    there = [(i, n, gone) for i, n, gone in there if n]
    if not there:
        return []
    where = ", ".join(f"layer {i}: {gone} of {n}" for i, n, gone in there)
    return [
        f"{sum(n for _, n, _ in there)} unstable modes (|Lambda_bar| >= 1) are scored {SAID[treatment]}, and "
        f"{sum(gone for *_, gone in there)} of them are removed ({where}). reduction.unstable=protect keeps them all."
    ]
