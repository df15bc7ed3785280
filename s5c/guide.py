"""What the configuration files say about themselves: help with their comments, an overview, completions of the shell.

Reads the yaml files as text. Neither Hydra nor JAX is imported, so `--help` and the Tab key answer at once.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from s5c import searched
from s5c.errors import UserError
from s5c.locations import conf_dir, results_dir
from s5c.lookup import conf_folders, presets
from s5c.pipeline import shelf

COMMANDS = {
    "train": "train a model, or reuse it, and reduce it",
    "reduce": "compress a trained model",
    "convert": "a network of other code into a checkpoint",
    "evaluate": "accuracy, size and speed of a trained model",
    "predict": "what a trained model says about sequences in a file",
    "stream": "running answers to samples from standard input",
    "export": "a network as files that run without s5c: C, ONNX, StableHLO",
    "report": "tables, figures and a page from runs",
    "data": "find, download or generate the data of a task",
    "bench": "time s5c against the published formulation",
    "studies": "the queue of published trainings and comparisons",
}
COMPOSED = ("train", "reduce", "convert", "evaluate", "predict", "stream", "export", "report", "data")
"""Commands that Hydra composes a configuration for."""
HELP = ("--help", "-h")
EXPERIMENT = "experiment"
SWITCHES = {
    "-m": "several jobs: key=a,b,c",
    "--cfg job": "print the composed configuration",
    "--info": "what Hydra found where",
    "--config-dir DIR": "a folder with configuration files of your own",
}
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w./@]+):(?P<value> .*?)?(?:\s+#\s*(?P<comment>.*))?$")
_MORE = re.compile(r"^\s{8,}#\s?(?P<comment>.*)$")


@dataclasses.dataclass
class Key:
    """One key of the configuration.

    Attributes:
        name: with dots.
        value: its default, as the file writes it; "" for a heading with keys below it.
        comment: what the file says beside it; "" if nothing.
    """

    name: str
    value: str
    comment: str = ""


def options(group: str) -> list[str]:
    """Returns the files of a group of the configuration."""
    return list(presets(group))


def summary(path: Path) -> str:
    """Returns the comment that a configuration file begins with, up to its first command."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or line.startswith("#   "):
            break
        lines.append(line[1:].strip())
    return " ".join(lines)


def keys(command: str, chosen: dict[str, str]) -> dict[str, list[Key]]:
    """Returns the keys of a command by group, "" for its own.

    Args:
        command: one of `COMPOSED`.
        chosen: files in the place of the defaults, by group.
    """
    groups: dict[str, dict[str, Key]] = {"": {}}
    for entry in _defaults(conf_dir() / f"{command}.yaml"):
        group, _, name = entry.partition(": ")
        if name and not group.startswith("override"):
            groups.setdefault(group, {})
            path = _file(group, chosen.get(group, name))
            _merge(groups.setdefault(_package(group, path), {}), f"{_package(group, path)}.", path)
        elif group != "_self_" and not name:
            _merge(groups[""], "", conf_dir() / f"{group}.yaml")
    _merge(groups[""], "", conf_dir() / f"{command}.yaml")
    return {group: list(found.values()) for group, found in groups.items()}


def choices(words: Sequence[str]) -> dict[str, str]:
    """Returns the files that a command line chooses, by group: `reduction=bt`."""
    pairs = [word.split("=", 1) for word in words if re.fullmatch(r"\w+=\w+", word)]
    return {group: name for group, name in pairs if _file(group, name).is_file()}


def file_keys(group: str, name: str) -> set[str]:
    """Returns the keys that a file of a group sets, with those of the files it builds on."""
    found: dict[str, Key] = {}
    path = _file(group, name)
    _merge(found, f"{_package(group, path)}.", path)
    return set(found)


