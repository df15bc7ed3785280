"""The frame of a job: its folder and printed configuration before, its record, table and figures after."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from s5c import config as settings
from s5c.evaluation import plots, tables
from s5c.evaluation.collect import read_spectra
from s5c.keys import EvaluationKeys, WandbKeys
from s5c.pipeline.compress import Row, compress
from s5c.pipeline.provenance import environment, write_json
from s5c.pipeline.trained import TrainedModel
from s5c.tracking.run import Run

log = logging.getLogger(__name__)


def start(config: DictConfig, values: Mapping[str, Any]) -> Path:
    """Prints the composed configuration, saves it with the environment, and returns the run folder."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.resolved.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    write_json(folder / "environment.json", environment())
    console = Console(stderr=True, highlight=False, emoji=False)
    in_sweep = hydra.mode == RunMode.MULTIRUN
    if not in_sweep or hydra.job.num == 0:
        console.print(_tree(str(values["name"]), values))
    if in_sweep:  # the jobs of a sweep differ in their overrides only
        console.rule(escape(f"job {hydra.job.num}: {' '.join(hydra.overrides.task)}"), align="left", style="dim")
    return folder


def finish(
    trained: TrainedModel,
    reduction: settings.ReductionJob | None,
    evaluation: EvaluationKeys,
    wandb: WandbKeys,
    *,
    folder: Path,
    values: Mapping[str, Any],
) -> float:
    """Reduces, evaluates and reports; returns the selection accuracy of the last row, NaN if it has none."""
    kind = "evaluate" if reduction is None else "reduce"
    run = Run(
        folder,
        config=values,
        mode=wandb.mode,
        project=wandb.project,
        name=f"{values['name']}/{folder.name}",
        group=str(values["name"]),
        job_type=kind,
        tags=[trained.dataset.name, reduction.keys.name if reduction else kind, *wandb.tags],
    )
    with run:
        rows = compress(trained, reduction, evaluation, run=run, experiment=str(values["name"]))
        for figure in report(rows, folder):
            if figure.suffix == ".png":
                run.figure(figure.stem, figure)
    if run.sync_hint:
        log.info("W&B is offline. To upload: %s", run.sync_hint)
    accuracy = rows[-1]["val_accuracy"]
    return math.nan if accuracy is None else float(accuracy)


def report(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Prints the table of one job and writes its figures; returns their paths."""
    here = [{**row, "folder": str(folder)} for row in rows]
    console = results_console()
    console.print(tables.console(here))
    figures = plots.save_figures(here, read_spectra(here), folder / "figures") if len(rows) > 1 else []
    (folder / "report.md").write_text(tables.markdown(here))
    console.print(f"\nReproduce: {rows[0]['command']}", soft_wrap=True, markup=False)
    console.print(f"Run folder: {folder}", soft_wrap=True, markup=False)
    return figures


def results_console() -> Console:
    """Returns the console for results: as wide as the terminal, 110 columns in a pipe."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=110)


def _tree(name: str, values: Mapping[str, Any]) -> Tree:
    tree = Tree(f"[bold]{escape(name)}[/]", guide_style="dim")
    scalars = {key: value for key, value in values.items() if not isinstance(value, dict) and key != "name"}
    for key, value in scalars.items():
        tree.add(f"[cyan]{key}[/]: {escape(str(value))}")
    for group, content in values.items():
        if isinstance(content, dict):
            text = ", ".join(f"[dim]{key}=[/]{escape(str(value))}" for key, value in content.items())
            tree.add(f"[cyan]{group}[/]: {text}")
    return tree
