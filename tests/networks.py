"""Small networks with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import numpy as np

from s5c.model.classifier import Classifier, InputSpec
from s5c.model.config import load_family

PIXELS = InputSpec(features=2, classes=3)
TOKENS = InputSpec(features=7, classes=3, tokens=True)
PAIRS = InputSpec(features=7, classes=2, tokens=True, pairs=True)
ROWS, LENGTH = 4, 9


FOUR_STATES: dict[str, dict[str, Any]] = {
    "s5": {"state_size": 8, "blocks": 2},
    "s4d": {"state_size": 8, "activation": "full_glu"},
    "dss": {"state_size": 4, "activation": "full_glu"},
}


def smallest(family: str) -> dict[str, Any]:
    """Returns what a family's preset is with four stored states, or with its own number if it calls them otherwise."""
    if family in FOUR_STATES:
        return FOUR_STATES[family]
    preset = {key: value for key, value in jobs.compose("train", f"model={family}")["model"].items() if key != "name"}
    if "state_size" in preset:
        sizes = (load_family(family).Config(**{**preset, "state_size": n}) for n in (4, 8))
        preset["state_size"] = next(config.state_size for config in sizes if config.full_state_dim == 4)
    return preset


def network(spec: InputSpec = PIXELS, family: str = "s5", **options: Any) -> Classifier:
    """Returns two blocks of six features and four stored states (a channel) each, changed by `options`."""
    config = load_family(family).Config(**{**smallest(family), "n_layers": 2, "d_model": 6, **options})
    return Classifier(config, spec, (config.full_state_dim,) * config.n_layers)


def batch_for(spec: InputSpec, rng: np.random.Generator) -> tuple[jax.Array, jax.Array | None]:
    """Returns inputs and, for tokens, lengths: four rows of nine steps."""
    if not spec.tokens:
        return jnp.asarray(rng.normal(size=(ROWS, LENGTH, spec.features)), jnp.float32), None
    ids = rng.integers(0, spec.features, (ROWS, LENGTH))
    return jnp.asarray(ids, jnp.int32), jnp.asarray(rng.integers(1, LENGTH + 1, ROWS), jnp.int32)


def weights_of(model: Classifier, rng: np.random.Generator) -> dict[str, Any]:
    """Returns random weights of which none is zero and no norm is the identity; nothing is compiled for them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *batch_for(model.spec, np.random.default_rng(0)))

    def draw(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        name, uniform = path[-1].key, partial(rng.uniform, size=leaf.shape)
        value = {
            "Lambda_re": lambda: uniform(-1, -0.2),
            "Lambda_im": lambda: uniform(-30, -1),
            "Lambda_log_neg_re": lambda: uniform(-2, 0),
            "log_step": lambda: uniform(-4, -2),
            "B": lambda: 10 * rng.normal(size=leaf.shape),  # inputs of short sequences must show in the states
            "scale": lambda: uniform(0.5, 1.5),
            "var": lambda: uniform(0.5, 1.5),
        }.get(name, lambda: rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]))
        return jnp.asarray(value(), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
