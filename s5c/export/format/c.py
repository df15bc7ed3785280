"""C99: one file and one header with a step function, a test with stored answers, an example and a Makefile."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jinja2
import numpy as np

from s5c import __version__
from s5c.errors import UserError
from s5c.export.exported import Exported
from s5c.export.plan import LayerPlan, Plan, plan
from s5c.model.rounding import Matrix
from s5c.model.stream import advance, initial_state

EXTRA = ""

TEMPLATES = Path(__file__).parents[1] / "templates"
FILES = {
    "model.h": "{}.h",
    "model.c": "{}.c",
    "test.c": "test.c",
    "example.c": "example.c",
    "bench.c": "bench.c",
    "Makefile": "Makefile",
}
RESERVED = {"test", "example", "bench", "main", "int", "float", "double", "step", "times", "add"}


def write(exported: Exported, folder: Path) -> str:
    """Writes the files; returns the command that compares them with the stored answers.

    Args:
        exported: a network of one direction.
        folder: an empty folder.

    Raises:
        UserError: the network cannot be run step by step, or its name is no word of C.
    """
    name = exported.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in RESERVED:
        raise UserError(f"name={name} names functions and files of C: begin with a letter, then letters, digits, _.")
    made = plan(exported.model, exported.weights, step_rescale=exported.step_rescale, bits=exported.bits)
    inputs = exported.inputs()
    values = {
        "plan": made,
        "name": name,
        "guard": name.upper(),
        "title": f"{name}: {exported.model.config.family} of {exported.facts['name']}"
        if "name" in exported.facts
        else name,
        "version": __version__,
        "weight_bytes": weight_bytes(made),
        "inputs": inputs,
        "answers": answers(exported, made, inputs),
        "log_outputs": math.log(made.outputs),
        "said": "log_probs" if made.classes else "targets",
        "epsilon": _float(exported.model.config.layer_eps),
        "widest": max((2 * layer.a_re.size for layer in made.layers if not layer.channels), default=0),
        "most_columns": max(one.values.shape[1] for one in _leaves(made) if isinstance(one, Matrix)),
        "any_joint": any(not layer.channels for layer in made.layers),
        "any_channels": any(layer.channels for layer in made.layers),
        "any_gelu": any(layer.gate.activation != "lqo" for layer in made.layers),
        "any_sigmoid": any(layer.gate.activation not in ("lqo", "gelu") for layer in made.layers),
        "any_gate": any(layer.gate.activation != "gelu" for layer in made.layers),
        "any_layer_norm": any("layer" in (layer.before.kind, layer.after.kind) for layer in made.layers),
        "any_before": any(layer.before.kind != "none" for layer in made.layers),
    }
    environment = _environment()
    for template, file in FILES.items():
        text = environment.get_template(f"{template}.j2").render(values)
        (folder / file.format(name)).write_text(text + "\n", "utf-8")
    return "make check"


def answers(exported: Exported, made: Plan, inputs: np.ndarray) -> np.ndarray:
    """Returns the log-probabilities after every step, (n, l, outputs): of the network itself, or with rounded weights
    of the NumPy model of the step."""
    if made.bits != 32:
        return made.run(inputs)
    state, said = initial_state(exported.model, len(inputs)), []
    for step in np.split(inputs, inputs.shape[1], axis=1):
        state, answer = advance(exported.model, exported.weights, state, jnp.asarray(step), exported.step_rescale)
        said.append(np.asarray(answer).reshape(len(inputs), made.outputs))
    return np.stack(said, axis=1)


def weight_bytes(made: Plan) -> int:
    """Returns the bytes of all constants of the file."""
    total = 0
    for value in _leaves(made):
        if isinstance(value, Matrix):
            total += value.bytes
        elif isinstance(value, np.ndarray):
            total += 4 * value.size
    return total


def _leaves(made: Plan) -> list[Any]:
    found: list[Any] = [made.encoder, made.encoder_bias, made.decoder, made.decoder_bias]
    for layer in made.layers:
        found += [layer.a_re, layer.a_im, layer.C, layer.D, layer.c]
        found += [] if layer.B is None else [layer.B]
        found += [layer.b] if _has_constant(layer) else []
        found += [value for norm in (layer.before, layer.after) if norm.kind != "none" for value in norm[1:]]
        found += [value for value in layer.gate[1:] if value is not None]
    return found


def _has_constant(layer: LayerPlan) -> bool:
    return layer.b is not None and bool(np.any(layer.b))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)
    environment.globals |= {
        "floats": _floats,
        "integers": _integers,
        "stored": Matrix.packed,
        "has_constant": _has_constant,
        "any": any,
    }
    return environment


def _floats(values: np.ndarray) -> str:
    """Returns numbers as C reads them back exactly."""
    return _wrapped([_float(value) for value in np.ravel(values).tolist()])


def _float(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _integers(values: np.ndarray) -> str:
    return _wrapped([str(value) for value in np.ravel(values).tolist()])


def _wrapped(words: list[str], width: int = 118) -> str:
    lines, line = [], " "
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = " "
        line += f" {word},"
    return "\n" + "\n".join([*lines, line]) + "\n"
