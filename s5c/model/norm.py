"""Batch normalisation as Flax has it, with a derivative written by hand.

XLA differentiates the statistics term by term and passes over the batch once for each. By hand it is two sums over
batch and time and one elementwise pass: two thirds of the time on a CPU.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.types import Array, Bool, Features, Float

EPSILON = 1e-5
"""Added to the variance; the published code's, which is Flax's default."""

Statistics = tuple[Float[Array, "h"], Float[Array, "h"]]
"""Mean and variance over batch and time."""


class BatchNorm(nn.Module):
    """Normalises features over batch and time, as the published code does padding included, unless it is told apart.

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    Parameters (`scale`, `bias`), running statistics (`batch_stats`: `mean`, `var`) and arithmetic are those of
    `flax.linen.BatchNorm`, so that checkpoints are interchangeable.

    Attributes:
        training: use the statistics of the batch and update the running ones; otherwise use the running ones.
        momentum: weight of the old running statistics in an update.
    """

    training: bool
    momentum: float

    @nn.compact
    def __call__(self, x: Features, valid: Bool[Array, "b l"] | None = None) -> Features:
        """Maps (b, l, h) to (b, l, h).

        Args:
            x: features.
            valid: which steps enter the statistics; all if None.
        """
        h = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (h,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (h,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (h,))
        bias = self.param("bias", nn.initializers.zeros, (h,))
        if not self.training:
            return _scaled(x, scale, bias, (mean.value, var.value))
        y, statistics = normalised(x, scale, bias) if valid is None else masked(x, scale, bias, valid)
        if not self.is_initializing():
            for running, new in zip((mean, var), statistics, strict=True):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        return y


@jax.custom_vjp
def normalised(x: Features, scale: Float[Array, "h"], bias: Float[Array, "h"]) -> tuple[Features, Statistics]:
    """Returns the features normalised over batch and time, and the statistics used.

    With z = (x - mean) / sqrt(var + epsilon), n = b l and g the gradient of y:

        dx = scale / sqrt(var + epsilon) (g - mean(g) - z mean(g z)),    dscale = sum(g z),    dbias = sum(g)

    The statistics are for the running averages: their gradients are not propagated.

    Args:
        x: features.
        scale: factor per feature.
        bias: summand per feature.
    """
    mean = jnp.mean(x, axis=(0, 1))
    # The mean of the squares, not of the squared deviations: one pass, and what the published code computes.
    var = jnp.maximum(jnp.mean(jnp.square(x), axis=(0, 1)) - jnp.square(mean), 0)
    return _scaled(x, scale, bias, (mean, var)), (mean, var)


def _scaled(x: Features, scale: Array, bias: Array, statistics: Statistics) -> Features:
    mean, var = statistics
    return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias


Residuals = tuple[Features, Array, Statistics]


def _forward(x: Features, scale: Array, bias: Array) -> tuple[tuple[Features, Statistics], Residuals]:
    y, statistics = normalised(x, scale, bias)
    return (y, statistics), (x, scale, statistics)


def _backward(residuals: Residuals, gradients: tuple[Features, Statistics]) -> tuple[Features, Array, Array]:
    (x, scale, (mean, var)), (g, _) = residuals, gradients
    inverse = jax.lax.rsqrt(var + EPSILON)
    dbias = jnp.sum(g, axis=(0, 1))
    dscale = jnp.sum(g * (x - mean), axis=(0, 1)) * inverse
    n = x.shape[0] * x.shape[1]
    dx = (scale * inverse) * (g - dbias / n - (x - mean) * (inverse * dscale / n))
    return dx, dscale, dbias


normalised.defvjp(_forward, _backward)


# ---- over the valid steps alone


@jax.custom_vjp
def masked(
    x: Features, scale: Float[Array, "h"], bias: Float[Array, "h"], valid: Bool[Array, "b l"]
) -> tuple[Features, Statistics]:
    """Returns the features normalised over the valid steps, 0 at the others, and the statistics used.

    As `normalised`, with sums and means, n too, over the valid steps; no gradient is propagated to the others.

    Args:
        x: features; those of other steps are not looked at, and may be NaN.
        scale: factor per feature.
        bias: summand per feature.
        valid: which steps count.
    """
    x = silenced(x, valid)
    n = jnp.sum(valid)
    mean = jnp.sum(x, axis=(0, 1)) / n
    var = jnp.maximum(jnp.sum(jnp.square(x), axis=(0, 1)) / n - jnp.square(mean), 0)
    return silenced(_scaled(x, scale, bias, (mean, var)), valid), (mean, var)


def silenced(x: Features, valid: Bool[Array, "b l"]) -> Features:
    """Returns the features with zeros, whatever they were, at steps that are not valid."""
    return jnp.where(valid[..., None], x, 0)


MaskedResiduals = tuple[Features, Array, Statistics, Array]


def _masked_forward(
    x: Features, scale: Array, bias: Array, valid: Array
) -> tuple[tuple[Features, Statistics], MaskedResiduals]:
    y, statistics = masked(x, scale, bias, valid)
    return (y, statistics), (x, scale, statistics, valid)


def _masked_backward(
    residuals: MaskedResiduals, gradients: tuple[Features, Statistics]
) -> tuple[Features, Array, Array, None]:
    (x, scale, (mean, var), valid), (g, _) = residuals, gradients
    inverse = jax.lax.rsqrt(var + EPSILON)
    g, deviation = silenced(g, valid), silenced(x - mean, valid)
    dbias = jnp.sum(g, axis=(0, 1))
    dscale = jnp.sum(g * deviation, axis=(0, 1)) * inverse
    n = jnp.sum(valid)
    dx = (scale * inverse) * (g - dbias / n - deviation * (inverse * dscale / n))
    return silenced(dx, valid), dscale, dbias, None


masked.defvjp(_masked_forward, _masked_backward)
