"""The sequence operator: every layer of every model runs through `diagonal_ssm`.

    x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)

Complex numbers are carried as real/imaginary pairs: the input is real, so both projections are real matrix products
(half the arithmetic of complex ones), and the recurrence has one hand-written derivative, a single reversed scan,
whichever backend runs it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm import backend as backends
from s5c.types import Array, Complex, Features, Float

Pair = tuple[Array, Array]


class Shape(NamedTuple):
    """Everything the choice of a backend may depend on."""

    batch: int
    length: int
    features: int
    state_dim: int
    bidirectional: bool


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
    # A step-by-step loop costs a kernel launch per step on accelerators and nothing on CPUs.
    return "sequential" if platform == "cpu" or shape.length == 1 else "associative"


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(backend: str, reverse: bool, a: Pair, b: Pair) -> Pair:
    return importlib.import_module(f"s5c.ssm.backend.{backend}").scan(a, b, reverse=reverse)


def _recurrence_forward(backend: str, reverse: bool, a: Pair, b: Pair) -> tuple[Pair, tuple[Pair, Pair]]:
    x = _recurrence(backend, reverse, a, b)
    return x, (a, x)


def _recurrence_backward(backend: str, reverse: bool, saved: tuple[Pair, Pair], g: Pair) -> tuple[Pair, Pair]:
    """The adjoint runs against time: s_k = g_k + conj(a) s_{k+1}; db = s, da = sum_k s_k conj(x_{k-1})."""
    (a_re, a_im), (x_re, x_im) = saved
    s_re, s_im = _recurrence(backend, not reverse, (a_re, -a_im), g)
    now, before = (slice(None, -1), slice(1, None)) if reverse else (slice(1, None), slice(None, -1))
    s_re_now, s_im_now, x_re_before, x_im_before = s_re[now], s_im[now], x_re[before], x_im[before]
    da_re = jnp.sum(s_re_now * x_re_before + s_im_now * x_im_before, axis=(0, 1))
    da_im = jnp.sum(s_im_now * x_re_before - s_re_now * x_im_before, axis=(0, 1))
    return (da_re, da_im), (s_re, s_im)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


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
) -> Float[Array, "b l out"]:
    """Applies a discrete-time diagonal system to a batch of sequences.

        x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re(C x_k)  [+ 2 Re(C_backward x~_k)]

    where x~ runs from the end of the sequence to its beginning; both directions share the input projection B_bar u and
    one output product.

    Args:
        u: input, real.
        Lambda_bar: discrete eigenvalues.
        B_bar: discrete input matrix.
        C: output matrix, one of each conjugate pair.
        C_backward: output matrix of the backward direction; None for a layer that runs one way.
        x0: state before the first step (in running order); zero if None. Not for bidirectional calls.
        reverse: run from the end to the beginning. Not for bidirectional calls.
        backend: "auto" or one of `available_backends()`.

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

    W_in = jnp.concatenate([B_bar.real.T, B_bar.imag.T], axis=1)  # (h, 2p)
    # Half-precision inputs enter the product as they are; the states need the precision of the system.
    Bu = jnp.matmul(u, W_in.astype(u.dtype), preferred_element_type=W_in.dtype)
    Bu = jnp.swapaxes(Bu, 0, 1)  # (l, b, 2p)
    a: Pair = (Lambda_bar.real, Lambda_bar.imag)
    b: Pair = (Bu[..., :p], Bu[..., p:])
    if x0 is not None:
        first = -1 if reverse else 0
        carried = Lambda_bar * x0
        b = (b[0].at[first].add(carried.real), b[1].at[first].add(carried.imag))

    states = [*_recurrence(chosen, reverse, a, b)]
    W_out = [2 * C.real, -2 * C.imag]
    if C_backward is not None:
        states += _recurrence(chosen, True, a, b)
        W_out += [2 * C_backward.real, -2 * C_backward.imag]
    y = jnp.concatenate(states, axis=-1) @ jnp.concatenate(W_out, axis=1).T
    return jnp.swapaxes(y, 0, 1).astype(u.dtype)
