"""The sequence operator: every layer of every model runs through `diagonal_ssm`.

    x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)

The input is real, so both projections are real matrix products (half the arithmetic of complex ones) and states are
carried as real and imaginary parts. There is one hand-written derivative, `_apply`; a backend brings the two functions
behind it (`s5c.ssm.backend`).
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm import backend as backends
from s5c.ssm.backend.blocked import BLOCK
from s5c.ssm.call import Call, RealSystem, Shape, States
from s5c.types import Array, Complex, Features, Float

SHARED_PROJECTION = 12_000_000
"""Bytes of states, 8 b l p a direction, up to which a bidirectional call keeps them all on a CPU. Run by block, each
direction projects the input for itself; above this that costs no more time, and half the memory (results/published/
operator)."""


def available_backends() -> list[str]:
    """Returns the names of the backends found in the `s5c.ssm.backend` folder."""
    return sorted(module.name for module in pkgutil.iter_modules(backends.__path__))


def resolve_backend(requested: str, platform: str, shape: Shape) -> str:
    """Chooses the implementation: a pure function, evaluated again for every shape, so also after pruning.

    Args:
        requested: a backend's name, or "auto".
        platform: JAX platform, "cpu", "gpu" or "tpu".
        shape: sizes of the call.

    Returns:
        The name of a backend.

    Raises:
        UserError: there is no backend of that name.
    """
    if requested != "auto":
        if requested not in available_backends():
            raise unknown("backend", requested, ["auto", *available_backends()])
        return requested
    if platform != "cpu" and shape.length > 1:
        return "associative"  # a step-by-step loop costs a kernel launch per step there
    if shape.length <= BLOCK:
        return "sequential"  # one block: nothing to gain
    states = 2 * 8 * shape.batch * shape.length * shape.state_dim
    return "sequential" if shape.bidirectional and states <= SHARED_PROJECTION else "blocked"


def _backend(name: str) -> ModuleType:
    return importlib.import_module(f"s5c.ssm.backend.{name}")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(backend: str, call: Call, system: RealSystem, u: Features, x0: States) -> tuple[Array, States]:
    return _backend(backend).forward(call, system, u, x0)[:2]


def _apply_forward(
    backend: str, call: Call, system: RealSystem, u: Features, x0: States
) -> tuple[tuple[Array, States], tuple[RealSystem, Array, States, tuple[Array, ...]]]:
    y, last, saved = _backend(backend).forward(call, system, u, x0)
    return (y, last), (system, u, x0, saved)


def _apply_backward(
    backend: str,
    call: Call,
    residuals: tuple[RealSystem, Array, States, tuple[Array, ...]],
    gradients: tuple[Array, States],
) -> tuple[RealSystem, Array, States]:
    system, u, x0, saved = residuals
    d_system, du, dx0 = _backend(backend).backward(call, system, u, x0, saved, *gradients)
    return d_system, du.astype(u.dtype), dx0


_apply.defvjp(_apply_forward, _apply_backward)


def diagonal_ssm(
    u: Features,
    Lambda_bar: Complex[Array, "p"],
    B_bar: Complex[Array, "p h"],
    C: Complex[Array, "out p"],
    C_backward: Complex[Array, "out p"] | None = None,
    *,
    x0: Complex[Array, "b p"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
    precision: str = "float32",
) -> Float[Array, "b l out"]:
    """Applies a discrete-time diagonal system to a batch of sequences.

        x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)  [+ 2 Re(C_backward x~_k)]

    where x~ runs from the end of the sequence to its beginning.

    Args:
        u: input, real.
        Lambda_bar: discrete eigenvalues.
        B_bar: discrete input matrix.
        C: output matrix, one of each conjugate pair.
        C_backward: output matrix of the backward direction; None for a layer that runs one way.
        x0: state before the first step (in running order); zero if None. Not for bidirectional calls.
        reverse: run from the end to the beginning. Not for bidirectional calls.
        backend: "auto" or one of `available_backends()`.
        precision: of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.

    Returns:
        y of shape (b, l, out), in the dtype of `u`. The feedthrough D u is not included.

    Raises:
        ValueError: `x0` or `reverse` together with `C_backward`.
        UserError: unknown backend.
    """
    bidirectional = C_backward is not None
    if bidirectional and (reverse or x0 is not None):
        raise ValueError("A bidirectional call has no single starting state or direction: leave x0 and reverse out.")
    batch, length, features = u.shape
    p = Lambda_bar.shape[0]
    chosen = resolve_backend(backend, jax.default_backend(), Shape(batch, length, features, p, bidirectional))

    outputs = (C,) if C_backward is None else (C, C_backward)
    system = RealSystem(
        a=(Lambda_bar.real, Lambda_bar.imag),
        W_in=jnp.concatenate([B_bar.real.T, B_bar.imag.T], axis=1),
        W_out=tuple(jnp.concatenate([2 * M.real, -2 * M.imag], axis=1).T for M in outputs),
    )
    start = jnp.zeros((batch, 2 * p), system.W_in.dtype)
    if x0 is not None:
        start = jnp.concatenate([x0.real, x0.imag], axis=1)
    call = Call((False, True) if bidirectional else (reverse,), precision)
    y, _ = _apply(chosen, call, system, u, (start,) * len(outputs))
    return y.astype(u.dtype)
