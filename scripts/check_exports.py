"""Exports every network of the zoo that runs one way, and its reductions, and compares all forms of it.

    python scripts/check_exports.py [--out results/published/exports] [--ratios 0 0.5 0.8] [MODEL ...]

Of every network: the parallel form, the stream of single steps, StableHLO, C and ONNX. What is exported is run in a
process that cannot import s5c, on the answers that go with it; the largest deviation is printed, and must be at most
1e-4. Needs a C compiler, make and s5c[onnx,stablehlo].
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from s5c import api
from s5c.networks import Model
from s5c.pipeline.zoo import names
from s5c.report.csvfile import write_csv

WITHOUT = "import runpy, sys; sys.modules['s5c'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
LIMIT = 1e-4
FORMATS = {"c": ["make", "-s", "check"], "onnx": ["check.py"], "stablehlo": ["run.py"]}
STEPS = 48


def streamed(model: Model) -> float:
    """Returns the largest deviation of a stream of single steps from the parallel form, at its end."""
    inputs = np.random.default_rng(5).uniform(-1, 1, (2, STEPS, model.network.spec.features))
    state = model.init_state(2)
    for step in np.split(inputs, STEPS, axis=1):
        state, said = model.step(state, step[:, 0])
    return float(np.max(np.abs(said - model.predict(inputs, pad="given"))))


def exported(model: Model, form: str, bits: int) -> float:
    """Returns the largest deviation that the export itself finds from its stored answers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "out")
        options: dict[str, Any] = {"lengths": STEPS} if form == "stablehlo" else {"bits": bits}
        model.export(folder, form, **options)
        words = FORMATS[form]
        command = words if words[0] == "make" else [sys.executable, "-c", WITHOUT, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = re.search(r"deviation ([\d.e+-]+)", done.stdout)
    if done.returncode or found is None:
        raise SystemExit(f"{model.name}, {form}, {bits} bits: {done.stdout}{done.stderr}")
    return float(found[1])


def main() -> int:
    """Runs the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=names(), metavar="MODEL")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.5, 0.8])
    args = parser.parse_args()
    rows, worst = [], 0.0
    for name in args.models:
        full = api.load(f"zoo:{name}")
        if getattr(full.network.config, "bidirectional", False):
            print(f"{name}: both directions, no step", flush=True)
            continue
        for ratio in args.ratios:
            model = full if ratio == 0 else api.reduce(full, "last", ratio=ratio)
            row = {"network": name, "ratio of last": ratio, "states": model.states, "stream": streamed(model)}
            row |= {form: exported(model, form, 32) for form in FORMATS}
            row |= {f"{form}, {bits} bits": exported(model, form, bits) for form in ("c", "onnx") for bits in (8, 6, 4)}
            worst = max(
                worst, *(value for key, value in row.items() if key not in ("network", "ratio of last", "states"))
            )
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    print(f"largest deviation {worst:.2g} of at most {LIMIT:g}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, args.out / "exports.csv")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
