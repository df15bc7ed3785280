"""What a benchmark leaves behind: a CSV with every figure, a Markdown page, and plots (`s5c.bench.figures`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax

from s5c.atomic import write_text
from s5c.bench.figures import save_figures
from s5c.bench.rows import headline, label
from s5c.bench.timing import REFERENCE
from s5c.report.csvfile import Record, write_csv

Cell = Callable[[Record], str]


def write(
    found: Sequence[Record],
    output: Path,
    *,
    title: str,
    compared: str | None,
    command: str,
    rounds: int,
    precision: str,
) -> list[Path]:
    """Writes NAME.csv, NAME.md and the figures of one benchmark; returns what was written.

    Args:
        found: its rows.
        output: an existing folder.
        title: heading of the page.
        compared: which results were compared with what, or None.
        command: the command line.
        rounds: how often everything was run.
        precision: of the matrix products.
    """
    name = found[0]["benchmark"]
    table, page = output / f"{name}.csv", output / f"{name}.md"
    write_csv(found, table)
    figures = save_figures(found, output)
    description = _description(found, compared, command, rounds, precision)
    images = [f"![{path.stem}]({path.name})" for path in figures]
    write_text(page, "\n\n".join([f"# {title}", description, *images, *sections(found)]) + "\n")
    return [table, page, *figures]


def _description(found: Sequence[Record], compared: str | None, command: str, rounds: int, precision: str) -> str:
    where = f"{found[0]['device']}, jax {jax.__version__}"
    lines = [
        f"`{command}` on {where}; matrix products in {precision}, on both sides.",
        f"Medians of {rounds} interleaved rounds in one process. In parentheses: how many times as much the published "
        "form needs in the same run; bold is what `backend=auto` takes.",
    ]
    if found[0]["platform"] != "cpu":
        lines.append("CPU time is the host's alone and says nothing of the device: compare wall time.")
    worst: dict[str, float] = {}
    for row in found:
        if row["difference"] is not None:
            worst[row["variant"]] = max(worst.get(row["variant"], 0), row["difference"])
    if compared and worst:
        each = ", ".join(f"{variant} {value:.1e}" for variant, value in worst.items())
        lines.append(f"{compared}, largest difference relative to the largest entry: {each}.")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- sections


def sections(found: Sequence[Record]) -> list[str]:
    """Returns what a page says of the rows of one benchmark, part by part, wherever it is made."""
    columns: dict[str, Cell] = {
        "CPU time": lambda row: f"{_milliseconds(row['cpu_ms'])} ({row['cpu_ratio']:.2f})",
        "Wall time": lambda row: f"{_milliseconds(row['wall_ms'])} ({row['wall_ratio']:.2f})",
        "Temporary memory": lambda row: f"{row['temp_bytes'] / 1e6:.3g} MB ({row['temp_ratio']:.1f})",
        "Compilation": lambda row: f"{row['compile_s']:.1f} s ({row['compile_ratio']:.1f})",
    }
    if found[0].get("layers"):
        columns["Samples per second of wall time"] = lambda row: f"{row['samples_per_s']:.3g}"
    parts = []
    for program in dict.fromkeys(row["program"] for row in found):
        of_program = [row for row in found if row["program"] == program]
        parts.append(f"## {program[0].upper()}{program[1:]}")
        for heading, cell in columns.items():
            parts += [f"### {heading}", _pivot(of_program, cell)]
        if any(row["removed"] for row in found):
            parts += ["### Speed-up by removing states", *_pruning(of_program)]
    return parts


def _pivot(found: Sequence[Record], cell: Cell) -> str:
    """One line per size, one column per variant."""
    variants = list(dict.fromkeys(row["variant"] for row in found))
    lines: dict[str, dict[str, str]] = {}
    for row in found:
        text = cell(row)
        lines.setdefault(label(row), {})[row["variant"]] = f"**{text}**" if row["auto"] else text
    body = [[name, *(cells.get(variant, "–") for variant in variants)] for name, cells in lines.items()]
    return _table(["batch, length, features, states", *variants], body)


def _pruning(found: Sequence[Record]) -> list[str]:
    """Within one variant, and of the quickest of ours at each size: what is left when the choice is free."""
    measure = headline(found)
    variants = list(dict.fromkeys(row["variant"] for row in found))
    ours = [name for name in variants if name != REFERENCE]
    body = []
    for group in dict.fromkeys(row["group"] for row in found if row["removed"]):
        times: dict[float, dict[str, float]] = {}
        for row in found:
            if row["group"] == group:
                times.setdefault(row["removed"], {})[row["variant"]] = row[measure]
        labels = {row["removed"]: label(row) for row in found if row["group"] == group}
        full = times.pop(0)
        for removed, reduced in times.items():
            best = min(full[name] for name in ours) / min(reduced[name] for name in ours)
            speedups = [full[name] / reduced[name] for name in variants]
            body.append([labels[removed], *(f"{value:.2f}" for value in [*speedups, best])])
    note = (
        "How many times as long the same takes with all its states, within one variant and best against best of ours."
    )
    return [note, _table(["batch, length, features, states", *variants, "best"], body)]


def _milliseconds(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") + " ms" if value < 1000 else f"{value:,.0f} ms"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
