"""Blocks of time, each projected, scanned and projected back while it is in the cache: long sequences on CPUs.

Only the state before every block is kept; the derivative recomputes the others, block by block. No power of the
eigenvalues is formed, so rounding is that of the plain recurrence. Two directions share the products with the input
matrix: the first leaves its blocks to the second, forward and in the derivative.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from s5c.ssm.call import (
    Call,
    RealSystem,
    States,
    before,
    conjugate,
    eigenvalue_gradient,
    matmul,
    outer,
    step_by_step,
    times,
    total,
)
from s5c.types import Array, Features, Float

BLOCK = 128
"""Longest block. Sequences are cut into equal blocks, so 784 steps make seven of 112."""


def forward(
    call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, and the states before every block."""
    padded, numbers = _padded(u)
    handed: Any = (None, None)  # from one direction to the next: projected input, states
    y: Any = None
    last, starts = [], []
    for i, reverse in enumerate(call.directions):
        run = partial(_run_block, call, system, _Direction(u.shape[1], reverse), i, x0[i], padded)
        end, (handed, y, start) = jax.lax.scan(run, jnp.zeros_like(x0[i]), (numbers, handed), reverse=reverse)
        last.append(end)
        starts.append(start)
    return _joined(y, u.shape[1]), tuple(last), tuple(starts)


def backward(
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    starts: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states; recomputes the states by block."""
    (padded, numbers), (g_padded, _) = _padded(u), _padded(gy)
    handed: Any = (None, None)  # from one direction to the next: projected input, adjoint
    du: Any = None
    summed = []
    for i, reverse in enumerate(call.directions):
        direction = _Direction(u.shape[1], reverse)
        run = partial(_differentiate_block, call, system, direction, i, x0[i], g_last[i], padded, g_padded)
        zero = jax.tree.map(jnp.zeros_like, (system.a, system.W_in, system.W_out[i], x0[i]))
        blocks = (numbers, starts[i], handed)
        (_, sums), (handed, du) = jax.lax.scan(run, (jnp.zeros_like(x0[i]), zero), blocks, reverse=not reverse)
        summed.append(sums)
    a, W_in = total([sums[:2] for sums in summed])
    gradient = RealSystem(a, W_in, tuple(sums[2] for sums in summed))
    return gradient, _joined(du, u.shape[1]), tuple(sums[3] for sums in summed)


def _size(length: int) -> tuple[int, int, int]:
    """Returns the number and the size of the blocks, and by how many zeros the sequence is lengthened at its front."""
    number = -(-length // BLOCK)
    size = -(-length // number)
    return number, size, number * size - length


def _padded(x: Float[Array, "b l h"]) -> tuple[Float[Array, "b m h"], Array]:
    """Returns the sequence, lengthened to whole blocks, and their numbers."""
    number, _, padding = _size(x.shape[1])
    return jnp.pad(x, ((0, 0), (padding, 0), (0, 0))) if padding else x, jnp.arange(number)


def _block(x: Float[Array, "b m h"], number: Array, size: int) -> Float[Array, "b t h"]:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis=1)


def _joined(x: Float[Array, "n b t h"], length: int) -> Float[Array, "b l h"]:
    n, b, t, h = x.shape
    return x.swapaxes(0, 1).reshape(b, n * t, h)[:, n * t - length :]


class _Direction:
    """Where a run through the padded blocks begins and ends.

    The zeros in front leave no trace in a run that begins with them: its state is zero until `x0` enters with the first
    real step. A run that ends with them is read off, and its adjoint enters, at the last real step.
    """

    def __init__(self, length: int, reverse: bool) -> None:
        number, size, padding = _size(length)
        self.reverse, self.size = reverse, size
        self.first_block, self.last_block = (number - 1, 0) if reverse else (0, number - 1)
        self.first_row, self.last_row = (size - 1, padding) if reverse else (padding, size - 1)
        self.end = 0 if reverse else size - 1  # of a block, in running order

    def states(
        self, system: RealSystem, x0: Array, number: Array, x: Array, b: Float[Array, "t b twop"]
    ) -> Float[Array, "t b twop"]:
        """Returns the states of a block that starts from `x`."""
        entering = jnp.where(number == self.first_block, times(system.a, x0), 0)
        return step_by_step(system.a, b.at[self.first_row].add(entering), x, self.reverse)


Carry = tuple[Array, Any]


def _run_block(
    call: Call,
    system: RealSystem,
    direction: _Direction,
    i: int,
    x0: Array,
    u: Float[Array, "b m h"],
    x: Array,
    block: tuple[Any, ...],
) -> tuple[Array, tuple[Any, ...]]:
    """Runs direction `i` through one block, from the state `x`; the last direction multiplies all states."""
    number, (b, earlier) = block
    if b is None:
        b = jnp.swapaxes(matmul(call, _block(u, number, direction.size), system.W_in), 0, 1)
    states = direction.states(system, x0, number, x, b)
    end = jnp.where(number == direction.last_block, states[direction.last_row], states[direction.end])
    together = states if earlier is None else jnp.concatenate([earlier, states], axis=-1)
    if i + 1 < len(call.directions):
        return end, ((b, together), None, x)
    y = matmul(call, jnp.swapaxes(together, 0, 1), jnp.concatenate(system.W_out))
    return end, ((None, None), y, x)


def _differentiate_block(
    call: Call,
    system: RealSystem,
    direction: _Direction,
    i: int,
    x0: Array,
    g_last: Array,
    u: Float[Array, "b m h"],
    gy: Float[Array, "b m out"],
    carry: Carry,
    block: tuple[Any, ...],
) -> tuple[Carry, tuple[Any, ...]]:
    """Takes conj(a) s of the following block, and the gradients so far, one block back.

    The last direction multiplies the adjoints of all directions with the input and its matrix.
    """
    arriving, summed = carry
    number, x, (b, s) = block
    reverse, more = direction.reverse, i + 1 < len(call.directions)
    u_block = _block(u, number, direction.size)
    g = _block(gy, number, direction.size).astype(system.W_in.dtype)
    if b is None:
        b = jnp.swapaxes(matmul(call, u_block, system.W_in), 0, 1)
    states = direction.states(system, x0, number, x, b)

    gx = jnp.swapaxes(matmul(call, g, system.W_out[i].T), 0, 1).at[direction.end].add(arriving)
    gx = gx.at[direction.last_row].add(jnp.where(number == direction.last_block, g_last, 0))
    s_direction = step_by_step(conjugate(system.a), gx, jnp.zeros_like(x), not reverse)

    begins = number == direction.first_block
    x_before = before(states, x, reverse).at[direction.first_row].add(jnp.where(begins, x0, 0))
    da = eigenvalue_gradient(s_direction, x_before)
    dx0 = jnp.where(begins, times(conjugate(system.a), s_direction[direction.first_row]), 0)
    leaving = times(conjugate(system.a), s_direction[-1 if reverse else 0])
    s = s_direction if s is None else s + s_direction
    s_rows = jnp.swapaxes(s, 0, 1)
    dW_in = jnp.zeros_like(system.W_in) if more else outer(call, u_block, s_rows)
    summed = total((summed, (da, dW_in, outer(call, jnp.swapaxes(states, 0, 1), g), dx0)))
    return (leaving, summed), ((b, s), None) if more else ((None, None), matmul(call, s_rows, system.W_in.T))
