"""`aire`: energy of each mode's impulse response, the score of AIRE-Prune, and its exact form for sets of modes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from s5c.errors import UserError, bounded, unknown
from s5c.reduction.energy import gram, parts_of, taps
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.reduction.removal import scores_of
from s5c.reduction.unstable import check_treatment, guarded, quotient, treated, unstable, within_reach
from s5c.ssm.modal import log_poles
from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float

CHOICES = {"variant": ("modes", "gram"), "score": ("paper", "released"), "horizon": ("infinite", "sequence")}


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by the energy of its own impulse response, the squared H2 norm of its transfer function.

        E_i = sum_{k < L} ||C_i a_i^k B_bar_i||^2 = ||C_i||^2 ||B_bar_i||^2 (1 - |a_i|^{2 L}) / (1 - |a_i|^2)

    with a = Lambda_bar; the energies of the two directions of a bidirectional layer add up. The conjugate partner and
    the input at lag 0 that both directions share are not counted, nor what modes have in common: removing modes costs
    the sum of their energies only where they are orthogonal. `variant: gram` counts all of it: with the inner products
    Gamma of the pairs' impulse responses it removes, one after the other, the state that raises 1_T^T Gamma 1_T least,
    and scores states by that rise.

    Over an infinite horizon an unstable mode (|a_i| >= 1) has no energy, and the formula is negative. So is the score,
    as in the published code, and the mode goes first, unless negative energies outweigh all others of the layer: then
    `allocation: normalised` divides by a negative sum, and its quotient is positive. `gram` continues Gamma in the same
    way. Over the length of the sequences the formula is the mode's energy, stable or not.

    Attributes:
        variant: `modes` scores every mode for itself; `gram` is the greedy elimination, O(p^2) after the p x p matrix.
        score: `paper` squares the output norm. `released` reproduces the published code, in which operator precedence
            leaves the mean output norm of bidirectional layers unsquared, E_i ~ (||C1_i|| + ||C2_i||) / 4; it is then
            not invariant to rescaling B against C.
        eps: added to 1 - |a_i|^2. The published code uses 1e-8, which moves the scores of slow modes.
        horizon: `infinite`, or `sequence`: L is the length of the sequences.
        unstable: `formula` | `protect` | `clip`: the score of an unstable mode (`s5c.reduction.unstable`).

    Source: AIRE-Prune (arXiv 2602.00534); code falcon-arrow/AIRE-Prune. Horizon and `gram` are ours, after Optimal
    Modal Truncation (arXiv 2009.11540), which solves for the best set.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset({"poles", "inputs", "outputs"})

    variant: str = "modes"
    score: str = "paper"
    eps: float = bounded(0.0, least=0)
    horizon: str = "infinite"
    unstable: str = "formula"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise unknown(f"value for reduction.{key}", getattr(self, key), allowed)
        check_treatment(self.unstable)
        if self.variant == "gram" and (self.score != "paper" or self.eps):
            raise UserError(
                f"reduction.variant=gram computes exact energies: reduction.score={self.score} and "
                f"reduction.eps={self.eps:g} belong to reduction.variant=modes. Leave them at paper and 0."
            )

    @property
    def invariant(self) -> bool:
        """Whether the coordinates do not matter: the released score of bidirectional layers is linear in ||C||."""
        return self.score != "released"

    @property
    def eliminates(self) -> bool:
        """Whether the score of a state depends on the others."""
        return self.variant == "gram"

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns E, or the rises of the error in the order of removal, shape (p,).

        Raises:
            UserError: the horizon is the length of the sequences, and the layer does not know it.
        """
        horizon = taps(self.horizon, layer)
        if self.variant == "gram":
            return elimination_scores(layer.system, horizon=horizon, treatment=self.unstable)
        system = treated(layer.system, self.unstable)
        decay, (_, B_bar) = within_reach(log_poles(system).real, horizon), system.discretise()
        span: Array | float = 1.0 if horizon is None else -jnp.expm1(2 * horizon * decay)
        gain, margin = self._output_gain(system) * jnp.sum(jnp.abs(B_bar) ** 2, axis=1), self.eps - jnp.expm1(2 * decay)
        energy = quotient(gain * span, margin)
        if horizon is not None:
            energy = jnp.where(margin == 0, gain * horizon, energy)  # on the unit circle every lag counts the same
        return guarded(energy, layer.system, self.unstable)

    def _output_gain(self, system: DiagonalSSM) -> Float[Array, "p"]:
        if self.score == "released" and system.C_backward is not None:
            return output_norms(system) / 2
        matrices = [C for C in (system.C, system.C_backward) if C is not None]
        return sum((jnp.sum(jnp.abs(C) ** 2, axis=0) for C in matrices), jnp.zeros(()))


def elimination_scores(
    system: DiagonalSSM, *, horizon: int | None = None, treatment: str = "protect"
) -> Float[Array, "p"]:
    """Returns the rise of the squared H2 error at each removal of the greedy elimination; infinite for protected modes.

    Args:
        system: one layer or channel, double precision.
        horizon: number of lags, or None for all.
        treatment: treatment of unstable modes. With "formula" Gamma is continued beyond the unit circle; on it, with
            infinitely many lags, it is infinite, and the mode protected.
    """
    parts = parts_of(treated(system, treatment), every=treatment == "formula")
    log_a = jax.lax.complex(within_reach(parts.log_a.real, horizon), parts.log_a.imag)
    Gamma = gram(parts._replace(log_a=log_a), horizon=horizon)
    free = jnp.isfinite(jnp.diagonal(Gamma)) & ~(unstable(system) & (treatment == "protect"))
    Gamma = jnp.where(jnp.isfinite(Gamma), Gamma, 0)

    def remove(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        rise, left = carry  # what removing each state would add to the error of those already removed
        chosen = jnp.argmin(jnp.where(left, jnp.where(free, rise, jnp.finfo(rise.dtype).max), jnp.inf))
        cost = jnp.where(free[chosen], rise[chosen], jnp.inf)
        return (rise + 2 * Gamma[chosen], left.at[chosen].set(False)), (chosen, cost)

    start = jnp.diagonal(Gamma), jnp.ones(free.shape, bool)
    order, costs = jax.lax.scan(remove, start, None, length=len(free))[1]
    return scores_of(order, costs)
