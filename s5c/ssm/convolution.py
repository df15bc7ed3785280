"""Single-input single-output systems, one per channel (S4D, DSS): the convolution with their impulse response.

    K[c, k] = 2 Re sum_n W[c, n] Lambda_bar[c, n]^k,    W = C B_bar

The sum is a Vandermonde product. With k = T s + t it factors into Lambda^t and (Lambda^T)^s, so that h n (T + l/T)
powers and one real matrix product take the place of h n l exponentials.

A NaN or an infinite input spoils its whole channel of its own sequence, backwards in time too: every step enters the
Fourier transform. No other sequence or channel is reached.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp

from s5c.errors import unknown
from s5c.ssm.powers import power_tables
from s5c.ssm.scan import SCANS, linear_scan
from s5c.types import Array, Complex, Features, Float

SHORT = 16
"""Up to this many steps the loop over time is faster than the transforms (2 CPU cores)."""

SISO_BACKENDS = ("fft", *SCANS)
"""What `diagonal_siso_ssm` can run with."""


def siso_backend(requested: str, length: int) -> str:
    """Returns the implementation that `diagonal_siso_ssm` takes for sequences of this length.

    Raises:
        UserError: there is none of that name.
    """
    if requested == "auto":
        return "sequential" if length <= SHORT else "fft"
    if requested not in SISO_BACKENDS:
        raise unknown("backend", requested, ["auto", *SISO_BACKENDS])
    return requested


def ssm_kernel(
    Lambda_bar: Complex[Array, "*#batch h n"], W: Complex[Array, "*batch h n"], length: int
) -> Float[Array, "*batch h l"]:
    """Returns the impulse responses K[c, k] = 2 Re sum_n W[c, n] Lambda_bar[c, n]^k.

    They depend on the parameters alone: compute them once where those do not change, in evaluation.

    Args:
        Lambda_bar: discrete eigenvalues, |Lambda_bar| <= 1 or little above.
        W: products of the output and the discrete input coefficients.
        length: number of steps l.

    Returns:
        float32 kernels. Their error is about 1e-6 of the largest sum of |W| at every length.
    """
    fine, coarse = power_tables(Lambda_bar, length)
    left = 2 * W[..., None] * coarse  # (h, n, S)
    left = jnp.concatenate([left.real, -left.imag], axis=-2)
    right = jnp.concatenate([fine.real, fine.imag], axis=-2)  # (h, 2n, T)
    K = jnp.einsum("...ns,...nt->...st", left, right, precision="highest")
    return K.reshape(*K.shape[:-2], -1)[..., :length]


def convolve(
    u: Features, K: Float[Array, "h l"], K_backward: Float[Array, "h l"] | None = None
) -> Float[Array, "b l h"]:
    """Convolves every channel with its kernel by fast Fourier transform.

        y_k = sum_{j <= k} K[k - j] u_j  [+ sum_{j >= k} K_backward[j - k] u_j]

    Args:
        u: input, real.
        K: kernels, as long as the input.
        K_backward: kernels that look ahead; both directions cost one convolution.

    Returns:
        y in float32.
    """
    length = u.shape[1]
    size = _transform_size(2 * length - 1)
    padded = jnp.pad(K, ((0, 0), (0, size - length)))
    if K_backward is not None:  # lag -j is the last but j - 1, counted around the circle
        flipped = jnp.pad(K_backward[:, 1:][:, ::-1], ((0, 0), (size - length + 1, 0)))
        padded = padded.at[:, 0].add(K_backward[:, 0]) + flipped
    signal = jnp.swapaxes(u.astype(K.dtype), 1, 2)
    spectrum = jnp.fft.rfft(signal, size) * jnp.fft.rfft(padded, size)
    return jnp.swapaxes(jnp.fft.irfft(spectrum, size)[..., :length], 1, 2)


def diagonal_siso_ssm(
    u: Features,
    Lambda_bar: Complex[Array, "h n"],
    B_bar: Complex[Array, "h n"],
    C: Complex[Array, "h n"],
    C_backward: Complex[Array, "h n"] | None = None,
    *,
    x0: Complex[Array, "b h n"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Float[Array, "b l h"]:
    """Applies one diagonal system per channel to a batch of sequences.

        x_k = Lambda_bar x_{k-1} + B_bar u_k,    y_k = 2 Re sum_n C x_k  [+ 2 Re sum_n C_backward x~_k]

    where x~ runs from the end of the sequence to its beginning.

    Args:
        u: input, real; channel c drives system c.
        Lambda_bar: discrete eigenvalues of every system.
        B_bar: discrete input coefficients.
        C: output coefficients, one of each conjugate pair.
        C_backward: output coefficients of the backward direction; None for a layer that runs one way.
        x0: state before the first step (in running order); zero if None. Not for bidirectional calls.
        reverse: run from the end to the beginning. Not for bidirectional calls.
        backend: "fft", a backend of `s5c.ssm.scan.linear_scan`, or "auto": fft unless the sequence is very short.

    Returns:
        y of shape (b, l, h), in the dtype of `u`. The feedthrough D u is not included.

    Raises:
        ValueError: `x0` or `reverse` together with `C_backward`.
        UserError: unknown backend.
    """
    if C_backward is not None and (reverse or x0 is not None):
        raise ValueError("A bidirectional call has no single direction or start: leave reverse and x0 out.")
    backend = siso_backend(backend, u.shape[1])
    apply = _by_transform if backend == "fft" else partial(_by_scan, backend)
    return apply(u, Lambda_bar, B_bar, C, C_backward, x0, reverse).astype(u.dtype)


def _by_transform(
    u: Array, Lambda_bar: Array, B_bar: Array, C: Array, C_backward: Array | None, x0: Array | None, reverse: bool
) -> Array:
    length = u.shape[1]
    K = ssm_kernel(Lambda_bar, C * B_bar, length)
    if C_backward is not None:
        return convolve(u, K, ssm_kernel(Lambda_bar, C_backward * B_bar, length))
    y = convolve(u, jnp.zeros_like(K), K) if reverse else convolve(u, K)
    if x0 is not None:
        decay = jnp.swapaxes(ssm_kernel(Lambda_bar[None], C * Lambda_bar * x0, length), 1, 2)
        y = y + (decay[:, ::-1] if reverse else decay)
    return y


def _by_scan(
    backend: str,
    u: Array,
    Lambda_bar: Array,
    B_bar: Array,
    C: Array,
    C_backward: Array | None,
    x0: Array | None,
    reverse: bool,
) -> Array:
    b = B_bar * u[..., None]

    def run(C: Array, reverse: bool) -> Array:
        return 2 * jnp.sum(C * linear_scan(Lambda_bar, b, x0=x0, reverse=reverse, backend=backend), axis=-1).real

    y = run(C, reverse)
    return y if C_backward is None else y + run(C_backward, True)


def _transform_size(least: int) -> int:
    """Returns the smallest 2^a 3^b 5^c that is even and not below `least`."""
    best = 1 << max(1, (least - 1).bit_length())
    for five in (1, 5, 25, 125):
        for three in (1, 3, 9, 27):
            size = 2 * five * three
            while size < least:
                size *= 2
            best = min(best, size)
    return best
