"""`aire`: energy of each mode's impulse response, the score of AIRE-Prune, and its exact form for sets of modes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from s5c.errors import UserError, bounded, unknown
from s5c.reduction.energy import gram, parts_of, taps
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.reduction.removal import scores_of
from s5c.ssm.modal import from_ssm
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
    and scores states by that rise. An unstable mode (|a_i| >= 1) scores infinity, whatever the horizon.

    Attributes:
        variant: `modes` scores every mode for itself; `gram` is the greedy elimination, O(p^2) after the p x p matrix.
        score: `paper` squares the output norm. `released` reproduces the published code, in which operator precedence
            leaves the mean output norm of bidirectional layers unsquared, E_i ~ (||C1_i|| + ||C2_i||) / 4; it is then
            not invariant to rescaling B against C.
        eps: added to 1 - |a_i|^2. The published code uses 1e-8.
        horizon: `infinite`, or `sequence`: L is the length of the sequences.

    Source: AIRE-Prune (arXiv 2602.00534); code falcon-arrow/AIRE-Prune. Horizon and `gram` are ours, after Optimal
    Modal Truncation (arXiv 2009.11540), which solves for the best set.
    """

    variant: str = "modes"
    score: str = "paper"
    eps: float = bounded(0.0, least=0)
    horizon: str = "infinite"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise unknown(f"value for reduction.{key}", getattr(self, key), allowed)
        if self.variant == "gram" and (self.score != "paper" or self.eps):
            raise UserError(
                f"reduction.variant=gram computes exact energies: reduction.score={self.score} and "
                f"reduction.eps={self.eps:g} belong to reduction.variant=modes. Leave them at paper and 0."
            )

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns E, or the rises of the error in the order of removal, shape (p,).

        Raises:
            UserError: the horizon is the length of the sequences, and the layer does not know it.
        """
        horizon = taps(self.horizon, layer)
        if self.variant == "gram":
            return elimination_scores(layer.system, horizon=horizon)
        system = layer.system
        log_a, B_bar, _, _ = from_ssm(system)
        stable = log_a.real < 0
        decay = jnp.where(stable, log_a.real, -1)
        span = 1 if horizon is None else -jnp.expm1(2 * horizon * decay)
        energy = span * jnp.sum(jnp.abs(B_bar) ** 2, axis=1) / (self.eps - jnp.expm1(2 * decay))
        return jnp.where(stable, self._output_gain(system) * energy, jnp.inf)

    def _output_gain(self, system: DiagonalSSM) -> Float[Array, "p"]:
        if self.score == "released" and system.C_backward is not None:
            return output_norms(system) / 2
        matrices = [C for C in (system.C, system.C_backward) if C is not None]
        return sum((jnp.sum(jnp.abs(C) ** 2, axis=0) for C in matrices), jnp.zeros(()))


def elimination_scores(system: DiagonalSSM, *, horizon: int | None = None) -> Float[Array, "p"]:
    """Returns the rise of the squared H2 error at each removal of the greedy elimination; infinite for unstable modes.

    Args:
        system: one layer or channel, double precision.
        horizon: number of lags, or None for all.
    """
    parts = parts_of(system)
    Gamma = gram(parts, horizon=horizon)
    stable = from_ssm(system).log_a.real < 0

    def remove(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        rise, left = carry  # what removing each state would add to the error of those already removed
        chosen = jnp.argmin(jnp.where(left, jnp.where(stable, rise, jnp.finfo(rise.dtype).max), jnp.inf))
        cost = jnp.where(stable[chosen], rise[chosen], jnp.inf)
        return (rise + 2 * Gamma[chosen], left.at[chosen].set(False)), (chosen, cost)

    start = jnp.diagonal(Gamma), jnp.ones(stable.shape, bool)
    order, costs = jax.lax.scan(remove, start, None, length=len(stable))[1]
    return scores_of(order, costs)