def help_text(command: str, arguments: Sequence[str]) -> RenderableType:
    """Returns what a command says about itself; `reduction=bt --help` shows the keys of that preset."""
    chosen = choices(arguments)
    path = conf_dir() / f"{command}.yaml"
    said = summary(path).partition(": ")[2]
    head = Text.assemble((f"python -m s5c.{command}", "bold"), f": {said}")
    parts: list[RenderableType] = [head, "", *_commands(path), ""]
    shown = keys(command, chosen)
    if command == "train":
        parts += [Text("+experiment=NAME", style="bold cyan"), Padding(_experiments(), (0, 0, 1, 2))]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(style="dim", max_width=28)
    table.add_column()
    for group, found in shown.items():
        if group:
            table.add_row("", "", "")
            others = ", ".join(name for name in options(group) if name != _name(command, group, chosen))
            others = f"[dim]or {escape(others)}[/]" if others else ""
            table.add_row(f"[bold]{group}={_name(command, group, chosen)}[/]", "", others)
        for key in found:
            table.add_row(escape(key.name), escape(key.value), escape(key.comment))
    parts += [table, ""]
    switches = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for switch, meaning in SWITCHES.items():
        switches.add_row(f"[cyan]{switch}[/]", meaning)
    return Group(*parts, switches)


def answer(command: str) -> None:
    """Ends the process with the help of a command if that is asked for; called before the imports that take seconds."""
    if any(word in HELP for word in sys.argv[1:]):
        with suppress(UserError):  # said where the command is run
            searched.add(sys.argv[1:])
        printed(help_text(command, sys.argv[1:]))
        sys.exit(0)


