"""Runs an exported network; needs JAX (with flatbuffers) and NumPy alone.

python run.py                          compares every program for this platform with its stored answers
python run.py inputs.npz answers.npz   answers the array `inputs` (n, steps, features) or ids (n, steps); `lengths` (n,)
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax import export

HERE = Path(__file__).parent
PLACE = "cpu" if jax.default_backend() == "cpu" else "accelerator"


def answer(inputs, lengths=None):
    """Returns log-probabilities (n, classes)."""
    weights: dict = {}
    for path, value in np.load(HERE / "weights.npz").items():
        *parents, name = path.split("/")
        place = weights
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    program = export.deserialize((HERE / f"model-{inputs.shape[1]}-{PLACE}.stablehlo").read_bytes())
    lengths = np.full(len(inputs), inputs.shape[1], np.int32) if lengths is None else lengths
    return np.asarray(program.call(weights, inputs, lengths))


if len(sys.argv) == 3:
    given = np.load(sys.argv[1])
    np.savez(sys.argv[2], log_probs=answer(given["inputs"], given["lengths"] if "lengths" in given else None))
else:
    for path in sorted(HERE.glob("answers-*.npz")):
        stored = np.load(path)
        right = stored["log_probs"]
        off = np.max(np.abs(answer(stored["inputs"], stored["lengths"]) - right) / (1 + np.abs(right)))
        print(f"{path.name}: {len(right)} answers, largest deviation {off:.2g} of at most 1e-04")
        if not off <= 1e-4:
            raise SystemExit(1)
