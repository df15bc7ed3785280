"""Times the sequence operator against S5's own formulation: complex matrices, `associative_scan`, autodiff.

    python scripts/bench_operator.py [--rounds 9] [--output results/published/operator]

All variants of a size are compiled first and then run in turn, round by round, so that a change in the machine's speed
falls on all of them. Figures are medians of process CPU time; the ratios are what carries over to other machines.
Writes operator.csv and operator.md.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.evaluation.cost import device_name
from s5c.ssm.call import Shape
from s5c.ssm.operator import available_backends, diagonal_ssm, resolve_backend

SIZES = (
    Shape(4, 1024, 64, 64, False),
    Shape(8, 784, 96, 128, False),
    Shape(2, 4096, 256, 192, False),
    Shape(2, 16384, 64, 64, False),
    Shape(2, 4096, 256, 96, True),
    Shape(2, 4096, 256, 24, True),
)
"""(batch, length, features, stored states, bidirectional); the last is the one before with 75% of the states gone."""

REFERENCE = "S5's formulation"


class Timing(NamedTuple):
    """Of one variant at one size; seconds, and bytes of XLA's temporary memory."""

    forward: float
    gradient: float
    compilation: float
    temp_bytes: int


def reference(u: Any, Lambda_bar: Any, B_bar: Any, C: Any, C_backward: Any = None) -> Any:
    """The operator as the published code writes it: per sequence, in complex numbers, differentiated through."""

    def combine(left: Any, right: Any) -> Any:
        return right[0] * left[0], right[0] * left[1] + right[1]

    def one(sequence: Any) -> Any:
        powers = Lambda_bar * jnp.ones((sequence.shape[0], Lambda_bar.shape[0]), Lambda_bar.dtype)
        Bu = jax.vmap(lambda u_k: B_bar @ u_k)(sequence)
        states, output = jax.lax.associative_scan(combine, (powers, Bu))[1], C
        if C_backward is not None:
            backward = jax.lax.associative_scan(combine, (powers, Bu), reverse=True)[1]
            states, output = jnp.concatenate([states, backward], -1), jnp.concatenate([C, C_backward], -1)
        return jax.vmap(lambda x_k: 2 * (output @ x_k).real)(states)

    return jax.vmap(one)(u)


def arguments(shape: Shape) -> tuple[jax.Array, ...]:
    """Draws an input and a stable system."""
    rng = np.random.default_rng(0)
    b, length, h, p, bidirectional = shape

    def matrix(*size: int) -> jax.Array:
        values = rng.normal(size=size) + 1j * rng.normal(size=size)
        return jnp.asarray(values / np.sqrt(size[-1]), jnp.complex64)

    Lambda_bar = np.exp(-(10 ** rng.uniform(-3, -0.5, p)) + 1j * rng.uniform(0, 3, p))
    u = jnp.asarray(rng.normal(size=(b, length, h)), jnp.float32)
    matrices = [matrix(p, h), matrix(h, p), *([matrix(h, p)] if bidirectional else [])]
    return u, jnp.asarray(Lambda_bar, jnp.complex64), *matrices


def measure(shape: Shape, rounds: int) -> dict[str, Timing]:
    """Returns the medians of every variant, which take turns; gradients are first compared with the reference's."""
    args = arguments(shape)
    weight = jax.random.normal(jax.random.key(1), args[0].shape)
    variants: dict[str, Callable[..., Any]] = {REFERENCE: reference}
    variants |= {name: partial(diagonal_ssm, backend=name) for name in available_backends()}
    programs, compilation, memory = {}, {}, {}
    for name, variant in variants.items():

        def loss(*args: Any, variant: Callable[..., Any] = variant) -> Any:
            return jnp.sum(weight * variant(*args))

        began = time.perf_counter()
        gradient = jax.jit(jax.grad(loss, tuple(range(len(args))))).lower(*args).compile()
        compilation[name] = time.perf_counter() - began
        memory[name] = int(gradient.memory_analysis().temp_size_in_bytes)
        programs[name] = (jax.jit(variant).lower(*args).compile(), gradient)
    expected = jax.device_get(programs[REFERENCE][1](*args))
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in programs}
    for name, (forward, gradient) in programs.items():
        jax.block_until_ready(forward(*args))
        for ours, theirs in zip(jax.device_get(gradient(*args)), expected, strict=True):
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), (name, shape)
    for _ in range(rounds):
        for name, pair in programs.items():
            for program, spent in zip(pair, times[name], strict=True):
                began = time.process_time()
                jax.block_until_ready(program(*args))
                spent.append(time.process_time() - began)
    return {
        name: Timing(*(statistics.median(spent) for spent in times[name]), compilation[name], memory[name])
        for name in programs
    }


def main() -> None:
    """Runs all sizes, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("results/published/operator"))
    options = parser.parse_args()
    lines = [
        "| batch, length, features, states | variant | forward + gradient | ratio | forward | ratio | temp | compile |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = []
    for shape in SIZES:
        found = measure(shape, options.rounds)
        base = found[REFERENCE]
        chosen = resolve_backend("auto", jax.default_backend(), shape)
        label = f"{shape.batch}, {shape.length}, {shape.features}, {shape.state_dim}"
        label += " both ways" if shape.bidirectional else ""
        for name, t in found.items():
            ratios = base.gradient / t.gradient, base.forward / t.forward
            shown = f"**{name}**" if name == chosen else name
            rows.append({**shape._asdict(), "variant": name, "auto": name == chosen, **t._asdict()})
            lines.append(
                f"| {label} | {shown} | {1e3 * t.gradient:.1f} ms | {ratios[0]:.2f} | "
                f"{1e3 * t.forward:.1f} ms | {ratios[1]:.2f} | {t.temp_bytes / 1e6:.1f} MB | {t.compilation:.1f} s |"
            )
            print(lines[-1], flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "operator.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    head = (
        "# The sequence operator against S5's formulation\n\n"
        f"`python scripts/bench_operator.py --rounds {options.rounds}` on {device_name()}, jax {jax.__version__}. "
        "Medians of process CPU time of interleaved runs; ratios against S5's formulation in the same run (larger is "
        "faster); bold is what `backend=auto` takes.\n\n"
    )
    (options.output / "operator.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
