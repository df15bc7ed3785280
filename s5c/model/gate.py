"""The gate behind a sequence layer, with a derivative written by hand.

Left to itself XLA either keeps ten arrays of the size of y for the derivative or computes gelu and sigmoid again in
every fusion that uses them. Kept here are y and the gate itself.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.ssm.precision import dot_general
from s5c.types import Array, Features, Float

Factor = Float[Array, "b one h"]
"""What dropout multiplies the features of a sequence by, the same at all steps."""


class SigmoidGate(nn.Module):
    """sigmoid(W g + b) with g = keep gelu(y): a dense layer's parameters, `kernel` and `bias`, and initial values.

    Attributes:
        precision: precision of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        tanh: take Flax's formula for gelu with the hyperbolic tangent; else v Phi(v) itself.
    """

    precision: str
    tanh: bool = True

    @nn.compact
    def __call__(self, y: Features, keep: Factor) -> Features:
        """Maps the output (b, l, h) of a sequence layer to its gate (b, l, h)."""
        h = y.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (h, h))
        bias = self.param("bias", nn.initializers.zeros, (h,))
        return gate(self.precision, self.tanh, y, keep, kernel, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gate(
    precision: str, tanh: bool, y: Features, keep: Factor, kernel: Float[Array, "h h"], bias: Float[Array, "h"]
) -> Features:
    """Returns s = sigmoid(W g + b) with g = keep gelu(y).

    With e the gradient of s and f = e s (1 - s):

        dy = keep gelu'(y) (f W^T),    dW = g^T f,    db = sum(f)

    Args:
        precision: precision of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        tanh: which gelu, as for `SigmoidGate`.
        y: output of a sequence layer.
        keep: mask of dropout; no gradient is propagated to it.
        kernel: W.
        bias: b.
    """
    g = (keep * nn.gelu(y, tanh)).reshape(-1, y.shape[-1])
    return jax.nn.sigmoid(_product(precision, g, kernel, 1, 0).reshape(y.shape) + bias)


def _product(precision: str, x: Array, y: Array, axis_x: int, axis_y: int) -> Array:
    return dot_general(x, y, (((axis_x,), (axis_y,)), ((), ())), precision=precision)


Residuals = tuple[Features, Factor, Array, Features]


def _forward(
    precision: str, tanh: bool, y: Features, keep: Factor, kernel: Array, bias: Array
) -> tuple[Features, Residuals]:
    s = gate(precision, tanh, y, keep, kernel, bias)
    return s, (y, keep, kernel, s)


def _backward(precision: str, tanh: bool, residuals: Residuals, e: Features) -> tuple[Array, ...]:
    y, keep, kernel, s = residuals
    # Behind a barrier: XLA would otherwise find the tanh of the forward pass, and keep it until here.
    gelu, derivative = jax.vjp(partial(nn.gelu, approximate=tanh), jax.lax.optimization_barrier(y))
    # As matrices of b l rows: with two axes to sum over, a CPU transposes g for the gradient of the kernel.
    f = (e * s * (1 - s)).reshape(-1, y.shape[-1])
    dkernel = _product(precision, (keep * gelu).reshape(f.shape), f, 0, 0)
    (dy,) = derivative(keep * _product(precision, f, kernel, 1, 1).reshape(y.shape))
    return dy, jnp.zeros_like(keep), dkernel, jnp.sum(f, axis=0)


gate.defvjp(_forward, _backward)
