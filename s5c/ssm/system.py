"""`DiagonalSSM`: the system behind one layer, free of any neural-network framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from s5c.errors import UserError
from s5c.ssm.discretise import METHODS, Discretised
from s5c.types import Array, Complex, Float, Int

LEAST_DECAY = 1e-4
"""Least decay rate of a clipped mode, 1/s: Re Lambda is at most minus this."""


@dataclasses.dataclass(frozen=True)
class DiagonalSSM:
    """A continuous-time diagonal system with a step size, of which one of each conjugate pair is stored.

        x' = Lambda x + B u,    y = 2 Re(C x) + D u        (forward in time)
        y += 2 Re(C_backward x~),  x~ the same system run on the reversed input    (bidirectional layers)
        y += bias                                                                  (after a calibrated refit)

    The stored half is not the system that runs: its conjugate copies contribute the other half of the output, hence
    the factor 2. Leading axes `*layers` appear where equal systems are stacked and mapped over: the layers of a
    network, or the channels of a layer that runs one single-input system per channel (S4D, DSS; h = 1 then).
    """

    Lambda: Complex[Array, "*layers p"]
    B: Complex[Array, "*layers p h"]
    C: Complex[Array, "*layers h p"]
    D: Float[Array, "*layers h"]
    Delta: Float[Array, "*layers p"]
    C_backward: Complex[Array, "*layers h p"] | None = None
    discretisation: str = "zoh"
    bias: Float[Array, "*layers h"] | None = None

    @property
    def state_dim(self) -> int:
        """Number of stored complex states."""
        return self.Lambda.shape[-1]

    def discretise(self) -> Discretised:
        """Returns `(Lambda_bar, B_bar)`, shapes (p,) and (p, h)."""
        return METHODS[self.discretisation](self.Lambda, self.B, self.Delta)

    def clipped(self) -> DiagonalSSM:
        """Returns the system with Re Lambda at most -`LEAST_DECAY`: stable, as S5's `clip_eigs` runs it."""
        Lambda = jax.lax.complex(jnp.minimum(self.Lambda.real, -LEAST_DECAY), self.Lambda.imag)
        return dataclasses.replace(self, Lambda=Lambda)

    def take(self, keep: Int[Any, "kept"]) -> DiagonalSSM:
        """Returns the system made of the states `keep` alone (`s5c.model.surgery.take` does it to parameters)."""
        return dataclasses.replace(
            self,
            Lambda=self.Lambda[keep],
            B=self.B[keep],
            C=self.C[:, keep],
            Delta=self.Delta[keep],
            C_backward=None if self.C_backward is None else self.C_backward[:, keep],
        )

    def __sub__(self, other: DiagonalSSM) -> DiagonalSSM:
        """Returns the system whose output is that of this one minus that of the other: its norm is their distance.

            G - G':    states of both,    B = [B; B'],    C = [C, -C'],    D - D'

        Output constants (`bias`) are left out.

        Args:
            other: the same inputs and outputs, discretisation and directions; any number of states.

        Raises:
            UserError: these differ.
        """
        if not isinstance(other, DiagonalSSM):
            return NotImplemented
        kinds = [(x.D.shape, x.discretisation, x.C_backward is None) for x in (self, other)]
        if kinds[0] != kinds[1]:
            raise UserError(f"Systems of one kind are compared, not {_kind(self)} with {_kind(other)}.")

        def both(name: str, axis: int, sign: int = 1) -> Array:
            return jnp.concatenate([getattr(self, name), sign * getattr(other, name)], axis)

        with jax.enable_x64(True):  # keeps the precision that is there
            backward = None if self.C_backward is None else both("C_backward", -1, -1)
            return DiagonalSSM(
                both("Lambda", -1), both("B", -2), both("C", -1, -1), self.D - other.D, both("Delta", -1),
                backward, self.discretisation,
            )  # fmt: skip


def _kind(system: DiagonalSSM) -> str:
    directions = "one direction" if system.C_backward is None else "both directions"
    return f"outputs {'x'.join(map(str, system.D.shape))}, {system.discretisation}, {directions}"


_ARRAYS = ("Lambda", "B", "C", "D", "Delta", "C_backward", "bias")


def _unflatten(discretisation: str, arrays: Iterable[Any]) -> DiagonalSSM:
    # JAX rebuilds containers around placeholders that are no arrays; `__init__`, whose annotations the tests check,
    # must not see those.
    system = object.__new__(DiagonalSSM)
    for name, value in zip((*_ARRAYS, "discretisation"), (*arrays, discretisation), strict=True):
        object.__setattr__(system, name, value)
    return system


jax.tree_util.register_pytree_with_keys(
    DiagonalSSM,
    lambda s: ([(jax.tree_util.GetAttrKey(k), getattr(s, k)) for k in _ARRAYS], s.discretisation),
    _unflatten,
    lambda s: (tuple(getattr(s, k) for k in _ARRAYS), s.discretisation),
)


def stack(systems: list[DiagonalSSM]) -> DiagonalSSM:
    """Stacks systems of equal shape along a new leading axis, for `jax.vmap`."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems)
