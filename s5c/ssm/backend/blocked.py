"""Blocks of time, each projected, scanned and projected back while it is in the cache: long sequences on CPUs.

Only the state at the beginning of every block is kept; the derivative recomputes the others, block by block. No power
of the eigenvalues is formed, so rounding is that of the plain recurrence.
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
    outputs, last, starts = [], [], []
    for i, reverse in enumerate(call.directions):
        cut = _Cut(u.shape[1], reverse)
        run = partial(_run_block, call, system, x0[i], i, cut)
        final, (y, before_blocks) = jax.lax.scan(run, jnp.zeros_like(x0[i]), cut.blocks(u), reverse=reverse)
        outputs.append(cut.joined(y))
        last.append(final)
        starts.append(before_blocks)
    return total(outputs), tuple(last), tuple(starts)


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
    gradients, du, dx0 = [], [], []
    for i, reverse in enumerate(call.directions):
        cut = _Cut(u.shape[1], reverse)
        zero = jax.tree.map(jnp.zeros_like, (system.a, system.W_in, system.W_out[i], x0[i]))
        run = partial(_differentiate_block, call, system, x0[i], i, cut)
        inputs = (*cut.blocks(u), cut.blocks(gy)[0], starts[i])
        (_, summed), du_blocks = jax.lax.scan(run, (g_last[i], zero), inputs, reverse=not reverse)
        gradients.append(summed[:3])
        dx0.append(summed[3])
        du.append(cut.joined(du_blocks))
    a, W_in = total([g[:2] for g in gradients])
    return RealSystem(a, W_in, tuple(g[2] for g in gradients)), total(du), tuple(dx0)


class _Cut:
    """Cuts one direction of time into equal blocks, padded with zeros where the run begins.

    There the state is zero, so padding leaves no trace in it; the starting state enters with the first real step.
    """

    def __init__(self, length: int, reverse: bool) -> None:
        self.number = -(-length // BLOCK)
        self.size = -(-length // self.number)
        self.length, self.reverse = length, reverse
        self.padding = self.number * self.size - length
        self.first = self.size - 1 - self.padding if reverse else self.padding  # row of the first real step

    def blocks(self, x: Float[Array, "b l h"]) -> tuple[Float[Array, "n t b h"], Array]:
        """Returns the blocks, time-major, and which of them is the first in running order."""
        b, _, h = x.shape
        if self.padding:
            x = jnp.pad(x, ((0, 0), (0, self.padding) if self.reverse else (self.padding, 0), (0, 0)))
        begins = jnp.arange(self.number) == (self.number - 1 if self.reverse else 0)
        return x.reshape(b, self.number, self.size, h).transpose(1, 2, 0, 3), begins

    def joined(self, x: Float[Array, "n t b h"]) -> Float[Array, "b l h"]:
        """Undoes `blocks`."""
        n, t, b, h = x.shape
        skip = 0 if self.reverse else self.padding
        return x.transpose(2, 0, 1, 3).reshape(b, n * t, h)[:, skip : skip + self.length]


def _states(
    call: Call, system: RealSystem, x0: Array, cut: _Cut, x: Array, u_block: Array, begins: Array
) -> Float[Array, "t b twop"]:
    b = matmul(call, u_block, system.W_in)
    b = b.at[cut.first].add(jnp.where(begins, times(system.a, x0), 0))
    return step_by_step(system.a, b, x, cut.reverse)


def _run_block(
    call: Call, system: RealSystem, x0: Array, direction: int, cut: _Cut, x: Array, block: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    states = _states(call, system, x0, cut, x, *block)
    return states[0 if cut.reverse else -1], (matmul(call, states, system.W_out[direction]), x)


def _differentiate_block(
    call: Call,
    system: RealSystem,
    x0: Array,
    direction: int,
    cut: _Cut,
    carry: tuple[Array, Any],
    block: tuple[Array, Array, Array, Array],
) -> tuple[tuple[Array, Any], Array]:
    """Takes conj(a) s of the following block, and the gradients so far, one block back."""
    arriving, summed = carry
    u_block, begins, g, x = block
    g = g.astype(system.W_in.dtype)
    states = _states(call, system, x0, cut, x, u_block, begins)
    gx = matmul(call, g, system.W_out[direction].T).at[0 if cut.reverse else -1].add(arriving)
    s = step_by_step(conjugate(system.a), gx, jnp.zeros_like(x), not cut.reverse)
    x_before = before(states, x, cut.reverse).at[cut.first].add(jnp.where(begins, x0, 0))
    leaving = times(conjugate(system.a), s[-1 if cut.reverse else 0])
    dx0 = jnp.where(begins, times(conjugate(system.a), s[cut.first]), 0)
    parts = (eigenvalue_gradient(s, x_before), outer(call, u_block, s), outer(call, states, g), dx0)
    return (leaving, total((summed, parts))), matmul(call, s, system.W_in.T)
