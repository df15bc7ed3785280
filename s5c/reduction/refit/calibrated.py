"""`calibrated`: the best output matrix, feedthrough and constant on calibration data."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import jax

from s5c.errors import UserError
from s5c.reduction.layer import Layer
from s5c.reduction.regression import regress
from s5c.ssm.system import DiagonalSSM


@dataclasses.dataclass(frozen=True)
class Refit:
    """Solves for C, D and an output constant by least squares on what the states really are.

    Ours. With white input, much data, no ridge and fixed D it is the H2-optimal refit.

    Attributes:
        ridge: pull towards the C and D given, relative to the energy of each state and input.
        feedthrough: solve for the diagonal feedthrough too.
        constant: solve for an output constant too: h numbers a layer that the published S5 format does not have.
    """

    needs_moments: ClassVar[bool] = True

    ridge: float = 1e-4
    feedthrough: bool = True
    constant: bool = True

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise UserError(f"ridge={self.ridge:g}: the pull must not be negative; 0 turns it off, 1e-4 is usual.")

    def __call__(self, layer: Layer, reduced: DiagonalSSM) -> DiagonalSSM:
        """Returns the reduced layer nearest to the full one.

        Args:
            layer: the full layer with the moments of the reduced one's states, against its own output.
            reduced: what a method made of it, double precision.
        """
        assert layer.moments is not None, "a calibrated refit needs moments"
        ridge, solve = float(self.ridge), partial(regress, feedthrough=self.feedthrough, constant=self.constant)
        with jax.enable_x64(True):
            if layer.channels is None:
                return solve(reduced, layer.moments, ridge)
            return jax.vmap(solve, in_axes=(0, 0, None))(reduced, layer.moments, ridge)
