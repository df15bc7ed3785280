"""The recurrence as a kernel for NVIDIA Hopper (`s5c.ssm.kernel.gpu`); the projections are XLA's matrix products.

Sequences stay in the order in which the layers have them, so nothing is transposed, and both directions run in one
launch. All states are kept for the derivative. The projections are not in the kernel: tensor cores cannot multiply in
float32, the default precision, so a fused kernel would serve the other precisions only.

The kernel's values were checked by Pallas' interpreter on a CPU, and it was compiled for sm_90a as far as machine code
(jax 0.10.2, no register spills). It has never run on a device, and nothing is claimed about its speed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from s5c.ssm.call import Call, Pair, RealSystem, States, conjugate, eigenvalue_gradient, matmul, outer, times, total
from s5c.types import Array, Features, Float

INTERPRET = False
"""Run the kernel by Pallas' interpreter, on any platform. For tests: it is slow."""

CAPABILITIES = ("9", "10")
"""Major compute capabilities with the copy engine and the shared memory that the kernel needs: Hopper, Blackwell."""


def unavailable(platform: str) -> str | None:
    """Returns why the backend cannot run here, or None if it can."""
    if INTERPRET:
        return None
    needed = "It needs an NVIDIA GPU of compute capability 9.0 (Hopper) or 10.x (data-centre Blackwell)"
    if platform != "gpu":
        return f"{needed}; JAX runs on platform {platform}."
    try:
        from s5c.ssm.kernel import gpu  # noqa: F401
    except ImportError as error:
        return f"It needs Pallas Mosaic GPU, which this jax ({jax.__version__}) does not bring: {error}."
    capability = str(getattr(jax.local_devices()[0], "compute_capability", "unknown"))
    return None if capability.partition(".")[0] in CAPABILITIES else f"{needed}; this one has {capability}."


def forward(
    call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[Float[Array, "b l out"], States, tuple[Array, ...]]:
    """Returns the output, the last state of every direction, and all states, which `backward` needs."""
    from s5c.ssm.kernel.gpu import scan

    a, W_in, W_out = _aligned(system)
    b = matmul(call, u, W_in).reshape(*u.shape[:2], 2, -1)  # once for both directions
    starts = [_resized(start, a[0].shape[0]).reshape(len(start), 2, -1) for start in x0]
    x = scan(a, b, jnp.concatenate(starts, axis=1).swapaxes(0, 1), call.directions, INTERPRET)
    y = matmul(call, x.reshape(*u.shape[:2], -1), W_out)
    last = [_row(x, i, 0 if reverse else -1) for i, reverse in enumerate(call.directions)]
    return y, tuple(_resized(state, system.a[0].shape[0]) for state in last), (x,)


def backward(
    call: Call,
    system: RealSystem,
    u: Features,
    x0: States,
    saved: tuple[Array, ...],
    gy: Float[Array, "b l out"],
    g_last: States,
) -> tuple[RealSystem, Features, States]:
    """Returns the gradients of the system, the input and the starting states."""
    from s5c.ssm.kernel.gpu import adjoint_scan

    (x,) = saved
    a, W_in, W_out = _aligned(system)
    aligned, p = a[0].shape[0], system.a[0].shape[0]
    g = gy.astype(W_in.dtype)
    gx = matmul(call, g, W_out.T).reshape(x.shape)
    for i, reverse in enumerate(call.directions):
        ending = _resized(g_last[i], aligned).reshape(-1, 2, aligned)
        gx = gx.at[:, 0 if reverse else -1, 2 * i : 2 * i + 2].add(ending)
    s, da = adjoint_scan(a, gx, x, call.directions, INTERPRET)

    first = [_resized(_row(s, i, -1 if reverse else 0), p) for i, reverse in enumerate(call.directions)]
    da_re, da_im = da.reshape(-1, 2, *da.shape[1:]).sum((0, 2))[:, :p]
    starting = [eigenvalue_gradient(s_first[None], start[None]) for s_first, start in zip(first, x0, strict=True)]
    # Summed before it is multiplied: one pass over the adjoints more, half the arithmetic.
    s = s.reshape(*s.shape[:2], -1, 2 * aligned).sum(2)
    dW_out = jnp.split(outer(call, x.reshape(*x.shape[:2], -1), g), len(first))
    gradient = RealSystem(
        a=total([(da_re, da_im), *starting]),
        W_in=_resized(outer(call, u, s), p),
        W_out=tuple(_resized(part.T, p).T for part in dW_out),
    )
    return gradient, matmul(call, s, W_in.T), tuple(times(conjugate(system.a), s_first) for s_first in first)


def _aligned(system: RealSystem) -> tuple[Pair, Array, Array]:
    """Returns a, W_in and W_out of all directions with idle states, as many as the kernel wants."""
    from s5c.ssm.kernel.gpu import ALIGNMENT

    p = -(-system.a[0].shape[0] // ALIGNMENT) * ALIGNMENT
    re, im = jnp.split(_resized(jnp.concatenate(system.a)[None], p)[0], 2)
    return (re, im), _resized(system.W_in, p), jnp.concatenate([_resized(W.T, p).T for W in system.W_out])


def _resized(x: Float[Array, "rows twop"], p: int) -> Float[Array, "rows twoq"]:
    """Appends states of zero to both parts, or takes states off the end, so that there are `p`."""
    parts = x.reshape(len(x), 2, -1)
    missing = p - parts.shape[2]  # negative to take off
    return jax.lax.pad(parts, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), (0, missing, 0)]).reshape(len(x), -1)


def _row(x: Float[Array, "b l parts p"], direction: int, row: int) -> Float[Array, "b twop"]:
    """Returns one direction's states of one time step."""
    return x[:, row, 2 * direction : 2 * direction + 2].reshape(len(x), -1)
