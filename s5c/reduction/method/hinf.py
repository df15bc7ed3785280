"""`hinf`: squared H-infinity norm of each mode, the score of LAST."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from s5c.errors import bounded, unknown
from s5c.reduction.layer import Layer
from s5c.reduction.output_norm import output_norms
from s5c.reduction.unstable import check_treatment, guarded, quotient, treated
from s5c.ssm.modal import log_poles
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Scores a state by the squared H-infinity norm of its own transfer function G_i(z) = C_i B_bar_i / (z - a_i).

        h_i = ||G_i||_inf^2 = ||C_i||^2 ||B_bar_i||^2 / (1 - |a_i|)^2,    a = Lambda_bar

    exact, since G_i has rank one and peaks at the angle of a_i. The conjugate partner is not counted: it multiplies
    the gain by at most 2, by about 1 where a mode oscillates faster than it decays, and near the real axis it may
    cancel it. A norm only for |a_i| < 1: an unstable mode (|a_i| >= 1) has none, and gets what the formula says, as in
    the published code.

    Attributes:
        score: `paper` squares the output norm. `released` reproduces the published code, in which operator precedence
            leaves the mean output norm of bidirectional layers unsquared, h_i ~ (||C1_i|| + ||C2_i||) / 4; it is then
            not invariant to rescaling B against C.
        eps: added to (1 - |a_i|)^2. The published code uses 1e-8, which moves the scores of slow modes by up to 12% and
            their shares of a layer's sum by up to 10%.
        unstable: `formula` | `protect` | `clip`: the score of an unstable mode (`s5c.reduction.unstable`).

    Source: LAST (arXiv 2411.02824), section 4; code msgwak/LAST.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset({"poles", "inputs", "outputs"})

    score: str = "paper"
    eps: float = bounded(0.0, least=0)
    unstable: str = "formula"

    def __post_init__(self) -> None:
        if self.score not in ("paper", "released"):
            raise unknown("value for reduction.score", self.score, ("paper", "released"))
        check_treatment(self.unstable)

    @property
    def invariant(self) -> bool:
        """Whether the coordinates do not matter: the released score of bidirectional layers is linear in ||C||."""
        return self.score != "released"

    def scores(self, layer: Layer, key: Array) -> Float[Array, "p"]:
        """Returns h of shape (p,)."""
        system = treated(layer.system, self.unstable)
        decay, (_, B_bar) = log_poles(system).real, system.discretise()
        C_norm = output_norms(system)
        output_gain = C_norm / 2 if self.score == "released" and system.C_backward is not None else C_norm**2
        input_gain = jnp.sum(jnp.abs(B_bar) ** 2, axis=1)
        scores = quotient(output_gain * input_gain, jnp.expm1(decay) ** 2 + self.eps)
        return guarded(scores, layer.system, self.unstable)
