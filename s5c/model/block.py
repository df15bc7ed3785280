"""The residual block around a sequence layer (S5 appendix G; half_glu1 is its default)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.model.config import ModelConfig, load_family
from s5c.model.gate import SigmoidGate
from s5c.model.norm import BatchNorm, silenced
from s5c.ssm.precision import dot_general
from s5c.types import Array, Bool, Features, Float


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
        lqo         Drop(y + (W1 y) * (W2 y))    a quadratic output of rank one per feature, with no other nonlinearity

    geglu is the whole block of s5-pytorch, whose skips start behind its norms, with f = ff_norm(norm(x) + g):

        geglu       Drop(f + W_dec (v * gelu(w))),    [v, w] = W_enc f

    gelu is `config.gelu`: Flax's formula with the hyperbolic tangent, as in the published S5, or exact, as in PyTorch.

    Batch normalisation takes its statistics over batch and time, padding included, as the published code does. Where
    valid steps are told apart, the statistics are theirs, and the sequence layer reads zeros at all others: a state at
    rest stays there until the first valid step in its direction, so that no answer depends on the padding.
    """

    config: ModelConfig
    state_dim: int

    @nn.compact
    def __call__(
        self,
        x: Features,
        training: bool = False,
        step_rescale: float = 1.0,
        valid: Bool[Array, "b l"] | None = None,
    ) -> Features:
        """Maps (b, l, h) to (b, l, h); `valid` says which steps are no padding, None if none is to be told apart."""
        config = self.config
        skip = x = self._masked(x, valid)  # whatever padding holds, NaN too
        if config.prenorm:
            x = self._masked(self._normalised(x, training, valid), valid)
        y = self._sequence(x, step_rescale)
        if config.activation == "geglu":
            return self._feedforward(x, y, training)
        x = skip + self._activate(y, training)
        return x if config.prenorm else self._normalised(x, training, valid)

    @staticmethod
    def _masked(x: Features, valid: Bool[Array, "b l"] | None) -> Features:
        return x if valid is None else silenced(x, valid)

    def _normalised(self, x: Features, training: bool, valid: Bool[Array, "b l"] | None) -> Features:
        if self.config.norm == "batch":
            return BatchNorm(training, self.config.bn_momentum, name="norm")(x, valid)
        return nn.LayerNorm(epsilon=self.config.layer_eps, name="norm")(x)

    def _sequence(self, x: Features, step_rescale: float) -> Features:
        return load_family(self.config.family).Layer(self.config, self.state_dim, name="seq")(x, step_rescale)

    def _feedforward(self, x: Features, y: Features, training: bool) -> Features:
        config, tanh = self.config, self.config.gelu == "tanh"
        h, held = x.shape[-1], self.variables.get("params", {}).get("ff_dec")
        width = h if held is None else held["kernel"].shape[0]  # as wide as what was converted

        def drop(values: Features) -> Features:
            return nn.Dropout(config.dropout, broadcast_dims=(1,), deterministic=not training)(values)

        def matrix(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, False, precision=config.precision, dot_general=dot_general, name=name)

        f = nn.LayerNorm(epsilon=config.layer_eps, name="ff_norm")(x + drop(nn.gelu(y, tanh)))
        value, gate = jnp.split(matrix(2 * width, "ff_enc")(f), 2, axis=-1)
        return drop(f + matrix(h, "ff_dec")(value * nn.gelu(gate, tanh)))

    def _activate(self, y: Features, training: bool) -> Features:
        config, (b, _, h) = self.config, y.shape
        tanh = config.gelu == "tanh"

        def drawn() -> Float[Array, "b one h"]:
            return nn.Dropout(config.dropout, broadcast_dims=(1,), deterministic=not training)(jnp.ones((b, 1, h)))

        if config.activation == "lqo":
            first, second = (
                nn.Dense(h, False, precision=config.precision, dot_general=dot_general, name=f"out{i}")(y)
                for i in (1, 2)
            )
            return drawn() * (y + first * second)
        keep = drawn()
        if config.activation == "half_glu2":
            return drawn() * (y * SigmoidGate(config.precision, tanh, name="out2")(y, keep))
        g = keep * jax.checkpoint(partial(nn.gelu, approximate=tanh))(y)  # keeps y alone for the derivative
        if config.activation == "gelu":
            return g
        if config.activation == "full_glu":
            # As one matrix of b l rows: with two axes to sum over, a CPU transposes g for the weight's gradient.
            g = dense(h, config.precision, name="out1")(g.reshape(-1, h)).reshape(g.shape)
        return drawn() * (g * SigmoidGate(config.precision, tanh, name="out2")(y, keep))
