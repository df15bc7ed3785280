"""The operator around a recurrence that writes all its states: project, scan, project; and the same backwards.

Backends that differ only in how the recurrence is run use these two functions with their own `scan`,

    scan(a, b, x0, reverse) -> x,    x_k = a x_{k-1} + b_k    in running order, starting from x0,

on time-major arrays (l, b, 2p).
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from s5c.ssm.call import (
    Call,
    Pair,
    RealSystem,
    States,
    before,
    conjugate,
    eigenvalue_gradient,
    matmul,
    outer,
    times,
    total,
)
from s5c.types import Array, Features, Float

Scan = Callable[[Pair, Array, Array, bool], Array]


def forward(
    scan: Scan, call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, and all states, which `backward` needs."""
    b = jnp.swapaxes(matmul(call, u, system.W_in), 0, 1)  # once for both directions
    states = tuple(scan(system.a, b, start, reverse) for start, reverse in zip(x0, call.directions, strict=True))
    y = matmul(call, jnp.concatenate(states, axis=-1), jnp.concatenate(system.W_out))
    last = tuple(x[0 if reverse else -1] for x, reverse in zip(states, call.directions, strict=True))
    return jnp.swapaxes(y, 0, 1), last, states


def backward(
    scan: Scan,
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    states: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states.

    The adjoint runs against its direction, s_k = g_k + conj(a) s_{k+1}: one more scan.
    """
    g = jnp.swapaxes(gy, 0, 1).astype(system.W_in.dtype)
    adjoints, da, dx0 = [], [], []
    for i, reverse in enumerate(call.directions):
        gx = matmul(call, g, system.W_out[i].T).at[0 if reverse else -1].add(g_last[i])
        s = scan(conjugate(system.a), gx, jnp.zeros_like(x0[i]), not reverse)
        da.append(eigenvalue_gradient(s, before(states[i], x0[i], reverse)))
        dx0.append(times(conjugate(system.a), s[-1 if reverse else 0]))
        adjoints.append(s)
    s = total(adjoints)
    gradient = RealSystem(
        a=total(da),
        W_in=outer(call, jnp.swapaxes(u, 0, 1), s),
        W_out=tuple(outer(call, x, g) for x in states),
    )
    du = jnp.swapaxes(matmul(call, s, system.W_in.T), 0, 1)
    return gradient, du, tuple(dx0)
