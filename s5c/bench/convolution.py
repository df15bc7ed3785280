"""The S4D layer: kernel and FFT convolution, against a kernel summed from one exponential per state and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.bench import reference
from s5c.bench.operator import compile_variants, complex_normal, eigenvalues
from s5c.bench.timing import REFERENCE, Case, Key, Program, Say
from s5c.ssm.call import Shape
from s5c.ssm.convolution import diagonal_siso_ssm

TITLE = "The S4D layer against a dense kernel"
COMPARED = "Gradients against the published form's in double precision"

SIZES = (Shape(4, 1024, 64, 32, False), Shape(8, 784, 96, 32, False), Shape(2, 4096, 256, 32, False))
"""(batch, length, features, stored states of every feature)."""


def groups(sizes: Sequence[Shape] | None) -> list[list[Case]]:
    """Returns what is measured, one size a group."""
    return [[Case("sizes", shape)] for shape in sizes or SIZES]


def prepare(group: Sequence[Case], precision: str, say: Say) -> dict[Key, Program]:
    """Compiles both kernels for every case and compares their gradients.

    Args:
        group: the cases.
        precision: of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        say: progress.

    Raises:
        UserError: a gradient differs.
    """
    variants: dict[str, Callable[..., Any]] = {
        REFERENCE: reference.diagonal_siso_ssm,
        "fft": partial(diagonal_siso_ssm, backend="fft"),
    }
    programs: dict[Key, Program] = {}
    for case in group:
        # In single precision the exponentials of the dense kernel lose their phase as the sequence gets longer.
        programs |= compile_variants(case, variants, arguments(case.shape), "fft", precision, say, double=True)
    return programs


def arguments(shape: Shape) -> tuple[jax.Array, ...]:
    """Draws an input and, for every feature, a stable system."""
    rng = np.random.default_rng(0)
    b, length, h, n, _ = shape
    u = jnp.asarray(rng.normal(size=(b, length, h)), jnp.float32)
    return u, eigenvalues(rng, h, n), complex_normal(rng, h, n), complex_normal(rng, h, n)
