"""The frame of a job: its folder and printed configuration before, its record, table and figures after."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from s5c import config as settings
from s5c.atomic import write_text
from s5c.cli import HERE, run_name
from s5c.guide import COMPOSED, keys
from s5c.keys import EvaluationKeys, WandbKeys
from s5c.pipeline.compress import REPORT, Compression
from s5c.pipeline.folder import belonging, check_name, label_of, opened, readable
from s5c.pipeline.provenance import environment, write_json
from s5c.pipeline.trained import TrainedModel
from s5c.report import tables
from s5c.report.collect import collect, read_spectra
from s5c.report.row import Row
from s5c.report.scores import metric_of, score
from s5c.tracking.mirror import choose_mode
from s5c.tracking.run import Run

log = logging.getLogger(__name__)

CONFIG = "config.resolved.yaml"
FINISHED: list[Path] = []
"""Folders of the jobs that this process has finished."""


def start(config: DictConfig, values: Mapping[str, Any], wandb: WandbKeys) -> None:
    """Prints the composed configuration and refuses what cannot be recorded; writes nothing."""
    hydra = HydraConfig.get()
    check_name(values["name"])
    choose_mode(wandb.mode)
    console = Console(stderr=True, highlight=False, emoji=False)
    in_sweep = hydra.mode == RunMode.MULTIRUN
    if not in_sweep or hydra.job.num == 0:
        console.print(_tree(str(values["name"]), values, _usual(hydra)))
    if in_sweep:  # the jobs of a sweep differ in their overrides only
        console.rule(escape(f"job {hydra.job.num}: {' '.join(hydra.overrides.task)}"), align="left", style="dim")


@contextmanager
def folder_of(
    question: Mapping[str, Any],
    config: DictConfig,
    values: Mapping[str, Any],
    *,
    checkpoint: TrainedModel | None = None,
) -> Iterator[Path]:
    """Gives the run folder of a question, locked, with the configuration in it and the log going there.

    Args:
        question: what `s5c.pipeline.question.ask` returned.
        config: the composed configuration.
        values: the same in plain containers.
        checkpoint: the model that `checkpoint=` names, if there is one; nothing is written inside its folder.

    Raises:
        UserError: see `s5c.pipeline.folder.opened`; the folder goes if nothing has come of the job.
    """
    hydra = HydraConfig.get()
    base, exact = settings.results_folder(values) / check_name(values["name"]), None
    if hydra.mode == RunMode.MULTIRUN:
        base = Path(hydra.sweep.dir).absolute()
    chosen = hydra.sweep.subdir if hydra.mode == RunMode.MULTIRUN else hydra.run.dir
    if chosen != HERE:
        exact = base / chosen if hydra.mode == RunMode.MULTIRUN else Path(chosen).absolute()
    label, inputs = "", []
    if checkpoint is not None:
        label, inputs = label_of(str(values["checkpoint"])), list(belonging(checkpoint.path))
    name = readable(label, run_name(hydra.overrides.task))
    with opened(base, name, question, inputs=inputs, exact=exact) as folder:
        if not (folder / CONFIG).exists():
            _describe(folder, config)
        with _logged(folder / f"{hydra.job.name}.log"):
            yield folder


def finish(
    trained: TrainedModel,
    reduction: settings.ReductionJob | None,
    evaluation: EvaluationKeys,
    wandb: WandbKeys,
    *,
    folder: Path,
    question: Mapping[str, Any],
    config: DictConfig,
) -> float:
    """Reduces, evaluates and reports what is not there yet.

    Returns:
        The selection accuracy of the last row, or what its task has in place of one; an error counts negative. NaN if
        it has none.
    """
    mode = choose_mode(wandb.mode)
    work = Compression(trained, reduction, evaluation, folder=folder, question=question)
    with work.telling():
        if (rows := work.finished(mode)) is not None:
            log.info("All of this is there already; nothing is computed again.")
            show(rows, folder)
            return _merit(rows)
        _describe(folder, config)
        kind = "evaluate" if reduction is None else "reduce"
        run = Run(
            folder,
            config=settings.plain(config),
            mode=mode,
            project=wandb.project,
            name=f"{question['name']}/{folder.name}",
            group=question["name"],
            job_type=kind,
            tags=[trained.dataset.name, reduction.keys.name if reduction else kind, *wandb.tags],
        )
        with run:
            rows = work.run(run)
            for figure in report(rows, folder):
                if figure.suffix == ".png":
                    run.figure(figure.stem, figure)
        work.done(mode)
    if run.sync_hint:
        log.info("W&B is offline. To upload: %s", run.sync_hint)
    return _merit(rows)


def _merit(rows: Sequence[Row]) -> float:
    found = score(rows[-1], "val")
    return math.nan if found is None else metric_of(rows[-1]).score(float(found))


def report(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Prints the table of one job and, of several reduced models, draws figures; returns their paths.

    One point makes no curve: `python -m s5c.report runs=FOLDER` draws figures of any runs.
    """
    here = show(rows, folder)
    figures: list[Path] = []
    if len(rows) > 2:
        from s5c.report import plots  # Matplotlib takes a second, which a table does not need

        figures = plots.save_figures(here, read_spectra(here), folder / "figures")
    write_text(folder / REPORT, tables.markdown(here))
    return figures


