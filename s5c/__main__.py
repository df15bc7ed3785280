"""What there is: `python -m s5c`. As `s5c COMMAND ...` it runs `python -m s5c.COMMAND ...`.

s5c train +experiment=digits_last
eval "$(s5c completion bash)"            # completes commands, groups, keys and their values
"""

from __future__ import annotations

import runpy
import shlex
import sys

from s5c import __version__, searched
from s5c.errors import UserError, unknown
from s5c.guide import COMMANDS, HELP, SCRIPTS, complete, overview, printed


def main() -> None:
    """Runs a command, or says what there is."""
    first, *rest = sys.argv[1:] or ["--help"]
    if first in HELP or searched.FLAG.fullmatch(first):
        searched.add(sys.argv[1:])
        printed(overview())
    elif first == "--version":
        print(__version__)
    elif first == "--complete":
        print("\n".join(complete(_words(rest[0] if rest else ""))))
    elif first == "completion":
        print(SCRIPTS[_chosen(rest[0] if rest else "bash")])
    elif first in COMMANDS:
        sys.argv = [f"s5c.{first}", *rest]
        runpy.run_module(f"s5c.{first}", run_name="__main__", alter_sys=True)
    else:
        raise unknown("command", first, COMMANDS)


def _words(line: str) -> list[str]:
    """Returns the words behind the first one, the last as far as it has been typed."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is still open
        words = line.split()
    return words[1:] + ([""] if not line or line[-1].isspace() else [])


def _chosen(shell: str) -> str:
    if shell not in SCRIPTS:
        raise unknown("shell", shell, SCRIPTS)
    return shell


def run() -> None:
    """Runs `main`; wrong input is a message and exit status 1."""
    try:
        main()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
