"""What a backend of the sequence operator is given, and the arithmetic that backends share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from s5c.ssm.precision import dot_general
from s5c.types import Array, Float

Pair = tuple[Array, Array]
"""Real and imaginary parts."""


T = TypeVar("T")


class Shape(NamedTuple):
    """Everything the choice of a backend may depend on."""

    batch: int
    length: int
    features: int
    state_dim: int
    bidirectional: bool


class Call(NamedTuple):
    """What is static about one call.

    Attributes:
        directions: per direction, whether it runs against time.
        precision: precision of the matrix products, one of `s5c.ssm.precision.PRECISIONS`. The recurrence, the
            eigenvalues and their gradient always keep the precision of the eigenvalues.
    """

    directions: tuple[bool, ...]
    precision: str = "float32"


class RealSystem(NamedTuple):
    """A discrete-time diagonal system in real form; a state is [real parts, imaginary parts].

        x_k = a x_{k-1} + u_k W_in,    y_k = sum over directions of x_k W_out

    Attributes:
        a: eigenvalues, real and imaginary parts, (p,) each.
        W_in: (h, 2p), shared by the directions.
        W_out: per direction, (2p, out); the factor 2 of the conjugate half is in it.
    """

    a: Pair
    W_in: Float[Array, "h twop"]
    W_out: tuple[Float[Array, "twop out"], ...]


States = tuple[Array, ...]
"""Per direction, one state (b, 2p) of every sequence."""


def total(parts: Sequence[T]) -> T:
    """Adds trees of arrays leaf by leaf."""
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.add, leaves), *parts)


def matmul(call: Call, x: Float[Array, "*rows k"], W: Float[Array, "k n"]) -> Float[Array, "*rows n"]:
    """Multiplies by a matrix; a half-precision `x` enters as it is and the sum has the precision of `W`."""
    return dot_general(x, W, (((x.ndim - 1,), (0,)), ((), ())), precision=call.precision)


def outer(call: Call, x: Float[Array, "l b m"], y: Float[Array, "l b n"]) -> Float[Array, "m n"]:
    """Sums x y^T over time and batch: the gradient of a product's matrix, in the precision of `y`."""
    return dot_general(x.astype(y.dtype), y, (((0, 1), (0, 1)), ((), ())), precision=call.precision)


def conjugate(a: Pair) -> Pair:
    """Returns the complex conjugate of the eigenvalues."""
    return a[0], -a[1]


def times(a: Pair, x: Float[Array, "*rows twop"]) -> Float[Array, "*rows twop"]:
    """Returns the complex product of eigenvalues and states."""
    re, im = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a[0] * re - a[1] * im, a[0] * im + a[1] * re], axis=-1)


def before(x: Float[Array, "l b twop"], x0: Float[Array, "b twop"], reverse: bool) -> Float[Array, "l b twop"]:
    """Returns the states one step earlier in running order, beginning with `x0`."""
    return jnp.concatenate([x[1:], x0[None]] if reverse else [x0[None], x[:-1]])


def eigenvalue_gradient(s: Float[Array, "l b twop"], x_before: Float[Array, "l b twop"]) -> Pair:
    """Returns sum_k s_k conj(x_{k-1}), whose parts are the derivatives with respect to the parts of `a`."""
    s_re, s_im = jnp.split(s, 2, axis=-1)
    x_re, x_im = jnp.split(x_before, 2, axis=-1)
    return jnp.sum(s_re * x_re + s_im * x_im, axis=(0, 1)), jnp.sum(s_im * x_re - s_re * x_im, axis=(0, 1))


def step_by_step(
    a: Pair, b: Float[Array, "l b twop"], x0: Float[Array, "b twop"], reverse: bool
) -> Float[Array, "l b twop"]:
    """Runs x_k = a x_{k-1} + b_k one step after the other; returns all states."""
    p = a[0].shape[0]

    def step(x: Pair, b_k: Array) -> tuple[Pair, Array]:
        following = (a[0] * x[0] - a[1] * x[1] + b_k[:, :p], a[0] * x[1] + a[1] * x[0] + b_k[:, p:])
        return following, jnp.concatenate(following, axis=-1)

    return jax.lax.scan(step, (x0[:, :p], x0[:, p:]), b, reverse=reverse)[1]
