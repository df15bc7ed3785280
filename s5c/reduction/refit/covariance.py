"""`covariance`: the refit `h2` for inputs whose features are correlated as on calibration data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from s5c.errors import UserError
from s5c.reduction.energy import taps
from s5c.reduction.layer import Layer
from s5c.reduction.moments import Moments
from s5c.reduction.refit.h2 import Refit as White
from s5c.reduction.refit.h2 import solve
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Refit(White):
    """Solves C and D as `h2` does, with B Sigma B^T for B B^T: Sigma is the measured covariance of the inputs.

    In time the inputs still count as white: what `calibrated` measures altogether, this takes from the system. A
    channel with one input has nothing to correlate, there it is `h2`.

    Source: ours.
    """

    needs_moments: ClassVar[bool] = True

    def __call__(self, layer: Layer, reduced: DiagonalSSM) -> DiagonalSSM:
        """Returns `reduced` with the best outputs.

        Raises:
            UserError: nothing was measured, or the length of the sequences is needed and not known.
        """
        if layer.moments is None:
            raise UserError("The refit `covariance` needs the covariance of a layer's inputs, which is not known here.")
        with jax.enable_x64(True):
            roots = input_roots(layer.moments, layer.system.B.shape[-1])
            return solve(layer, reduced, roots, horizon=taps(self.horizon, layer), feedthrough=self.feedthrough)


def input_roots(moments: Moments, inputs: int) -> Float[Array, "*channels h h"]:
    """Returns symmetric square roots of the covariance of the inputs, their means taken off.

    Args:
        moments: second moments of a layer, or of its channels.
        inputs: h.
    """
    second = moments.zz[..., -inputs - 1 :, -inputs - 1 :] / moments.count[..., None, None]
    mean = second[..., -1, :-1]
    values, vectors = jnp.linalg.eigh(second[..., :-1, :-1] - mean[..., :, None] * mean[..., None, :])
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)
