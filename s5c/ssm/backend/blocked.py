"""Blocks of time, each projected, scanned and projected back while it is in the cache: long sequences on CPUs.

Kept for the derivative are the projected inputs, which cost a matrix product, and the state before every block; the
other states are recomputed, block by block. No power of the eigenvalues is formed, so rounding is that of the plain
recurrence. Two directions share the products with the input matrix: the first leaves its blocks to the second, forward
and in the derivative. Arrays stay batch-major, as the products have them: transposing every block cost a tenth of the
time.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from s5c.ssm.call import (
    Call,
    Pair,
    RealSystem,
    States,
    conjugate,
    eigenvalue_gradient,
    matmul,
    outer,
    times,
    total,
)
from s5c.types import Array, Features, Float

BLOCK = 128
"""Longest block. Sequences are cut into equal blocks, so 784 steps make seven of 112."""

SHORTEST = 16
"""Steps of the blocks of large batches; below, the loop over blocks costs more than the cache saves."""

ROWS = 1024
"""Rows (sequences times steps) of a block that stay in a CPU's cache of 1 MB with their states. A batch of 50 takes a
sixth less time in blocks of 16 steps than of 128 (measured at 256 features, 192 real states, both directions)."""


def forward(
    call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, the projected inputs and the states before every block."""
    cut = _Cut(*u.shape[:2])
    padded = cut.padded(u)
    b: Any = None  # made by the first direction
    earlier: Any = None  # states, from one direction to the next
    y = cut.room(system.W_out[0].shape[1], u, system.W_in.dtype)
    last, starts = [], []
    for i, reverse in enumerate(call.directions):
        run = partial(_run_block, call, system, _Direction(cut, reverse), i, x0[i], padded)
        over = (jnp.arange(cut.number), b, earlier)
        (end, y), (projected, earlier, start) = jax.lax.scan(run, (jnp.zeros_like(x0[i]), y), over, reverse=reverse)
        b = projected if b is None else b
        last.append(end)
        starts.append(start)
    return cut.real_steps(y), tuple(last), (b, *starts)