def overview() -> RenderableType:
    """Returns what `python -m s5c` says: commands, tasks, presets and trained models."""
    commands = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, what in COMMANDS.items():
        commands.add_row(f"  [cyan]python -m s5c.{name}[/]", what)
    lists = {
        "tasks": options("task"),
        "families": options("model"),
        "reductions": options("reduction"),
        "trained models": [f"zoo:{name}" for name in shelf.names()],
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for title, names in lists.items():
        table.add_row(f"  [bold]{title}[/]", escape(", ".join(names) or "none here"))
    first = [
        "  python -m s5c.train +experiment=digits_last            # train a small model, remove half of its states",
        "  python -m s5c.reduce checkpoint=zoo:digits_s5 reduction=calibrated reduction.ratio=0.8",
        "  python -m s5c.reduce reduction=bt --help               # the keys of a preset, with what they mean",
    ]
    head = "[bold]s5c[/]: train deep diagonal state-space models and compress them by removing states"
    return Group(Text.from_markup(head), "", commands, "", table, "", *first)


# ---- the Tab key


def complete(words: Sequence[str]) -> list[str]:
    """Returns what the last word may become.

    Args:
        words: words of the command line behind `s5c`, the last one as far as it has been typed.
    """
    *before, word = words
    if not before:
        return [name for name in (*COMMANDS, "completion") if name.startswith(word)]
    command = before[0]
    with suppress(UserError):
        searched.add(before[1:])
    if command == "data" and len(before) == 1:
        return ["prepare"] if "prepare".startswith(word) else []
    if command not in COMPOSED:
        return []
    name, sign, value = word.partition("=")
    if not sign:
        shown = keys(command, choices(before)).values()
        found = [f"{key.name}=" for group in shown for key in group if key.value]
        groups = [f"{group}=" for group in keys(command, {}) if group]
        extra = [f"+{EXPERIMENT}="] if command == "train" else []
        return sorted(one for one in {*found, *groups, *extra} if one.startswith(word) and one != word)
    return [f"{name}={one}" for one in _values(command, name, choices(before)) if one.startswith(value)]


SCRIPTS = {
    "bash": """_s5c() {
  local IFS=$'\\n' line="${COMP_LINE:0:$COMP_POINT}"
  COMPREPLY=($(s5c --complete "$line" 2>/dev/null))
  local typed="${line##* }" last="${COMP_WORDS[COMP_CWORD]}"
  [[ "$last" == "=" ]] && last=""
  local cut="${typed%"$last"}"
  COMPREPLY=("${COMPREPLY[@]#"$cut"}")
  [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -F _s5c s5c""",
    "zsh": """_s5c() {
  local -a found
  found=("${(@f)$(s5c --complete "${words[1,CURRENT]}" 2>/dev/null)}")
  compadd -S '' -Q -- $found
}
compdef _s5c s5c""",
    "fish": "complete -c s5c -f -a '(s5c --complete (commandline -cp) 2>/dev/null)'",
}
"""What a shell evaluates: `eval "$(s5c completion bash)"`."""


def _values(command: str, name: str, chosen: dict[str, str]) -> list[str]:
    if name == f"+{EXPERIMENT}":
        return options(EXPERIMENT)
    if name == "checkpoint":
        trainings = results_dir() / "trained"
        return [
            *(f"zoo:{model}" for model in shelf.names()),
            *sorted(str(path) for path in trainings.glob("*") if path.is_dir()),
        ]
    if found := options(name):
        return found
    key = next((key for group in keys(command, chosen).values() for key in group if key.name == name), Key(name, ""))
    if key.value in ("true", "false"):
        return ["false", "true"]
    choices = re.match(r"[\w-]+( \| [\w-]+)+", key.comment)
    return choices[0].split(" | ") if choices else []


# ---- reading the files


def _file(group: str, name: str) -> Path:
    """Returns the file of a group, s5c's own or one of `S5C_PLUGINS`; a path without a file if there is none."""
    places = [folder / group / f"{name}.yaml" for folder in conf_folders()]
    return next((place for place in places if place.is_file()), places[0])


def _package(group: str, path: Path) -> str:
    """Returns what the keys of a file come below: its group, unless the file says another one."""
    said = re.match(r"# @package (\w+)", path.read_text("utf-8")) if path.is_file() else None
    return said[1] if said else group


def _defaults(path: Path) -> list[str]:
    """Returns the entries of a file's defaults list."""
    entries, inside = [], False
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        if line.startswith("defaults:"):
            inside = True
        elif inside and (entry := re.match(r"\s*- (.+?)\s*(#.*)?$", line)):
            entries.append(entry[1])
        elif inside:
            break
    return entries


def _merge(found: dict[str, Key], prefix: str, path: Path) -> None:
    """Puts the keys of a file, and of the files it builds on, over those that are there."""
    for entry in _defaults(path):
        if entry != "_self_" and ":" not in entry and path.parent != conf_dir():
            _merge(found, prefix, _file(path.parent.name, entry))
    for key in _lines(path):
        name = prefix + key.name
        before = found[name].comment if name in found else ""
        comment = f"{before}; {key.comment}" if before and key.comment.startswith("default ") else key.comment or before
        found[name] = Key(name, key.value, comment)


def _lines(path: Path) -> Iterator[Key]:
    """Yields the keys of one file in its own order."""
    above: list[tuple[int, str]] = []
    last: Key | None = None
    skipping = False
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        if last is not None and (more := _MORE.match(line)):
            last.comment += f" {more['comment'].strip()}"
            continue
        if not line.strip() or line.lstrip().startswith(("#", "- ")) or (match := _LINE.match(line)) is None:
            continue
        indent = len(match["indent"])
        if indent == 0:
            # What a preset calls itself is no setting; what a job is called is one.
            skipping = match["key"] in ("defaults", "hydra") or (match["key"] == "name" and path.parent != conf_dir())
        if skipping:
            continue
        above = [(i, name) for i, name in above if i < indent]
        name = ".".join([*(name for _, name in above), match["key"]])
        value = (match["value"] or "").strip()
        if not value:
            above.append((indent, match["key"]))
        if last is not None:
            yield last
        last = Key(name, value, match["comment"] or "")
    if last is not None:
        yield last


def _commands(path: Path) -> list[RenderableType]:
    lines = [line[1:].rstrip() for line in path.read_text("utf-8").splitlines() if line.startswith("#   ")]
    return [Text(line) for line in lines]


def _name(command: str, group: str, chosen: dict[str, str]) -> str:
    usual = dict(entry.split(": ", 1) for entry in _defaults(conf_dir() / f"{command}.yaml") if ": " in entry)
    return chosen.get(group, usual.get(group, ""))


def _experiments() -> Table:
    """Returns the experiments by task."""
    tasks = sorted(options("task"), key=len, reverse=True)
    by_task: dict[str, list[str]] = {}
    for name in options(EXPERIMENT):
        task = next((task for task in tasks if name.startswith(f"{task}_")), "")
        by_task.setdefault(task, []).append(name.removeprefix(f"{task}_"))
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    for task in sorted(by_task):
        table.add_row(f"[cyan]{task}_[/]", ", ".join(by_task[task]))
    return table


def printed(what: RenderableType) -> None:
    """Prints to the terminal; a pipe gets lines as wide as they are."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    with suppress(BrokenPipeError):  # `| head`
        with console.capture() as shown:
            console.print(what)
        print("\n".join(line.rstrip() for line in shown.get().splitlines()), flush=True)
