"""What a model says about sequences in a file: `python -m s5c.predict checkpoint=PATH inputs=X.npz out=Y.npz`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("predict")

from pathlib import Path

import jax
from omegaconf import DictConfig
from rich.console import Console

from s5c import api, programs
from s5c import config as settings
from s5c.cli import run
from s5c.given import in_words, native, padding_of, whole
from s5c.locations import given_path
from s5c.pipeline import answering

KEYS = ("checkpoint", "weights", "inputs", "lengths", "out", "pad", "batch_size")


def main(config: DictConfig) -> Path:
    """Runs one job; returns the file of the answers."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, KEYS)
    console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    inputs, out = (given_path(values[key], f"{key}=") for key in ("inputs", "out"))
    lengths = None if values["lengths"] is None else given_path(values["lengths"], "lengths=")
    answering.check_place(out, inputs, *([] if lengths is None else [lengths]))
    size = whole(values["batch_size"], "batch_size", "batch_size=64")
    sequences = answering.Sequences.find(inputs, lengths)
    model = api.load(str(values["checkpoint"]), weights=str(values["weights"]))
    padding = padding_of(model.network.config, model.facts, native(values["pad"]))
    console.print(f"{model.name} is asked {sequences.describe(model.network)}.", markup=False)
    console.print(in_words(model.network.config, padding, values["pad"]), markup=False)
    size = min(size, len(sequences.inputs))
    asked = answering.Asked(model.network, jax.device_put(model.weights), model.facts["step_rescale"], padding, size)
    lost = answering.answer(asked, sequences, out.absolute(), lambda text: console.print(text, markup=False))
    if lost:
        console.print(f"{lost:,} sequences have an answer that is no finite number: a layer overflows on them.")
    console.print(f"{asked.called} -> {out}", markup=False)
    return out


if __name__ == "__main__":
    run(main, "predict")
