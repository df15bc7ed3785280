"""The forward pass of the whole network, complete and with states removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from s5c.bench import reference
from s5c.bench.network import LAYERS, TEXT, classifier, initial_state, network_config, random_batch, spec_of
from s5c.bench.operator import kept
from s5c.bench.timing import REFERENCE, Case, Key, Program, Say, build, check, difference
from s5c.model.classifier import InputSpec
from s5c.model.compilation import compiler_options
from s5c.model.family.s5 import Config
from s5c.model.surgery import take
from s5c.ssm.call import Shape
from s5c.types import Array, Params

TITLE = "Inference with states removed, against S5's formulation"
COMPARED = "Log-probabilities against the published form's"
INFERENCE = "inference"
REMOVED = (0, 0.5, 0.75, 0.9)


def groups(sizes: Sequence[Shape] | None) -> list[list[Case]]:
    """Returns what is measured: per network its four sizes, which take turns."""
    return [
        [Case("sizes", shape._replace(state_dim=kept(shape, removed)), removed, LAYERS) for removed in REMOVED]
        for shape in sizes or [TEXT]
    ]


def prepare(group: Sequence[Case], precision: str, say: Say) -> dict[Key, Program]:
    """Compiles both forward passes at every size and compares their log-probabilities.

    Args:
        group: one network with fewer and fewer states.
        precision: of the matrix products, one of `s5c.ssm.precision.PRECISIONS`.
        say: progress.

    Raises:
        UserError: the log-probabilities differ.
    """
    shape, layers = group[0].shape, group[0].layers
    config, spec = network_config(shape, layers), spec_of(group[0].inputs)
    batch = random_batch(shape, spec)
    say("drawing the initial weights")
    state, _ = initial_state(classifier(config, shape.state_dim, spec), batch)
    order = np.random.default_rng(0).permutation(shape.state_dim)
    programs: dict[Key, Program] = {}
    for case in group:
        p = case.shape.state_dim
        params, _ = take(state.params, [order < p] * layers, config)
        weights = {"params": params, "batch_stats": state.batch_stats}
        ours = classifier(config, p, spec, precision=precision).apply
        forward = {
            REFERENCE: jax.jit(partial(_published, config=config, spec=spec)),
            "s5c": jax.jit(ours, compiler_options=compiler_options()),  # as the evaluation compiles it
        }
        built = {name: build(f, weights, batch.inputs, batch.lengths) for name, f in forward.items()}
        say(f"{p} states a layer: compiled in " + ", ".join(f"{q.compile_s:.1f} s ({n})" for n, q in built.items()))
        expected, found = (program.call() for program in built.values())
        off = difference(found, expected)
        check(off, f"Inference with {p} states a layer", precision)
        programs[Key(case, INFERENCE, REFERENCE)] = built[REFERENCE]
        programs[Key(case, INFERENCE, "s5c")] = dataclasses.replace(built["s5c"], difference=off, chosen=True)
    return programs


def _published(weights: Params, inputs: Array, lengths: Array | None, *, config: Config, spec: InputSpec) -> Array:
    return reference.log_probs(weights["params"], weights["batch_stats"], inputs, lengths, config=config, spec=spec)[0]
