"""Tables of the powers of eigenvalues, exact in float32 for any number of steps.

exp(k log Lambda) in float32 loses the phase of a slow mode: at k = 16,384 the angle k Im(log Lambda) is off by 0.003.
Here the squares Lambda, Lambda^2, Lambda^4, ... are carried in pairs of float32, and every power is the product of at
most 15 of them, rounded once each.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from s5c.types import Array, Complex


def power_tables(
    Lambda: Complex[Array, "*dims"], length: int
) -> tuple[Complex[Array, "*dims T"], Complex[Array, "*dims S"]]:
    """Returns Lambda^t for t < T and (Lambda^T)^s for s < S, with T S >= `length`.

    Every Lambda^k with k < length is a product of one entry of each table: k = T s + t. T is a power of two near the
    square root of the length, where the tables are smallest.

    Args:
        Lambda: discrete eigenvalues.
        length: number of powers.
    """
    T = 1 << ((length - 1).bit_length() // 2)
    return _tables(T, -(-length // T), Lambda)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _tables(T: int, S: int, Lambda: Complex[Array, "*dims"]) -> tuple[Complex[Array, "*dims T"], Array]:
    """Returns Lambda^t for t < T, a power of two, and (Lambda^T)^s for s < S."""
    bits = T.bit_length() - 1
    squares = _squares(Lambda, bits + (S - 1).bit_length())
    return _powers(squares[:bits], T), _powers(squares[bits:], S)


@_tables.defjvp
def _tables_jvp(
    T: int, S: int, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """d Lambda^t = t Lambda^(t-1) d Lambda, from the tables themselves: no division by a small Lambda."""
    fine, coarse = _tables(T, S, *primals)
    d_Lambda = tangents[0][..., None]
    d_base = T * fine[..., -1:] * d_Lambda
    return (fine, coarse), (_derivative(fine) * d_Lambda, _derivative(coarse) * d_base)


def _derivative(powers: Complex[Array, "*dims T"]) -> Complex[Array, "*dims T"]:
    before = jnp.concatenate([jnp.zeros_like(powers[..., :1]), powers[..., :-1]], axis=-1)
    return jnp.arange(powers.shape[-1], dtype=powers.real.dtype) * before


def _powers(squares: Complex[Array, "bits *dims"], count: int) -> Complex[Array, "*dims count"]:
    """Returns z^k for k < count, each the product of the squares that the bits of k name: log2(count) roundings."""
    k = jnp.arange(count)
    table = jnp.ones((*squares.shape[1:], count), squares.dtype)
    for bit in range((count - 1).bit_length()):
        table = table * jnp.where(k >> bit & 1, squares[bit][..., None], 1)
    return table


def _squares(z: Complex[Array, "*dims"], count: int) -> Complex[Array, "count *dims"]:
    """Returns z, z^2, z^4, ..., each right to the last bit.

    A loop on purpose: unrolled, XLA fuses every square into all that follow and compiles for minutes.
    """
    nothing = jnp.zeros_like(z.real)

    def square(pairs: tuple[Pair, Pair], _: None) -> tuple[tuple[Pair, Pair], Array]:
        re, im = pairs
        squared = _add(_mul(re, re), _negative(_mul(im, im))), _twice(_mul(re, im))
        return squared, jax.lax.complex(re[0], im[0])

    return jax.lax.scan(square, ((z.real, nothing), (z.imag, nothing)), None, length=count)[1]


Pair = tuple[Array, Array]
"""An unevaluated sum of two float32, about 48 bits: the second is the rounding error of the first (Dekker 1971)."""


def _negative(a: Pair) -> Pair:
    return -a[0], -a[1]


def _twice(a: Pair) -> Pair:
    return 2 * a[0], 2 * a[1]


def _two_sum(a: Array, b: Array) -> Pair:
    """Returns a + b and its rounding error, exactly."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _halves(a: Array) -> Pair:
    """Cuts the significand in two by its bits, which no compiler's reordering of sums can undo."""
    if a.dtype == jnp.float64:
        kept = jax.lax.bitcast_convert_type(a, jnp.uint64) & jnp.uint64(0xFFFFFFFFF8000000)
    else:
        kept = jax.lax.bitcast_convert_type(a, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(kept, a.dtype)
    return high, a - high


def _two_product(a: Array, b: Array) -> Pair:
    """Returns a b and its rounding error, exactly."""
    product = a * b
    (a1, a0), (b1, b0) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b0 + a0 * b1) + a0 * b0


def _mul(a: Pair, b: Pair) -> Pair:
    product, error = _two_product(a[0], b[0])
    return _two_sum(product, error + (a[0] * b[1] + a[1] * b[0]))


def _add(a: Pair, b: Pair) -> Pair:
    total, error = _two_sum(a[0], b[0])
    return _two_sum(total, error + (a[1] + b[1]))
