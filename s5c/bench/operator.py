"""The sequence operator: every backend against S5's formulation, forward alone and with its gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.bench import reference
from s5c.bench.timing import REFERENCE, Case, Key, Program, Say, build, check, difference
from s5c.ssm.call import Shape
from s5c.ssm.operator import available_backends, diagonal_ssm, resolve_backend, why_unavailable

TITLE = "The sequence operator against S5's formulation"
COMPARED = "Gradients against the published form's"

FORWARD, GRADIENT = "forward", "forward + gradient"

PRUNED: dict[Shape, Sequence[float]] = {
    Shape(4, 1024, 64, 64, False): (0, 0.25, 0.5, 0.75, 0.9),
    Shape(8, 784, 96, 128, False): (0, 0.75),
    Shape(2, 4096, 256, 192, False): (0, 0.25, 0.5, 0.75, 0.9),
    Shape(2, 16384, 64, 64, False): (0, 0.75),
    Shape(2, 4096, 256, 96, True): (0, 0.75),
}
"""By size, the fractions of its states removed."""

LENGTHS = tuple(Shape(2, 256 * 2**k, 64, 64, False) for k in range(7))
STATES = tuple(Shape(2, 2048, 128, p, False) for p in (16, 32, 64, 96, 128, 192, 256, 384))


def groups(sizes: Sequence[Shape] | None) -> list[list[Case]]:
    """Returns what is measured; the cases of a group take turns, so that they compare with each other too.

    Args:
        sizes: measure these instead, each with 75% of its states removed as well.
    """
    pruned = PRUNED if sizes is None else dict.fromkeys(sizes, (0, 0.75))
    found = [
        [Case("sizes", shape._replace(state_dim=kept(shape, removed)), removed) for removed in fractions]
        for shape, fractions in pruned.items()
    ]
    if sizes is None:
        found += [[Case("length", shape) for shape in LENGTHS], [Case("states", shape) for shape in STATES]]
    return found


def kept(shape: Shape, removed: float) -> int:
    """Returns the states that stay, at least one."""
    return max(1, round(shape.state_dim * (1 - removed)))


def prepare(group: Sequence[Case], precision: str, say: Say) -> dict[Key, Program]:
    """Compiles every backend for every case and compares its gradients with the reference's.

    Args:
        group: the cases.
        precision: of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        say: progress.

    Raises:
        UserError: a gradient differs.
    """
    variants: dict[str, Callable[..., Any]] = {REFERENCE: reference.diagonal_ssm}
    for name in available_backends():
        reason = why_unavailable(name, jax.default_backend())
        if reason is None:
            variants[name] = partial(diagonal_ssm, backend=name, precision=precision)
        else:
            say(f"backend {name} left out: {reason}")
    programs: dict[Key, Program] = {}
    for case in group:
        auto = resolve_backend("auto", jax.default_backend(), case.shape)
        programs |= compile_variants(case, variants, arguments(case.shape), auto, precision, say)
    return programs


def compile_variants(
    case: Case,
    variants: dict[str, Callable[..., Any]],
    args: Sequence[Any],
    auto: str,
    precision: str,
    say: Say,
    *,
    double: bool = False,
) -> dict[Key, Program]:
    """Compiles functions of the same arguments, the input first, forward and with the gradient of all arguments.

    Args:
        case: what they are compiled for.
        variants: the functions by name, the reference first.
        args: their arguments.
        auto: which of them is the default.
        precision: with "float32", gradients that differ from the reference's are an error.
        say: progress.
        double: compare with the reference's gradients in double precision.

    Raises:
        UserError: a gradient differs.
    """
    weight = jax.random.normal(jax.random.key(1), args[0].shape)

    def gradient_of(variant: Callable[..., Any]) -> Any:
        return jax.jit(jax.grad(lambda *args: jnp.sum(weight * variant(*args)), tuple(range(len(args)))))

    expected = in_double(gradient_of(variants[REFERENCE]), args) if double else None
    programs: dict[Key, Program] = {}
    for name, variant in variants.items():
        forward, gradient = build(jax.jit(variant), *args), build(gradient_of(variant), *args)
        say(f"{_words(case.shape)}: {name} compiled in {forward.compile_s + gradient.compile_s:.1f} s")
        found = jax.device_get(gradient.call())
        if expected is None:
            expected = found
        else:
            off = difference(found, expected)
            if name != REFERENCE:
                check(off, f"The gradient of {name} at {_words(case.shape)}", precision)
            gradient = dataclasses.replace(gradient, difference=off)
        for program, compiled in ((FORWARD, forward), (GRADIENT, gradient)):
            programs[Key(case, program, name)] = dataclasses.replace(compiled, chosen=name == auto)
    return programs


def in_double(function: Any, args: Sequence[Any]) -> Any:
    """Returns what a jitted function makes of the arguments in double precision."""
    with jax.enable_x64(True):
        kinds = (np.complex128 if np.iscomplexobj(value) else np.float64 for value in args)
        wide = [jnp.asarray(np.asarray(value), kind) for value, kind in zip(args, kinds, strict=True)]
        return jax.device_get(function(*wide))


def _words(shape: Shape) -> str:
    return ", ".join(map(str, shape[:4])) + (" both ways" if shape.bidirectional else "")


def arguments(shape: Shape) -> tuple[jax.Array, ...]:
    """Draws an input and a stable system."""
    rng = np.random.default_rng(0)
    b, length, h, p, bidirectional = shape
    u = jnp.asarray(rng.normal(size=(b, length, h)), jnp.float32)
    matrices = [complex_normal(rng, p, h), *(complex_normal(rng, h, p) for _ in range(1 + bidirectional))]
    return u, eigenvalues(rng, p), *matrices


def complex_normal(rng: np.random.Generator, *size: int) -> jax.Array:
    """Draws a complex matrix that keeps the size of what it multiplies."""
    values = rng.normal(size=size) + 1j * rng.normal(size=size)
    return jnp.asarray(values / np.sqrt(size[-1]), jnp.complex64)


def eigenvalues(rng: np.random.Generator, *size: int) -> jax.Array:
    """Draws discrete eigenvalues whose memory lasts 3 to 1000 steps."""
    values = np.exp(-(10 ** rng.uniform(-3, -0.5, size)) + 1j * rng.uniform(0, 3, size))
    return jnp.asarray(values, jnp.complex64)
