"""`unstructured_random`: single parameters set to zero at random; masked only, nothing gets smaller."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from s5c.ssm.system import DiagonalSSM
from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Method:
    """Sets each real number of Lambda, B and C (both directions) to zero with probability `ratio`.

    LAST compares against unstructured random pruning without saying which parameters take part; these are the ones
    its state pruning removes, except the step size, of which a zero has no meaning. A mode whose real part is set to
    zero becomes an integrator or oscillator: that is why this baseline collapses.

    Source: "unstructured random" in LAST (arXiv 2411.02824), section 5; details not known.
    """

    draws_numbers: ClassVar[bool] = True

    def mask(self, system: DiagonalSSM, ratio: Float[Array, ""], key: Array) -> DiagonalSSM:
        """Returns the masked system, all shapes unchanged. The masks of growing ratios are nested."""

        fields: dict[str, Any] = {}
        for stream, name in enumerate(("Lambda", "B", "C", "C_backward")):
            values = getattr(system, name)
            if values is not None:
                parts = jnp.stack([values.real, values.imag])
                drawn = jax.random.uniform(jax.random.fold_in(key, stream), parts.shape)
                fields[name] = jax.lax.complex(*jnp.where(drawn < ratio, 0, parts))
        return dataclasses.replace(system, **fields)
