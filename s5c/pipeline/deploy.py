"""What a step of a network costs where it runs: time, code and memory of its C file, and the time of a step in JAX.

All networks of a report take turns within every round, so that a drift of the machine's speed falls on all of them.
"""

from __future__ import annotations

import logging
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s5c import api
from s5c.errors import UserError
from s5c.evaluation import cost
from s5c.export.exported import Exported
from s5c.export.plan import plan
from s5c.networks import Model
from s5c.report.row import Row

log = logging.getLogger(__name__)

ROUNDS = 9
SECONDS = 0.1
"""Processor time of a turn of one network in C."""
JAX_STEPS = 100


def deployed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with what a step of their networks costs on this machine, of those that are stored.

    Args:
        rows: of any runs.

    Raises:
        UserError: there is no C compiler, or no network of a row is stored any more.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UserError("deploy=true compiles the exported C file: install a C compiler, such as gcc.")
    with tempfile.TemporaryDirectory(prefix="s5c-") as place:
        found = {name: _Step(model, Path(place, f"{i}"), compiler) for i, (name, model) in enumerate(_models(rows))}
        if not found:
            raise UserError(
                "None of these networks can be timed step by step: they are not stored any more, or not of one "
                "direction. Reduce again with reduction.save=true."
            )
        log.info("Timing a step of %d networks, %d rounds ...", len(found), ROUNDS)
        for turn in range(ROUNDS + 1):
            for one in found.values():
                one.run(counts=turn > 0)
        device, version = cost.device_name(), _first_line(compiler)
        facts = {name: {**one.facts(), "step_device": device, "step_compiler": version} for name, one in found.items()}
    return [{**row, **facts.get(str(row.get("checkpoint")), {})} for row in rows]  # type: ignore[typeddict-item]


def _models(rows: Sequence[Row]) -> list[tuple[str, Model]]:
    """Returns the networks that are stored and can be run step by step, each once."""
    found: dict[str, Model] = {}
    for row in rows:
        name = row.get("checkpoint")
        if not name or name in found:
            continue
        try:
            found[name] = api.load(name)
            found[name].init_state()
        except UserError as error:
            found.pop(name, None)
            log.warning("%s is left out: %s", name, error)
    return list(found.items())


class _Step:
    """The step of one network, in C and in JAX."""

    def __init__(self, model: Model, folder: Path, compiler: str) -> None:
        self._model, self._folder = model, folder
        model.export(folder, "c")
        bits = (model.facts.get("stored") or {}).get("bits", 32)
        made = Exported("model", model.network, model.weights, model.facts, model.facts["step_rescale"], bits)
        self._plan = plan(made.model, made.weights, step_rescale=made.step_rescale, bits=bits)
        strict = [compiler, "-std=c99"]
        for words in (
            ["-O3", "-o", "bench-step", "bench.c", "model.c", "-lm"],
            ["-Os", "-fstack-usage", "-c", "model.c"],
        ):
            done = subprocess.run([*strict, *words], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{compiler} cannot compile the exported file: {done.stderr.strip()[-300:]}")
        self._state = model.init_state()
        self._sample = made.inputs(1, 1)[:, 0]
        self._steps = 200
        self._steps = max(int(SECONDS / (1e-6 * self._in_c())), 1)
        self._c: list[float] = []
        self._jax: list[float] = []

    def run(self, *, counts: bool) -> None:
        """Takes one turn."""
        in_c, in_jax = self._in_c(), self._in_jax()
        if counts:
            self._c.append(in_c)
            self._jax.append(in_jax)

    def facts(self) -> dict[str, Any]:
        """Returns the columns of a row."""
        return {
            "step_us": statistics.median(self._c),
            "step_quartiles_us": cost.quartiles(self._c),
            "step_jax_us": statistics.median(self._jax),
            "step_macs": cost.size(self._model.network, self._model.weights["params"], 1).macs,
            "step_state_bytes": self._plan.state_bytes,
            "step_ram_bytes": self._plan.state_bytes + self._stack(),
            "step_flash_bytes": self._flash(),
        }

    def _in_c(self) -> float:
        """Returns the processor time of a step, microseconds."""
        done = subprocess.run(
            ["./bench-step", str(self._steps)], cwd=self._folder, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    def _in_jax(self) -> float:
        state, began = self._state, time.perf_counter()
        for _ in range(JAX_STEPS):
            state, _ = self._model.step(state, self._sample)
        return 1e6 * (time.perf_counter() - began) / JAX_STEPS

    def _stack(self) -> int:
        """Returns the bytes of stack of the deepest call; helpers of a step call nothing."""
        found = {
            name: int(size)
            for file in self._folder.glob("*.su")
            for name, size in re.findall(r":(\w+)\t(\d+)\t", file.read_text())
        }
        step = found.pop("model_step", 0)
        return step + max(found.values(), default=0)

    def _flash(self) -> int | None:
        """Returns the bytes of code and constants; None without the program `size`."""
        if shutil.which("size") is None:
            return None
        done = subprocess.run(["size", "model.o"], cwd=self._folder, capture_output=True, text=True, check=True)
        text, data, *_ = (int(word) for word in done.stdout.splitlines()[1].split()[:2])
        return text + data


def _first_line(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return f"{done.stdout.splitlines()[0]}, -O3" if done.stdout else compiler