def show(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Prints the table of one job; returns its rows as reports read them."""
    FINISHED.append(folder)
    here: list[Row] = [{**row, "folder": str(folder)} for row in rows]
    console = results_console()
    console.print(tables.console(here))
    console.print(f"\nReproduce: {rows[0]['command']}", soft_wrap=True, markup=False)
    console.print(f"Run folder: {folder}", soft_wrap=True, markup=False)
    return here


def results_console() -> Console:
    """Returns the console for results: as wide as the terminal, 110 columns in a pipe."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=110)


def _describe(folder: Path, config: DictConfig) -> None:
    """Saves the configuration, as composed and with all of it resolved, and the environment."""
    composed = HydraConfig.instance().cfg
    assert composed is not None, "inside of a job"
    write_text(folder / CONFIG, OmegaConf.to_yaml(config, resolve=True))
    write_text(folder / ".hydra" / "config.yaml", OmegaConf.to_yaml(config))
    write_text(folder / ".hydra" / "hydra.yaml", OmegaConf.to_yaml(composed))
    write_text(folder / ".hydra" / "overrides.yaml", OmegaConf.to_yaml(composed.hydra.overrides.task))
    write_json(folder / "environment.json", environment())


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends what is logged to a file, too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _usual(hydra: Any) -> dict[str, Any]:
    """Returns the values that the files of the chosen groups have by themselves."""
    chosen = {group: name for group, name in hydra.runtime.choices.items() if isinstance(name, str)}
    if hydra.job.config_name not in COMPOSED:
        return {}
    shown = keys(hydra.job.config_name, chosen).values()
    return {
        key.name: OmegaConf.to_container(OmegaConf.create(f"value: {key.value}"))["value"]  # type: ignore[call-overload, index]
        for group in shown
        for key in group
        if key.value
    }


def _tree(name: str, values: Mapping[str, Any], usual: Mapping[str, Any]) -> Tree:
    """Returns the configuration; what is not as the files of its groups have it stands out."""

    def shown(key: str, value: Any, place: str) -> str:
        changed = place in usual and usual[place] != value and "${" not in str(usual[place])
        text = f"{key}={escape(str(value))}"
        return f"[bold yellow]{text}[/]" if changed else f"[dim]{key}=[/]{escape(str(value))}"

    def leaves(content: Mapping[str, Any], prefix: str, above: str = "") -> Iterator[str]:
        for key, value in content.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{prefix}{key}.", f"{above}{key}.")
            else:
                yield shown(above + key, value, prefix + key)

    tree = Tree(f"[bold]{escape(name)}[/]", guide_style="dim")
    scalars = {key: value for key, value in values.items() if not isinstance(value, dict) and key != "name"}
    for key, value in scalars.items():
        tree.add(shown(key, value, key).replace("=", ": ", 1))
    for group, content in values.items():
        if isinstance(content, dict):
            tree.add(f"[cyan]{group}[/]: {', '.join(leaves(content, f'{group}.'))}")
    return tree


class Joint(Callback):
    """One table of all jobs of a sweep, at its end; conf/base.yaml names it to Hydra.

    It holds the jobs of this process: other launchers run them elsewhere, and `python -m s5c.report runs=FOLDER` makes
    the table of those.
    """

    def __init__(self) -> None:
        FINISHED.clear()

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Prints the table if there were several jobs."""
        folders = list(dict.fromkeys(FINISHED))
        if len(folders) < 2:
            return
        console = results_console()
        console.rule(f"all {len(folders)} jobs", align="left", style="dim")
        console.print(tables.console(collect(folders)))
        console.print(f"Figures: python -m s5c.report runs={folders[0].parent}", soft_wrap=True, markup=False)
