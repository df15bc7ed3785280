"""Programs compiled first, then run in turn: a change in the machine's speed falls on all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from s5c.errors import UserError
from s5c.ssm.call import Shape

REFERENCE = "as published"
"""The variant that all ratios refer to (`s5c.bench.reference`)."""

SHORTEST_TURN = 0.02
"""Seconds a turn lasts at least: quicker programs are called several times in a row and the mean is taken."""

TOLERANCE = 1e-4
"""Largest difference from the reference, relative to its largest entry, that passes for the same result."""

Say = Callable[[str], None]
"""Takes a line of progress."""


class Case(NamedTuple):
    """What is measured.

    Attributes:
        sweep: the series it belongs to.
        shape: sizes, after states were removed.
        removed: fraction of the states removed.
        layers: depth of the network; 0 for an operator on its own.
        inputs: real channels that the network reads; 0 for token ids.
    """

    sweep: str
    shape: Shape
    removed: float = 0.0
    layers: int = 0
    inputs: int = 0


class Key(NamedTuple):
    """Names one program among those that are run in turn."""

    case: Case
    program: str
    variant: str


@dataclass(frozen=True)
class Program:
    """A compiled program, its arguments bound.

    Attributes:
        call: runs it and returns its results, perhaps before they are computed.
        compile_s: seconds of tracing and compilation.
        temp_bytes: XLA's temporary memory.
        difference: of its results from the reference's, relative to the largest entry; None if not compared.
        chosen: it is the implementation that `backend=auto` takes.
    """

    call: Callable[[], Any]
    compile_s: float
    temp_bytes: int
    difference: float | None = None
    chosen: bool = False


class Timing(NamedTuple):
    """Medians of one program over the rounds, in seconds. CPU time is that of all threads of this process."""

    cpu_s: float
    wall_s: float


def build(function: Any, *args: Any, carry: bool = False) -> Program:
    """Compiles a jitted function for its arguments.

    Args:
        function: what `jax.jit` returned.
        args: its arguments; they are kept.
        carry: the first result takes the place of the first argument, which the function may have donated.
    """
    began = time.perf_counter()
    compiled = function.lower(*args).compile()
    seconds = time.perf_counter() - began
    analysis = compiled.memory_analysis()
    carried, rest = args[0], args[1:]

    def call() -> Any:
        nonlocal carried
        results = compiled(carried, *rest)
        if carry:
            carried = results[0]
        return results

    return Program(call, seconds, int(analysis.temp_size_in_bytes) if analysis is not None else 0)


Name = TypeVar("Name")


def take_turns(programs: Mapping[Name, Program], rounds: int) -> dict[Name, Timing]:
    """Runs all programs once to warm up, then one after the other in every round; returns the medians."""
    calls = {name: math.ceil(SHORTEST_TURN / max(_turn(program, 1).wall_s, 1e-6)) for name, program in programs.items()}
    turns: dict[Name, list[Timing]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            turns[name].append(_turn(program, calls[name]))
    return {name: Timing(*map(statistics.median, zip(*taken, strict=True))) for name, taken in turns.items()}


def _turn(program: Program, calls: int) -> Timing:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(program.call())
    return Timing((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)


def difference(ours: Any, theirs: Any) -> float:
    """Returns the largest difference between two trees of arrays, each array's relative to its largest entry."""
    leaves = zip(jax.tree.leaves(jax.device_get(ours)), jax.tree.leaves(jax.device_get(theirs)), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in leaves)


def check(found: float, what: str, precision: str) -> None:
    """Refuses a difference from the reference's result that is too large for exact products.

    Raises:
        UserError: it is.
    """
    if precision == "float32" and not found <= TOLERANCE:
        raise UserError(
            f"{what} differs from the reference by {found:.1e} of the largest entry; at most {TOLERANCE:g} is allowed. "
            "A speed without the same result is worth nothing, so nothing was timed. Leave this variant out."
        )
