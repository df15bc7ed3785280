"""How every entry point runs: compose the configuration, do the job, say what went wrong in one message.

`HYDRA_FULL_ERROR=1` shows the traceback of any error.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationResolutionError, OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from s5c import lookup, searched
from s5c.config import suggest_key
from s5c.data import task as tasks
from s5c.errors import UserError, unknown
from s5c.guide import choices, file_keys, options
from s5c.locations import chosen_results, conf_dir, results_dir
from s5c.model import family as families
from s5c.pipeline import stage as stages
from s5c.pipeline.folder import check_name
from s5c.reduction import allocation as allocations
from s5c.reduction import method as methods
from s5c.reduction import refit as refits
from s5c.ssm import backend as backends
from s5c.training.interrupt import GOES_ON, STATUS, Interrupted, signals_interrupt
from s5c.upstream import container as containers
from s5c.upstream import layout as layouts

errors = Console(stderr=True, highlight=False, emoji=False)

NOT_IN_RUN_NAME = ("experiment", "results_dir", "name", "wandb", "checkpoint", "resume", "hydra")
"""Overrides that do not tell two runs of an experiment apart."""

ALONE = ("-m", "--multirun")
WITH_VALUE = (
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--cfg", "-c", "--package", "-p"),
)
"""Hydra's switches, those with a word behind them apart."""

SWEEP_FILE = "multirun.yaml"
EXPERIMENT = "experiment"
"""The one group of which nothing may be chosen: the defaults stand without it."""
PRESETS_OF = {"reduction": methods, "task": tasks, "model": families}
"""Groups whose presets configure a file that is found by its name."""
KINDS = (*PRESETS_OF.values(), allocations, refits, backends, stages, containers, layouts)
HERE = "."
"""What conf/base.yaml tells Hydra to use as output folder: s5c makes run folders itself, of accepted commands only."""

DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
}
"""What a person can put right: a full disk, a quota, a folder that cannot be written or is none, a name too long."""
NO_CHOICE = "Config group override must be"
"""What Hydra says of `hydra=null`, in a ValueError of no class of its own."""
NUMPY_FULL = re.compile(r"\d+ requested and \d+ written")
"""All that NumPy says when a file cannot be written to its end; such an error has no number."""


def run(job: Callable[[DictConfig], Any], config_name: str) -> None:
    """Runs a job under Hydra; exits with status 1 after an error, 130 after an interruption.

    Args:
        job: takes the composed configuration; its return value is what a Hydra sweeper optimises.
        config_name: the yaml at the top of conf/ that the defaults come from.
    """
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # With this set Hydra hands exceptions on instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _ignore_closed_loops()
    logging.captureWarnings(True)
    sys.argv[1:] = _with_their_presets(_switches_first(sys.argv[1:]))
    try:
        with signals_interrupt(), _sweep_folders_removed():
            searched.add(sys.argv[1:])
            lookup.check(KINDS)
            check_choices(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)()
    except Interrupted as stop:
        errors.print(f"[yellow]{escape(str(stop))}[/]\n{GOES_ON}", soft_wrap=True)
        _leave(STATUS)
    except KeyboardInterrupt:
        errors.print("[yellow]Interrupted.[/] Finished parts are kept; the same command goes on from there.")
        _leave(STATUS)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if show_traceback:
            raise
        _fail(explain(error, config_name))
    except (OSError, ValueError) as error:
        if not show_traceback and str(error).startswith(NO_CHOICE):
            _fail(f"A group is chosen by its name, such as task=digits, in {' '.join(sys.argv[1:])!r}: {error}.")
        # Hydra's logging says ValueError where its log file cannot be opened, and only its cause why.
        disk = error.__cause__ if str(error).startswith("Unable to configure") else error
        full = isinstance(disk, OSError) and disk.errno is None and NUMPY_FULL.search(str(disk))
        if show_traceback or not isinstance(disk, OSError) or not (full or disk.errno in DISK_ERRORS):
            raise
        _fail(
            f"{disk.strerror or 'No space left on device'}: {disk.filename or 'while writing'}. What was saved before "
            "is intact: make room or repair the folder, or choose another one with results_dir=..., and run the same "
            "command again."
        )


