"""The residual block around a sequence layer (S5 appendix G; half_glu1 is its default)."""

from __future__ import annotations

import flax.linen as nn
import jax

from s5c.model.config import ModelConfig, load_family
from s5c.ssm.precision import dot_general
from s5c.types import Features


def dense(features: int, precision: str, name: str | None = None) -> nn.Dense:
    """Returns a dense layer that multiplies in `precision`."""
    return nn.Dense(features, precision=precision, dot_general=dot_general, name=name)


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
        config = self.config
        if config.norm == "batch":
            norm: nn.Module = nn.BatchNorm(not training, momentum=config.bn_momentum, name="norm")
        else:
            norm = nn.LayerNorm(name="norm")

        skip = x
        if config.prenorm:
            x = norm(x)
        y = load_family(config.family).Layer(config, self.state_dim, name="seq")(x, step_rescale)
        # Of y only the matrix products are kept for the derivative; gelu, sigmoid and masks are cheaper made again.
        saved = jax.checkpoint_policies.dots_saveable
        activate = nn.remat(Block._activate, policy=saved, static_argnums=(2,)) if training else Block._activate
        x = skip + activate(self, y, training)
        return x if config.prenorm else norm(x)

    def _activate(self, y: Features, training: bool) -> Features:
        config, h = self.config, self.config.d_model

        def drop(z: Features) -> Features:
            return nn.Dropout(config.dropout, broadcast_dims=(1,), deterministic=not training)(z)

        def linear(name: str, z: Features) -> Features:
            # As one matrix of b l rows: with two axes to sum over, a CPU transposes z for the weight's gradient.
            return dense(h, config.precision, name)(z.reshape(-1, h)).reshape(z.shape)

        g = drop(nn.gelu(y))
        if config.activation == "half_glu1":
            return drop(g * jax.nn.sigmoid(linear("out2", g)))
        if config.activation == "half_glu2":
            return drop(y * jax.nn.sigmoid(linear("out2", g)))
        if config.activation == "full_glu":
            return drop(linear("out1", g) * jax.nn.sigmoid(linear("out2", g)))
        return g
