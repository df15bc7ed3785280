"""The whole training step, optimiser included.

Ours is compiled as `make_train_step` has it, with its compiler options; the published form with XLA's defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from s5c.bench import reference
from s5c.bench.network import LAYERS, TEXT, classifier, initial_state, network_config, random_batch, spec_of
from s5c.bench.timing import REFERENCE, Case, Key, Program, Say, build
from s5c.ssm.call import Shape
from s5c.training.steps import make_train_step

TITLE = "A training step against S5's formulation"
COMPARED = None
STEP = "training step"


def groups(sizes: Sequence[Shape] | None) -> list[list[Case]]:
    """Returns what is measured, one network a group."""
    return [[Case("sizes", shape, layers=LAYERS)] for shape in sizes or [TEXT]]


def prepare(group: Sequence[Case], precision: str, say: Say) -> dict[Key, Program]:
    """Compiles the step of the reference, of the default, and of the default with recomputed blocks.

    Args:
        group: the cases.
        precision: of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        say: progress.
    """
    programs = {}
    for case in group:
        config, spec = network_config(case.shape, case.layers), spec_of(case.inputs)
        batch = random_batch(case.shape, spec)
        ours = partial(classifier, config, case.shape.state_dim, spec, precision=precision)
        say("drawing the initial weights")
        state, transform = initial_state(ours(), batch)
        steps = {
            REFERENCE: reference.make_train_step(config, spec, transform),
            "s5c": make_train_step(ours(), transform),
            "s5c, remat": make_train_step(ours(remat=True), transform),
        }
        for name, step in steps.items():
            own = jax.tree.map(jnp.copy, state)  # each step consumes the state it is given
            program = build(step, own, batch, jax.random.key(1), carry=True)
            say(f"{STEP}: {name} compiled in {program.compile_s:.1f} s")
            programs[Key(case, STEP, name)] = dataclasses.replace(program, chosen=name == "s5c")
    return programs
