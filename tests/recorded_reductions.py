"""Records what every preset makes of zoo models, checksums of all arrays and the rows, or compares it with a record.

    python tests/recorded_reductions.py --record before.json
    python tests/recorded_reductions.py --compare before.json

A change that only moves code leaves every bit of a reduction as it was: record before, compare after. The first model
goes through the command, so that rows, names of arms and stored files are looked at too, and trains where a preset says
so. The others go through `s5c.reduce`, on random inputs and without training, which is quicker and needs no data.
Checksums differ between machines and versions of JAX, which is why no record is kept here. What is in the record
already is not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import yaml

import s5c
from s5c.errors import UserError
from s5c.pipeline.answers import random_batches
from s5c.presets import names
from s5c.training.checkpoint import load

MODELS = ("digits_s5", "listops_small_s5", "smnist_small_s5")
RATIOS = (0.3, 0.6, 0.9)
KINDS = ("ratio", "params", "order", "tolerance", "max_drop")
LENGTH = 80
"""Steps of the random inputs."""
SMALL = ("reduction.calibration.sequences=24", "reduction.calibration.batch_size=8")
"""For presets that look at data."""
OF_RUN = {
    *("timestamp", "command", "version", "git", "checkpoint", "checkpoint_bytes", "parent", "latency_device", "device"),
    *("seconds_reduction", "seconds_calibration", "seconds_training"),
}
"""What no two runs of one command have in common."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "last+refit(h2)+bn": ("reduction=last", "reduction.refit=h2", "reduction.norm=recalibrate", *SMALL),
    "last+calibrated+sequential": (
        *("reduction=last", "reduction.refit=calibrated", "reduction.sequential=refit", *SMALL),
    ),
    "bt+covariance+readout": ("reduction=bt", "reduction.refit=covariance", "reduction.readout=refit", *SMALL),
    "bt+calibrated+sequential": (
        *("reduction=bt", "reduction.refit=calibrated", "reduction.sequential=refit", *SMALL),
    ),
    "calibrated by params": ("reduction=calibrated", "reduction.params=[0.1,0.2]", *SMALL),
    "calibrated measured": ("reduction=calibrated", "reduction.layer_sensitivity=measured", *SMALL),
    "calibrated gradient": ("reduction=calibrated", "reduction.layer_sensitivity=gradient", *SMALL),
    "last by max_drop": ("reduction=last", "reduction.max_drop=5"),
    "last by order": ("reduction=last", "reduction.order=[3,2]"),
    "bt by tolerance": ("reduction=bt", "reduction.tolerance=[0.1,0.3]"),
    "fresh by params": ("reduction=fresh", "reduction.params=[0.1,0.2]"),
}
"""Settings of more than one axis, which no preset has: of every model."""
TRAINED: dict[str, tuple[str, ...]] = {
    "rounds": ("reduction=last", "reduction.rounds=2", "reduction.finetune.epochs=1", "reduction.ratio=[0.5]"),
    "rounds of bt": ("reduction=bt", "reduction.rounds=2", "reduction.finetune.epochs=1", "reduction.ratio=[0.5]"),
    "reinitialised": ("reduction=bt_init", "reduction.finetune.rest=reinitialise", "reduction.ratio=[0.5]"),
    "distilled": ("reduction=last_init", "reduction.finetune.distill=true", "reduction.ratio=[0.5]"),
}
"""And those that train: of the smallest model alone."""


def commands(model: str) -> dict[str, tuple[str, ...]]:
    """Returns the overrides of every reduction of a model, by a name for it."""
    found = {preset: (f"reduction={preset}", *(SMALL if looks(preset) else ())) for preset in names()}
    found |= VARIANTS | (TRAINED if model == MODELS[0] else {})
    if model != MODELS[0]:
        found.pop("last by max_drop")  # which asks for labels
    return {name: complete(overrides, model) for name, overrides in found.items()}


def complete(overrides: tuple[str, ...], model: str) -> tuple[str, ...]:
    """Returns overrides with the ratios, and one epoch for what trains, or none."""
    given = {override.partition("=")[0] for override in overrides}
    targets = {f"reduction.{kind}" for kind in KINDS}
    ratio = () if given & targets else (f"reduction.ratio={json.dumps(RATIOS).replace(' ', '')}",)
    trains = overrides[0].endswith("_init") and "reduction.finetune.epochs" not in given
    epochs = (f"reduction.finetune.epochs={1 if model == MODELS[0] else 0}",) if trains else ()
    return (*overrides, *ratio, *epochs)


def looks(preset: str) -> bool:
    """Returns whether a preset looks at calibration sequences."""
    return preset in ("calibrated", "bt_empirical", "lqo_curve")


