"""The sequence operator: every layer of every model runs through `diagonal_ssm`.

    x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)

The input is real, so both projections are real matrix products (half the arithmetic of complex ones) and states are
carried as real and imaginary parts. There is one hand-written derivative, `_apply`; a backend brings the two functions
behind it (`s5c.ssm.backend`).
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Literal, overload

import jax
import jax.numpy as jnp

from s5c import lookup
from s5c.errors import UserError, unknown
from s5c.ssm import backend as backends
from s5c.ssm.backend.blocked import BLOCK
from s5c.ssm.call import Call, RealSystem, Shape, States
from s5c.ssm.precision import PRECISIONS
from s5c.types import Array, Complex, Features, Float

LIFTED_FEATURES = 256
"""Up to this many features, folding several steps into one product costs less than the tree (estimated, never timed on
an accelerator)."""


def available_backends() -> list[str]:
    """Returns the names of the backends that are found (`s5c.lookup`)."""
    return lookup.names(backends)


def resolve_backend(requested: str, platform: str, shape: Shape) -> str:
    """Chooses the implementation: a pure function, evaluated again for every shape, so also after pruning.

    On a CPU: one block of time or less, step by step; above, by block. The rule is measured (results/published/bench).
    On accelerators a loop over steps costs a kernel launch per step: the choice there is between the forms that XLA
    runs in few kernels, by estimate. The Pallas kernels are taken by name only, as long as they have not been timed.

    Args:
        requested: a backend's name, or "auto".
        platform: JAX platform, "cpu", "gpu" or "tpu".
        shape: sizes of the call.

    Returns:
        The name of a backend.

    Raises:
        UserError: there is no backend of that name, or it cannot run here; the message says why.
    """
    if requested != "auto":
        if requested not in available_backends():
            raise unknown("backend", requested, ["auto", *available_backends()])
        reason = why_unavailable(requested, platform)
        if reason:
            raise UserError(f"The backend '{requested}' is not available: {reason} 'auto' takes one that is.")
        return requested
    if platform == "cpu":
        return "sequential" if shape.length <= BLOCK else "blocked"
    if shape.length == 1:
        return "sequential"
    return "lifted" if shape.features <= LIFTED_FEATURES else "associative"


def why_unavailable(name: str, platform: str) -> str | None:
    """Returns what a backend lacks to run on a platform; None if it runs."""
    needs = getattr(_backend(name), "unavailable", None)
    return needs(platform) if needs else None


def is_causal(name: str) -> bool:
    """Returns whether no output has a later input as a term of it, not even one that is multiplied by zero."""
    return bool(getattr(_backend(name), "CAUSAL", True))


def _backend(name: str) -> ModuleType:
    return lookup.load(backends, "backend", name, ("forward", "backward"))


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


@overload
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
    return_state: Literal[False] = False,
) -> Float[Array, "b l out"]: ...


@overload
def diagonal_ssm(
    u: Features,
    Lambda_bar: Complex[Array, "p"],
    B_bar: Complex[Array, "p h"],
    C: Complex[Array, "out p"],
    C_backward: None = None,
    *,
    x0: Complex[Array, "b p"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
    precision: str = "float32",
    return_state: Literal[True],
) -> tuple[Float[Array, "b l out"], Complex[Array, "b p"]]: ...


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
    return_state: bool = False,
) -> Float[Array, "b l out"] | tuple[Float[Array, "b l out"], Complex[Array, "b p"]]:
    """Applies a discrete-time diagonal system to a batch of sequences.

        x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)  [+ 2 Re(C_backward x~_k)]

    where x~ runs from the end of the sequence to its beginning. A sequence may be cut: the state returned for one part
    is the `x0` of the next.

    A NaN or an infinite input reaches the steps after it in running order, never another sequence of the batch; the
    `lifted` backend also spoils the up to seven steps before it that share its chunk.

    Args:
        u: input, real.
        Lambda_bar: discrete eigenvalues.
        B_bar: discrete input matrix.
        C: output matrix, one of each conjugate pair.
        C_backward: output matrix of the backward direction; None for a layer that runs one way.
        x0: state before the first step (in running order); zero if None. Not for bidirectional calls.
        reverse: run from the end to the beginning. Not for bidirectional calls.
        backend: "auto" or one of `available_backends()`.
        precision: precision of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        return_state: also return the state after the last step (in running order). Not for bidirectional calls.

    Returns:
        y of shape (b, l, out), in the dtype of `u`, or (y, state). The feedthrough D u is not included.

    Raises:
        ValueError: `x0`, `reverse` or `return_state` together with `C_backward`; an unknown precision.
        UserError: unknown or unavailable backend.
    """
    bidirectional = C_backward is not None
    if bidirectional and (reverse or return_state or x0 is not None):
        raise ValueError(
            "A bidirectional call has no single direction, start or end: leave reverse, x0 and return_state out."
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(PRECISIONS)}.")
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
    y, last = _apply(chosen, call, system, u, (start,) * len(outputs))
    y = y.astype(u.dtype)
    return (y, jax.lax.complex(last[0][:, :p], last[0][:, p:])) if return_state else y
