"""Time s5c against S5 as published: `python -m s5c.bench [operator|convolution|step|inference|all]`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape

from s5c.bench.network import LAYERS
from s5c.bench.report import write
from s5c.bench.rows import rows
from s5c.bench.timing import Case, take_turns
from s5c.errors import UserError
from s5c.pipeline.provenance import command, shown
from s5c.report.csvfile import Record
from s5c.ssm.call import Shape
from s5c.ssm.precision import PRECISIONS

BENCHMARKS = ("operator", "convolution", "step", "inference")
MATMUL_PRECISION = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
"""JAX's own setting, which is what the published form's products follow."""

progress = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmarks asked for and writes each one's results as soon as it is done."""
    options = parser().parse_args(arguments)
    if options.inputs and options.benchmark not in ("step", "inference", "all"):
        raise UserError(
            f"--inputs {options.inputs}: only a network reads inputs, and `{options.benchmark}` times a layer on its "
            "own. Leave it out, or time `step` or `inference`."
        )
    options.output.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found out now, not at last
    names = BENCHMARKS if options.benchmark == "all" else (options.benchmark,)
    for name in names:
        with jax.default_matmul_precision(MATMUL_PRECISION[options.precision]):
            measure(name, options)


def measure(name: str, options: argparse.Namespace) -> None:
    """Runs one benchmark."""
    benchmark = importlib.import_module(f"s5c.bench.{name}")
    groups = [[adapted(case, options) for case in group] for group in benchmark.groups(options.sizes)]
    found: list[Record] = []
    written: list[Path] = []
    began = time.monotonic()

    def say(line: str) -> None:
        progress.print(f"[dim]{time.monotonic() - began:6.0f} s[/] {name}: {escape(line)}", soft_wrap=True)

    for number, group in enumerate(groups):
        programs = benchmark.prepare(group, options.precision, say)
        say(f"group {number + 1} of {len(groups)}: timing {len(programs)} programs in {options.rounds} rounds")
        found += rows(name, number, programs, take_turns(programs, options.rounds))
        written = write(  # after every group: a run that is cut short leaves what it has measured
            found,
            options.output,
            title=benchmark.TITLE,
            compared=benchmark.COMPARED,
            command=command().replace("s5c.bench.__main__", "s5c.bench"),
            rounds=options.rounds,
            precision=options.precision,
        )
    print(f"{name}: " + ", ".join(shown(path) for path in written))


def adapted(case: Case, options: argparse.Namespace) -> Case:
    """Returns the case with the batch and, of a network, the depth and the inputs that the command line asks for."""
    shape = case.shape if options.batch is None else case.shape._replace(batch=options.batch)
    network = {"layers": options.layers, "inputs": options.inputs} if case.layers else {}
    return case._replace(shape=shape, **network)


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    made = argparse.ArgumentParser("python -m s5c.bench", description="Time s5c against S5 as published.")
    made.add_argument("benchmark", nargs="?", default="all", choices=[*BENCHMARKS, "all"], help="default: all")
    made.add_argument("--rounds", type=_positive, default=9, help="times everything is run (9)")
    made.add_argument("--output", type=Path, default=Path("results/published/bench"), help="folder for the results")
    made.add_argument(
        "--sizes", type=size, nargs="+", metavar="B,L,H,P", help="batch,length,features,states; B,L,H,P,both: both ways"
    )
    made.add_argument("--batch", type=_positive, help="another batch at every size, say 50 on an accelerator")
    made.add_argument("--layers", type=_positive, default=LAYERS, help=f"depth of the network ({LAYERS})")
    made.add_argument(
        "--inputs", type=_positive, default=0, help="real channels that the network reads, instead of token ids"
    )
    made.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all matrix products (float32)")
    return made


def size(text: str) -> Shape:
    """Reads a size from the command line."""
    numbers, both = text.removesuffix(",both").split(","), text.endswith(",both")
    if len(numbers) != 4 or not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give batch,length,features,states, for instance 2,4096,256,96 or 2,4096,256,96,both"
        )
    batch, length, features, states = map(int, numbers)
    return Shape(batch, length, features, states, both)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    # Compile times are to be those of a compiler, not of a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        main()
    except (UserError, OSError) as error:
        progress.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