def _switches_first(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with switches before all overrides: Hydra's parser takes none between two of them."""
    switches: list[str] = []
    others: list[str] = []
    for before, word in itertools.pairwise(("", *arguments)):
        of_switch = word in ALONE or word in WITH_VALUE or before in WITH_VALUE
        (switches if of_switch else others).append(word)
    return [*switches, *others]


def _with_their_presets(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a sweep over presets, its keys of these presets as choices of one.

    Before it makes jobs Hydra composes the command line without what is swept, and so with the preset of the
    experiment, in which `reduction.eps=0` is no key although every swept preset has it. A choice of one is swept too.
    """
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    swept = [re.fullmatch(r"([\w/]+)=[\w.\-]+(?:,[\w.\-]+)+", word) for word in arguments]
    groups = {found[1] for found in swept if found is not None}

    def choice(word: str) -> str:
        key, _, value = word.partition("=")
        group, _, name = key.partition(".")
        swept_already = "," in value and value[0] not in "[{'\""
        if not (value and name and group in groups) or swept_already or "(" in value or "$" in value:
            return word
        return f"{key}=choice({value})"

    return [choice(word) for word in arguments]


def _leave(status: int) -> NoReturn:
    """Ends an interrupted process.

    One that is this command's own ends at once: taking the interpreter down while XLA still compiles in another thread
    is a segmentation fault, and a status that no scheduler understands.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith("s5c."):
        logging.shutdown()
        with suppress(OSError, ValueError):  # closed
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def explain(error: Exception, config_name: str) -> str:
    """Returns the message for a person; overrides of keys that do not exist get the existing ones listed."""
    message = str(error)
    # Raised by a function that conf/base.yaml uses; OmegaConf keeps no more of it than the text.
    if refused := re.match(r"UserError raised while resolving interpolation: (.*?)(\n\s*full_key: |$)", message, re.S):
        return refused[1]
    match = re.search(r"Could not override '([^']+)'", message)
    if match is None:
        ambiguous = re.search(r"Ambiguous value for argument '(.*/.*)'", message)
        if isinstance(error, OverrideParseException):
            message += "\nOverrides are written key=value; quote lists and spaces: 'reduction.ratio=[0.3, 0.5]'."
            message += _quoting(error.override)
        elif ambiguous is not None:
            message += _quoting(ambiguous[1])
        elif isinstance(error, InterpolationResolutionError | GrammarParseError):
            message += (
                "\nIn a value ${...} stands for the value of another key. In the name of a folder write \\${, in "
                "single quotes for the shell: 'task.data_dir=\\${x}'. Results cannot lie in such a folder: choose "
                "another one with results_dir=FOLDER or S5C_RESULTS=FOLDER."
            )
        return message
    key = match.group(1)
    chosen = choices(sys.argv[1:])
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        places = searched.override(lookup.conf_folders()[1:])
        composed = hydra.compose(config_name, [places, *(f"{group}={name}" for group, name in chosen.items())])
    return f"There is no configuration key {key!r}{_elsewhere(key, chosen)}. {suggest_key(composed, key)}"


def _elsewhere(key: str, chosen: Mapping[str, str]) -> str:
    """Returns which other files of its group have a key: that of another method, say."""
    group = key.partition(".")[0]
    own = chosen.get(group, "")
    having = [name for name in options(group) if key in file_keys(group, name) and name != own]
    return f"{f' with {group}={own}' if own else ''}; {', '.join(having)} have it" if having else ""


def _quoting(override: str) -> str:
    """Returns how to write an override whose value Hydra reads as something else than text."""
    key, _, value = override.partition("=")
    if not value or value[0] in "[{":
        return ""
    text = value.strip("\"'").replace('"', '\\"').replace("${", "\\${")
    written = shlex.quote(f'{key}="{text}"')
    return (
        f"\nText with any of = , ( ) [ ] {{ }} or quotes in it is quoted twice, for the shell and for Hydra: {written}"
    )


def check_choices(arguments: Sequence[str]) -> None:
    """Refuses group choices that have no file, before Hydra does, with the nearest names first.

    Args:
        arguments: the command line.

    Raises:
        UserError: `group=name` without a file group/name.yaml in any of `lookup.conf_folders`, or `experiment=` without
            its plus sign.
    """
    groups = {path.name for folder in lookup.conf_folders() for path in folder.iterdir() if path.is_dir()}
    for argument in arguments:
        keys = re.fullmatch(r"\+{0,2}([\w/]+)=\{.*", argument)
        if keys is not None and keys[1] in groups:
            raise UserError(f"{argument}: a group is chosen by its name; its keys are set as {keys[1]}.KEY=VALUE.")
        match = re.fullmatch(r"(\+{0,2})([\w/]+)=([\w, .\-]*)", argument)
        if match is None or match[2] not in groups:
            continue
        plus, group, chosen = match.groups()
        names = lookup.presets(group)
        for name in (part.strip() for part in chosen.split(",")):
            if name not in names and (group, name) != (EXPERIMENT, "null"):
                raise _without_preset(group, name) or _crossed(group, name, names) or unknown(group, name, names)
        if group == EXPERIMENT and not plus:
            raise UserError(f"Experiments are added to the defaults: write +experiment={chosen} (with the plus sign).")


def _without_preset(group: str, name: str) -> UserError | None:
    """Returns the error for a preset that is missing although the file is there that it would configure, else None."""
    if group not in PRESETS_OF or name not in lookup.names(PRESETS_OF[group]):
        return None
    package = PRESETS_OF[group].__name__
    return UserError(
        f"There is {package}.{name} but no preset for it: write conf/{group}/{name}.yaml, in the folder conf/ "
        f"beside its folder, as conf/{group}/*.yaml of s5c are."
    )


def _crossed(group: str, name: str, names: Mapping[str, Path]) -> UserError | None:
    """Returns the error for an experiment that would only cross the model of a task with a method, as TASK_METHOD once
    was, else None."""
    if group != EXPERIMENT:
        return None
    for method in (one for one in lookup.presets("reduction") if one != "none"):
        recipe = f"{name.removesuffix(f'_{method}')}_s5"
        if name.endswith(f"_{method}") and recipe in names:
            return UserError(
                f"There is no experiment {name!r}: a method on the model of a task is spelled by its parts. Write "
                f"+experiment={recipe} reduction={method} ratios=wide; with name={name} the results go to the folder "
                "of that name, too."
            )
    return None


def run_name(overrides: Sequence[str]) -> str:
    """Returns a folder name made from the overrides, the same for the same command.

    No character of it has a meaning in an override, so that `checkpoint=<a folder inside>` needs no quotes.

    Args:
        overrides: the command line's overrides, as Hydra lists them.
    """
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+~")
        if key.split(".")[0].split("/")[0] not in NOT_IN_RUN_NAME:
            parts.append(f"{key}-{value}")
    name = re.sub(r"[^\w.+-]+", "-", ",".join(sorted(parts)).replace(",", "+"), flags=re.ASCII).strip("-") or "run"
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return name


class PluginFolders(SearchPathPlugin):
    """Lets Hydra search the folders of yaml files of plug-ins, after s5c's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends them; Hydra calls it before it composes anything."""
        for folder in lookup.plugin_conf_folders():
            search_path.append("s5c-plugins", str(folder))


def register_resolvers() -> None:
    """Makes the functions that conf/base.yaml uses known to OmegaConf, and the plugins' folders to Hydra."""
    Plugins.instance().register(PluginFolders)
    OmegaConf.register_new_resolver("s5c_results", lambda: str(results_dir()), replace=True)
    OmegaConf.register_new_resolver("s5c_sweep", _sweep_folder, replace=True)


_made_for_sweeps: list[Path] = []
"""Folders that were not there when Hydra asked where a sweep goes, the innermost first."""


def _sweep_folder(results: Any, name: Any) -> str:
    """Returns the folder of a sweep, which Hydra makes at once, to put the sweep's configuration there."""
    folder = chosen_results(results) / check_name(name)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    _made_for_sweeps.extend(path for path in missing if path not in _made_for_sweeps)
    return str(folder)


@contextmanager
def _sweep_folders_removed() -> Iterator[None]:
    """Removes what Hydra made for a sweep if no job of it was accepted."""
    _made_for_sweeps.clear()
    try:
        yield
    except Exception:
        for folder in _made_for_sweeps:
            if folder.is_dir() and {path.name for path in folder.iterdir()} <= {SWEEP_FILE}:
                (folder / SWEEP_FILE).unlink(missing_ok=True)
                folder.rmdir()
        raise


def _ignore_closed_loops() -> None:
    """Drops what TensorStore still says of a failed save or read after Orbax has reported it and closed its loop."""
    previous = sys.unraisablehook

    def hook(report: Any) -> None:
        if str(report.exc_value) != "Event loop is closed":
            previous(report)

    sys.unraisablehook = hook


def _fail(message: str) -> None:
    errors.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)


register_resolvers()  # on import: the processes of a launcher's pool import the job's modules and call nothing else
