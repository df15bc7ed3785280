"""The figures of a benchmark as rows: one per program, its ratios against the reference included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from s5c.bench.timing import REFERENCE, Key, Program, Timing
from s5c.evaluation.cost import device_name
from s5c.report.csvfile import Record


def rows(benchmark: str, group: int, programs: Mapping[Key, Program], timings: Mapping[Key, Timing]) -> list[Record]:
    """Returns one row per program; its ratios say how many times the reference needs as much.

    Args:
        benchmark: name of the benchmark.
        group: number of the group, whose rows compare with each other.
        programs: what was compiled.
        timings: how long it took.
    """
    found: list[Record] = []
    for key, timing in timings.items():
        program, case = programs[key], key.case
        base = key._replace(variant=REFERENCE)
        found.append(
            {
                "benchmark": benchmark,
                "group": group,
                "sweep": case.sweep,
                **case.shape._asdict(),
                **({"layers": case.layers} if case.layers else {}),
                **({"inputs": case.inputs} if case.inputs else {}),
                "removed": case.removed,
                "program": key.program,
                "variant": key.variant,
                "auto": program.chosen,
                "cpu_ms": 1e3 * timing.cpu_s,
                "wall_ms": 1e3 * timing.wall_s,
                "cpu_ratio": timings[base].cpu_s / timing.cpu_s,
                "wall_ratio": timings[base].wall_s / timing.wall_s,
                "samples_per_s": case.shape.batch / timing.wall_s,
                "compile_s": program.compile_s,
                "compile_ratio": programs[base].compile_s / program.compile_s,
                "temp_bytes": program.temp_bytes,
                "temp_ratio": programs[base].temp_bytes / max(program.temp_bytes, 1),
                "difference": program.difference,
                "platform": jax.default_backend(),
                "device": device_name(),
            }
        )
    return found


def label(row: Record) -> str:
    """Returns the size of a row in words: batch, length, features, states."""
    text = ", ".join(str(row[key]) for key in ("batch", "length", "features", "state_dim"))
    text += " both ways" if row["bidirectional"] else ""
    if inputs := row.get("inputs"):
        text += f", {inputs} real input{'s' if inputs > 1 else ''}"
    return text + (f" (−{row['removed']:.0%})" if row["removed"] else "")


def headline(found: Sequence[Record]) -> str:
    """Returns the column that speed is judged by: CPU time where programs run on the CPU, the steadier of the two."""
    return "cpu_ms" if found[0]["platform"] == "cpu" else "wall_ms"
