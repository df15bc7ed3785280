"""The residual block around a sequence layer (S5 appendix G; half_glu1 is its default)."""

from __future__ import annotations

import flax.linen as nn
import jax

from s5c.model.config import ModelConfig, load_family
from s5c.types import Features


class Block(nn.Module):
    """skip + activation(SSM(norm(x))), or norm(skip + activation(SSM(x))) when `prenorm` is off.

    With g = Drop(gelu(y)), y the output of the sequence layer:

        gelu        g
        half_glu1   Drop(g * sigmoid(W g + b))
        half_glu2   Drop(y * sigmoid(W g + b))
        full_glu    Drop((W1 g + b1) * sigmoid(W2 g + b2))

    Batch normalisation takes its statistics over batch and time, padding included, as the published code does.
    """

    config: ModelConfig
    state_dim: int

    @nn.compact
    def __call__(self, x: Features, training: bool = False, step_rescale: float = 1.0) -> Features:
        """Maps (b, l, h) to (b, l, h)."""
        config, h = self.config, self.config.d_model
        if config.norm == "batch":
            norm: nn.Module = nn.BatchNorm(not training, momentum=config.bn_momentum, name="norm")
        else:
            norm = nn.LayerNorm(name="norm")

        def drop(z: Features) -> Features:
            return nn.Dropout(config.dropout, broadcast_dims=(1,), deterministic=not training)(z)

        skip = x
        if config.prenorm:
            x = norm(x)
        y = load_family(config.family).Layer(config, self.state_dim, name="seq")(x, step_rescale)
        g = drop(nn.gelu(y))
        if config.activation == "half_glu1":
            g = drop(g * jax.nn.sigmoid(nn.Dense(h, name="out2")(g)))
        elif config.activation == "half_glu2":
            g = drop(y * jax.nn.sigmoid(nn.Dense(h, name="out2")(g)))
        elif config.activation == "full_glu":
            g = drop(nn.Dense(h, name="out1")(g) * jax.nn.sigmoid(nn.Dense(h, name="out2")(g)))
        x = skip + g
        return x if config.prenorm else norm(x)
