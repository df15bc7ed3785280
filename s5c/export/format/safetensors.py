"""safetensors with a card: a checkpoint of s5c in a folder of its own, which `checkpoint=FOLDER` takes."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from s5c.export.exported import ROWS, Exported
from s5c.pipeline import portable
from s5c.pipeline.rounded import to_nearest

EXTRA = ""

CHECK = '''"""Compares the network in this folder with the stored answers; needs s5c."""

from pathlib import Path

import numpy as np

import s5c

here = Path(__file__).parent
stored = np.load(here / "answers.npz")
said, right = s5c.load(here).predict(stored["inputs"], pad="given"), stored["answers"]
off = float(np.max(np.abs(said - right) / (1 + np.abs(right))))
print(f"{len(right)} answers, largest deviation {off:.2g} of at most 1e-04")
raise SystemExit(not off <= 1e-4)
'''


def write(exported: Exported, folder: Path) -> str:
    """Writes `weights.safetensors`, `card.json`, answers and a script that compares; returns its command.

    Args:
        exported: any network.
        folder: an empty folder.
    """
    inside, facts = folder / "network", exported.facts
    model, weights = exported.model, exported.weights
    if exported.bits != (facts.get("stored") or {}).get("bits", 32):
        model, weights = to_nearest(model, weights, exported.bits, step_rescale=exported.step_rescale)
        facts = {
            **facts,
            "model": model.config.to_dict(),
            "stored": {"bits": exported.bits, "step_rescale": exported.step_rescale},
        }
    portable.write(inside, weights, {"step": 0, **facts})
    for path in inside.iterdir():
        path.rename(folder / path.name)
    inside.rmdir()
    inputs = exported.inputs(sequences=ROWS)
    pairs = exported.model.spec.pairs
    said = exported.model.apply(jax.device_put(weights), jnp.asarray(inputs), step_rescale=exported.step_rescale)
    asked = np.stack(np.split(inputs, 2), axis=1) if pairs else inputs
    np.savez_compressed(folder / "answers.npz", inputs=asked, answers=np.asarray(said))
    (folder / "check.py").write_text(CHECK, "utf-8")
    return "python check.py"
