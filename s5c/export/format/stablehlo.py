"""StableHLO: the whole network on sequences, for any batch, by `jax.export`; the weights lie beside the program.

The program depends on the length of the sequences, since the form of the recurrence that runs fastest does: there is
one for every length that was asked for, and one more of each for accelerators.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from s5c.errors import UserError
from s5c.export.exported import ROWS, Exported
from s5c.export.format.c import TEMPLATES
from s5c.model.classifier import with_backend
from s5c.ssm.call import Shape
from s5c.ssm.operator import resolve_backend
from s5c.types import Array, Params

EXTRA = "flatbuffers"

PLATFORMS = {"cpu": ("cpu",), "accelerator": ("cuda", "tpu")}
RUNNER = "run.py"


def write(exported: Exported, folder: Path) -> str:
    """Writes the programs, `weights.npz`, answers and a script that runs them; returns the command that compares.

    Args:
        exported: any network.
        folder: an empty folder.

    Raises:
        UserError: no length is known, or a package that `jax.export` needs is missing.
    """
    from jax import export

    if not exported.lengths:
        raise UserError("format=stablehlo is made for sequences of some lengths: give lengths=[784], for instance.")
    flat = {"/".join(path): np.asarray(value) for path, value in flatten_dict(dict(exported.weights)).items()}
    model, spec = exported.model, exported.model.spec
    rows = "2*b" if spec.pairs else "b"
    for length in exported.lengths:
        for place, platforms in PLATFORMS.items():
            shape = Shape(1, length, model.config.d_model, max(model.state_dims), False)
            backend = model.config.backend
            if backend == "auto" and not model.config.per_channel:
                backend = resolve_backend("auto", "cpu" if place == "cpu" else "gpu", shape)
            fixed = with_backend(model, backend)

            def answer(weights: Params, inputs: Array, lengths: Array, fixed: object = fixed) -> Array:
                return fixed.apply(weights, inputs, lengths, step_rescale=exported.step_rescale)  # type: ignore

            tail = f", {length}" if spec.tokens else f", {length}, {spec.features}"
            inputs = jax.ShapeDtypeStruct(
                export.symbolic_shape(f"{rows}{tail}"), jnp.int32 if spec.tokens else jnp.float32
            )
            counts = jax.ShapeDtypeStruct((inputs.shape[0],), jnp.int32)
            leaves = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), exported.weights)
            try:
                program = export.export(jax.jit(answer), platforms=platforms)(leaves, inputs, counts).serialize()
            except ImportError as error:
                raise UserError(
                    "format=stablehlo needs the package flatbuffers: pip install 's5c[stablehlo]', or flatbuffers by "
                    "itself."
                ) from error
            (folder / f"model-{length}-{place}.stablehlo").write_bytes(program)
    np.savez_compressed(folder / "weights.npz", **flat)  # type: ignore[arg-type]
    _answers(exported, folder)
    shutil.copyfile(TEMPLATES / "stablehlo_run.py.j2", folder / RUNNER)
    return f"python {RUNNER}"


def _answers(exported: Exported, folder: Path) -> None:
    for length in exported.lengths:
        inputs, lengths = jnp.asarray(exported.inputs(length, ROWS)), jnp.full(ROWS, length)
        said = exported.model.apply(
            jax.device_put(exported.weights), inputs, lengths, step_rescale=exported.step_rescale
        )
        np.savez_compressed(folder / f"answers-{length}.npz", inputs=inputs, lengths=lengths, answers=said)
