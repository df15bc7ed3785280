"""`Gate`: the nonlinearity a layer feeds and the normalisation that feeds it, as plain arrays."""

from __future__ import annotations

import dataclasses

import jax

from s5c.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Gate:
    """The block around a sequence layer at inference: u = scale z + shift, y = SSM(u), out = activation(y).

    `half_glu1` and `half_glu2` use W2 and b2 (`out2` of `s5c.model.block`), `full_glu` both pairs, `lqo` both
    matrices, `gelu` none.

    Attributes:
        activation: gelu | half_glu1 | half_glu2 | full_glu | lqo.
        scale: scale of the input normalisation at inference: gamma / sigma for batch normalisation; None for layer
            normalisation, whose statistics depend on the input, and where the norm comes after the block.
        shift: beta - mu gamma / sigma; None as for `scale`.
        gain: learned scale gamma of the normalisation: what deviation a normalised input has per feature.
        offset: learned shift beta: what mean a normalised input has per feature.
        W1: full_glu's value matrix, out = W1 g, shape (outputs, inputs); lqo's first factor.
        b1: its bias; None for lqo.
        W2: gate matrix, shape (outputs, inputs); lqo's second factor.
        b2: its bias; None for lqo.
    """

    activation: str
    scale: Float[Array, "*layers h"] | None = None
    shift: Float[Array, "*layers h"] | None = None
    gain: Float[Array, "*layers h"] | None = None
    offset: Float[Array, "*layers h"] | None = None
    W1: Float[Array, "*layers h h"] | None = None
    b1: Float[Array, "*layers h"] | None = None
    W2: Float[Array, "*layers h h"] | None = None
    b2: Float[Array, "*layers h"] | None = None


jax.tree_util.register_dataclass(
    Gate,
    data_fields=["scale", "shift", "gain", "offset", "W1", "b1", "W2", "b2"],
    meta_fields=["activation"],
)
