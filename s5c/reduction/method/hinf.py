"""`hinf`: squared H-infinity norm of each mode, the score of LAST."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from s5c.errors import bounded, unknown
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by the squared H-infinity norm of its own transfer function G_i(z) = C_i B_bar_i / (z - a_i).

        h_i = ||G_i||_inf^2 = ||C_i||^2 ||B_bar_i||^2 / (1 - |a_i|)^2,    a = Lambda_bar

    exact, since G_i has rank one and peaks at the angle of a_i. The conjugate partner is not counted: it multiplies
    the gain by at most 2, by about 1 where a mode oscillates faster than it decays, and near the real axis it may
    cancel it. Needs |a_i| < 1; an unstable mode (|a_i| >= 1) scores infinity.

    Attributes:
        score: `paper` squares the output norm. `released` reproduces the published code, in which operator precedence
            leaves the mean output norm of bidirectional layers unsquared, h_i ~ (||C1_i|| + ||C2_i||) / 4; it is then
            not invariant to rescaling B against C.
        eps: added to (1 - |a_i|)^2. The published code uses 1e-8, which moves the scores of slow modes by up to 12%.

    Source: LAST (arXiv 2411.02824), section 4; code msgwak/LAST.
    """

    score: str = "paper"
    eps: float = bounded(0.0, least=0)

    def __post_init__(self) -> None:
        if self.score not in ("paper", "released"):
            raise unknown("value for reduction.score", self.score, ("paper", "released"))

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns h of shape (p,)."""
        Lambda_bar, B_bar = layer.system.discretise()
        radius = jnp.abs(Lambda_bar)
        C_norm = output_norms(layer.system)
        output_gain = C_norm / 2 if self.score == "released" and layer.system.C_backward is not None else C_norm**2
        input_gain = jnp.sum(jnp.abs(B_bar) ** 2, axis=1)
        stable = radius < 1
        margin = jnp.where(stable, 1 - radius, 1)
        return jnp.where(stable, output_gain * input_gain / (margin**2 + self.eps), jnp.inf)
