"""The bare recurrence, for systems whose input and output are not matrices: `linear_scan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm.backend import associative
from s5c.ssm.call import Pair, before, conjugate, eigenvalue_gradient, step_by_step, times
from s5c.types import Array, Complex

SCANS: dict[str, Callable[..., Array]] = {"sequential": step_by_step, "associative": associative.scan}


def linear_scan(
    Lambda_bar: Complex[Array, "*p"],
    b: Complex[Array, "b l *p"],
    *,
    x0: Complex[Array, "b *p"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Complex[Array, "b l *p"]:
    """Runs the recurrence of a diagonal system over a batch of sequences and returns all states.

        x_k = Lambda_bar x_{k-1} + b_k

    The derivative is one more recurrence, against time, with the conjugate of Lambda_bar.

    Args:
        Lambda_bar: discrete eigenvalues, of any shape (one axis of states, or channels and states).
        b: what enters each state at each step.
        x0: state before the first step (in running order); zero if None.
        reverse: run from the end to the beginning.
        backend: "sequential" (a loop over time), "associative" (a tree, log2 l deep), or "auto": the loop on a CPU.

    Returns:
        The states x, of the shape and dtype of `b`. The last one in running order starts a continuation.

    Raises:
        UserError: unknown backend.
    """
    if backend == "auto":
        backend = "sequential" if jax.default_backend() == "cpu" or b.shape[1] == 1 else "associative"
    if backend not in SCANS:
        raise unknown("backend", backend, ["auto", *SCANS])
    batch, length, shape = b.shape[0], b.shape[1], b.shape[2:]
    flat = jnp.swapaxes(b.reshape(batch, length, -1), 0, 1)
    start = jnp.zeros_like(b[:, 0]) if x0 is None else x0
    x = _scan(
        backend,
        reverse,
        (Lambda_bar.real.ravel(), Lambda_bar.imag.ravel()),
        _parts(flat),
        _parts(start.reshape(batch, -1)),
    )
    p = flat.shape[-1]
    return jnp.swapaxes(jax.lax.complex(x[..., :p], x[..., p:]), 0, 1).reshape(batch, length, *shape)


def _parts(x: Array) -> Array:
    return jnp.concatenate([x.real, x.imag], axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(backend: str, reverse: bool, a: Pair, b: Array, x0: Array) -> Array:
    return SCANS[backend](a, b, x0, reverse)


def _scan_forward(backend: str, reverse: bool, a: Pair, b: Array, x0: Array) -> tuple[Array, tuple[Pair, Array, Array]]:
    x = SCANS[backend](a, b, x0, reverse)
    return x, (a, x, x0)


def _scan_backward(
    backend: str, reverse: bool, residuals: tuple[Pair, Array, Array], g: Array
) -> tuple[Pair, Array, Array]:
    a, x, x0 = residuals
    s = SCANS[backend](conjugate(a), g, jnp.zeros_like(x0), not reverse)
    da = eigenvalue_gradient(s, before(x, x0, reverse))
    return da, s, times(conjugate(a), s[-1 if reverse else 0])


_scan.defvjp(_scan_forward, _scan_backward)
