"""Running answers to samples from standard input: `python -m s5c.stream checkpoint=PATH < samples`."""

from __future__ import annotations

from s5c.guide import answer

if __name__ == "__main__":
    answer("stream")

import io
import sys

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from s5c import api, programs
from s5c import config as settings
from s5c.cli import run
from s5c.given import whole
from s5c.locations import given_path
from s5c.networks import Model
from s5c.pipeline import streaming

KEYS = ("checkpoint", "weights", "format", "every", "state")


def main(config: DictConfig) -> None:
    """Runs one job; every answer is a line: the steps so far, and the class and its probability, or the targets."""
    programs.keep()
    values = settings.plain(config)
    settings.check_keys(values, KEYS)
    every = whole(values["every"], "every", "every=1")
    place = None if values["state"] is None else given_path(values["state"], "state=")
    model = api.load(str(values["checkpoint"]), weights=str(values["weights"]))
    state = model.init_state()
    if place is not None and place.exists():
        state = streaming.read_state(place, model.network, model.weights)
        Console(stderr=True).print(f"Goes on after step {int(state.steps):,} ({place}).", markup=False)
    file = sys.stdin.buffer
    assert isinstance(file, io.BufferedIOBase)
    given = streaming.samples(file, str(values["format"]), model.network.spec, model.facts.get("vocabulary"))
    try:
        for part in streaming.grouped(given, every):
            state, said = model.prefill(state, part[None])
            print(f"{int(state.steps)}\t{_written(model, said)}", flush=True)
    finally:  # also after Ctrl-C and a sample that cannot be read: what went before is not lost
        if place is not None and int(state.steps):
            streaming.write_state(place, state, model.weights)


def _written(model: Model, said: np.ndarray) -> str:
    """Returns the most probable class and its probability, or the targets, those of the last step if all have some."""
    last = said.reshape(-1, said.shape[-1])[-1]
    if model.network.spec.targets is not None:
        return "\t".join(f"{value:.7g}" for value in last)
    chosen = int(np.argmax(last))
    names = (model.facts.get("data_schema") or {}).get("classes") or range(len(last))
    return f"{names[chosen]}\t{np.exp(last[chosen]):.4f}"


if __name__ == "__main__":
    run(main, "stream")