def outcome(model: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Returns the checksums of all that a reduction made, and what it said; the message of a refusal."""
    return (by_command if model == MODELS[0] else by_function)(model, overrides)


def by_function(model: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Returns what `s5c.reduce` makes of a model, at one target after another."""
    preset, options = read(overrides)
    full = s5c.load(f"zoo:{model}")
    target = next(kind for kind in KINDS if kind in options)
    looked = options.get("calibration", {}).get("sequences", 0)
    values = dict(drawn(full, looked)) if looked else {"length": LENGTH}
    found = {}
    for value in options.pop(target):
        try:
            small = s5c.reduce(full, preset, **{target: value}, **options, **values)
        except UserError as refusal:
            return {"refused": str(refusal)}
        said = small.reduced
        assert said is not None
        found[f"{target} {value}"] = {
            **{"name": small.name, "facts": small.facts, "orders": said.orders, "ratio": said.ratio_achieved},
            **{"errors": said.errors, "bounds": said.bounds, "notes": said.notes, "quadratic": said.quadratic},
            "keep": None if said.selected is None else [digest(mask) for mask in said.selected.keep],
            "weights": flat(small.weights),
        }
    return dict(json.loads(json.dumps(found, default=str)))


def read(overrides: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """Returns the preset that overrides of a command name, and the other ones as `s5c.reduce` takes them."""
    options: dict[str, Any] = {}
    for key, _, text in (override.removeprefix("reduction.").partition("=") for override in overrides[1:]):
        group, _, inner = key.rpartition(".")
        (options.setdefault(group, {}) if group else options)[inner] = yaml.safe_load(text)
    return overrides[0].removeprefix("reduction="), options


def drawn(model: s5c.Model, sequences: int) -> Iterator[tuple[str, Any]]:
    """Yields random inputs, and their lengths where they have some, as `s5c.reduce` takes them."""
    batch = next(random_batches(model.network.spec, LENGTH))
    yield "data", batch.inputs[:sequences]
    if batch.lengths is not None:
        yield "lengths", batch.lengths[:sequences]


def by_command(model: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Returns the rows of `python -m s5c.reduce`, and the checksums of all that it stored."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        asked = ("evaluation.test_examples=64", "evaluation.batch_size=64")
        done = jobs.run("reduce", f"checkpoint=zoo:{model}", *overrides, *asked, folder=folder)
        if done.code:
            return {"refused": done.err.strip().splitlines()[-1]}
        run = jobs.only(folder, "results/reduce/*")
        rows = [{k: v for k, v in row.items() if k not in OF_RUN} for row in jobs.rows(run / "rows.jsonl")]
        arrays = {path.stem: of_file(path) for path in sorted(run.glob("*.npz"))}
        stored = {path.name: of_checkpoint(path) for path in sorted(run.glob("reduced/*"))}
        return dict(json.loads(json.dumps({"rows": rows, **arrays, "networks": stored})))


def of_file(path: Path) -> dict[str, str]:
    """Returns the checksum of every array of a file."""
    with np.load(path) as file:
        return {key: digest(file[key]) for key in sorted(file)}


def of_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the checksum of every weight of a stored network, and what is said beside it."""
    found = load(path)
    said = {key: found.metadata[key] for key in ("state_dims", "unstable_modes", "model", "reduction", "reductions")}
    return {**flat(found.weights), "said": said}


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Returns the checksum of every array of a tree, by its path."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{above}/{key}"
        found |= flat(value, name) if isinstance(value, Mapping) else {name: digest(np.asarray(value))}
    return found


def digest(array: np.ndarray) -> str:
    """Returns the checksum of an array, its shape and its type."""
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Returns every place where two records differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    same = one == other or (one != one and other != other)
    return [] if same else [f"{where}: {one!r:.150} -> {other!r:.150}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--record", type=Path, metavar="FILE", help="JSON to write, or to go on with")
    mode.add_argument("--compare", type=Path, metavar="FILE", help="JSON of an earlier --record")
    parser.add_argument("--models", nargs="*", default=MODELS, metavar="NAME", help="of the zoo")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME", help="presets or variants")
    chosen = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    path = chosen.record or chosen.compare
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    different = 0
    for model in chosen.models:
        for name, overrides in commands(model).items():
            key = f"{model}: {name}"
            if (chosen.only and name not in chosen.only) or (key in known) == bool(chosen.record):
                continue
            began = time.perf_counter()
            found = outcome(model, overrides)
            if chosen.record:
                known[key] = found
                path.write_text(json.dumps(known, indent=1, allow_nan=True), "utf-8")
            apart = differences(known[key], found)
            different += bool(apart)
            said = found.get("refused") or ("; ".join(apart[:6]) or ("recorded" if chosen.record else "the same"))
            print(f"{key} ({time.perf_counter() - began:.0f} s): {said}", flush=True)
    print(f"{different} differ." if chosen.compare else f"{len(known)} recorded.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