def backward(
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    saved: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states; recomputes the states by block."""
    cut = _Cut(*u.shape[:2])
    padded, g_padded = cut.padded(u), cut.padded(gy)
    b, *starts = saved
    s: Any = None  # adjoint, from one direction to the next
    du = cut.room(u.shape[2], gy, system.W_in.dtype)
    summed = []
    for i, reverse in enumerate(call.directions):
        run = partial(
            _differentiate_block, call, system, _Direction(cut, reverse), i, x0[i], g_last[i], g_padded, padded
        )
        zero = jax.tree.map(jnp.zeros_like, (system.a, system.W_in, system.W_out[i], x0[i]))
        over = (jnp.arange(cut.number), b, starts[i], s)
        carry = (jnp.zeros_like(x0[i]), zero, du)
        (_, sums, du), s = jax.lax.scan(run, carry, over, reverse=not reverse)
        summed.append(sums)
    a, W_in = total([sums[:2] for sums in summed])
    gradient = RealSystem(a, W_in, tuple(sums[2] for sums in summed))
    return gradient, cut.real_steps(du), tuple(sums[3] for sums in summed)


class _Cut:
    """How a batch of sequences is cut into equal blocks of time, lengthened by zeros at its front if need be."""

    def __init__(self, batch: int, length: int) -> None:
        longest = min(BLOCK, max(SHORTEST, 2 ** round(math.log2(ROWS / batch))))
        self.number = -(-length // longest)
        self.size = -(-length // self.number)
        self.padding = self.number * self.size - length
        self.batch = batch

    def room(self, width: int, source: Features, dtype: Any) -> Float[Array, "b m width"]:
        """Returns an array to be filled block by block.

        It holds a number of `source`: of a constant XLA would keep one array all the time and copy it for every layer.
        """
        return jnp.broadcast_to(source[0, 0, 0].astype(dtype), (self.batch, self.number * self.size, width))

    def padded(self, x: Float[Array, "b l h"]) -> Float[Array, "b m h"]:
        """Returns the sequences, lengthened to whole blocks."""
        return jnp.pad(x, ((0, 0), (self.padding, 0), (0, 0))) if self.padding else x

    def block(self, x: Float[Array, "b m h"], number: Array) -> Float[Array, "b t h"]:
        """Reads one block."""
        return jax.lax.dynamic_slice_in_dim(x, number * self.size, self.size, axis=1)

    def put(self, x: Float[Array, "b m h"], number: Array, block: Float[Array, "b t h"]) -> Float[Array, "b m h"]:
        """Writes one block, in place inside a compiled loop."""
        return jax.lax.dynamic_update_slice_in_dim(x, block, number * self.size, axis=1)

    def real_steps(self, x: Float[Array, "b m h"]) -> Float[Array, "b l h"]:
        """Returns the sequences without the zeros in front."""
        return x[:, self.padding :]


class _Direction:
    """Where a run through the padded blocks begins and ends.

    The zeros in front leave no trace in a run that begins with them: its state is zero until `x0` enters with the first
    real step. A run that ends with them is read off, and its adjoint enters, at the last real step.
    """

    def __init__(self, cut: _Cut, reverse: bool) -> None:
        last, size = cut.number - 1, cut.size
        self.cut, self.reverse = cut, reverse
        self.first_block, self.last_block = last * reverse, last * (not reverse)
        self.first_row, self.last_row = (size - 1, cut.padding) if reverse else (cut.padding, size - 1)
        self.end = 0 if reverse else size - 1  # of a block, in running order

    def states(
        self, system: RealSystem, x0: Array, number: Array, x: Array, b: Float[Array, "b t twop"]
    ) -> Float[Array, "b t twop"]:
        """Returns the states of a block that starts from `x`."""
        entering = jnp.where(number == self.first_block, times(system.a, x0), 0)
        return _run(system.a, b.at[:, self.first_row].add(entering), x, self.reverse)


def _run(a: Pair, b: Float[Array, "b t twop"], x0: Float[Array, "b twop"], reverse: bool) -> Float[Array, "b t twop"]:
    """Runs x_k = a x_{k-1} + b_k through a block, in place: the states take the room of `b`.

    A state is a pair of rows [re, im], so that a complex product is a x + a' [im, re]: one fused loop body.
    """
    batch, size, width = b.shape
    same, crossed = jnp.stack([a[0], a[0]]), jnp.stack([-a[1], a[1]])

    def step(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, states = carry
        k = size - 1 - k if reverse else k
        x = same * x + crossed * x[:, ::-1] + jax.lax.dynamic_index_in_dim(states, k, axis=1, keepdims=False)
        return x, jax.lax.dynamic_update_index_in_dim(states, x, k, axis=1)

    paired = (x0.reshape(batch, 2, -1), b.reshape(batch, size, 2, -1))
    return jax.lax.fori_loop(0, size, step, paired)[1].reshape(batch, size, width)


def _before(x: Float[Array, "b t twop"], x0: Float[Array, "b twop"], reverse: bool) -> Float[Array, "b t twop"]:
    """Returns the states one step earlier in running order, beginning with `x0`."""
    return jnp.concatenate([x[:, 1:], x0[:, None]] if reverse else [x0[:, None], x[:, :-1]], axis=1)


def _run_block(
    call: Call,
    system: RealSystem,
    direction: _Direction,
    i: int,
    x0: Array,
    u: Float[Array, "b m h"],
    carry: tuple[Array, Array],
    over: tuple[Array, Array | None, Array | None],
) -> tuple[tuple[Array, Array], tuple[Array | None, Array | None, Array]]:
    """Runs direction `i` through one block, from the state `x`; the last direction multiplies all states."""
    (x, y), (number, b, earlier), cut = carry, over, direction.cut
    projected = matmul(call, cut.block(u, number), system.W_in) if b is None else b
    states = direction.states(system, x0, number, x, projected)
    end = jnp.where(number == direction.last_block, states[:, direction.last_row], states[:, direction.end])
    together = states if earlier is None else jnp.concatenate([earlier, states], axis=-1)
    new = projected if b is None else None
    if i + 1 < len(call.directions):
        return (end, y), (new, together, x)
    y = cut.put(y, number, matmul(call, together, jnp.concatenate(system.W_out)))
    return (end, y), (new, None, x)


Sums = tuple[Pair, Array, Array, Array]
"""Gradients of a, W_in, W_out of a direction, and of its starting states."""


def _differentiate_block(
    call: Call,
    system: RealSystem,
    direction: _Direction,
    i: int,
    x0: Array,
    g_last: Array,
    gy: Float[Array, "b m out"],
    u: Float[Array, "b m h"],
    carry: tuple[Array, Sums, Array],
    over: tuple[Array, Array, Array, Array | None],
) -> tuple[tuple[Array, Sums, Array], Array | None]:
    """Takes conj(a) s of the following block, and the gradients so far, one block back.

    The last direction multiplies the adjoints of all directions with the input and its matrix.
    """
    (arriving, summed, du), (number, b, x, s), cut = carry, over, direction.cut
    reverse, more = direction.reverse, i + 1 < len(call.directions)
    g = cut.block(gy, number).astype(system.W_in.dtype)
    states = direction.states(system, x0, number, x, b)

    gx = matmul(call, g, system.W_out[i].T).at[:, direction.end].add(arriving)
    gx = gx.at[:, direction.last_row].add(jnp.where(number == direction.last_block, g_last, 0))
    s_direction = _run(conjugate(system.a), gx, jnp.zeros_like(x), not reverse)

    begins = number == direction.first_block
    x_before = _before(states, x, reverse).at[:, direction.first_row].add(jnp.where(begins, x0, 0))
    da = eigenvalue_gradient(s_direction, x_before)
    dx0 = jnp.where(begins, times(conjugate(system.a), s_direction[:, direction.first_row]), 0)
    leaving = times(conjugate(system.a), s_direction[:, -1 if reverse else 0])
    s = s_direction if s is None else s + s_direction
    u_block = cut.block(u, number)
    dW_in = jnp.zeros_like(system.W_in) if more else outer(call, u_block, s)
    summed = total((summed, (da, dW_in, outer(call, states, g), dx0)))
    if more:
        return (leaving, summed, du), s
    return (leaving, summed, cut.put(du, number, matmul(call, s, system.W_in.T))), None
