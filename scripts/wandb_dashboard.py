"""Builds the Weights & Biases workspace of s5c; without a key it prints what uploads the runs that were kept offline.

    python scripts/wandb_dashboard.py                          # project s5c of the logged-in user
    python scripts/wandb_dashboard.py --entity TEAM --project NAME
    python scripts/wandb_dashboard.py --runs results/digits_last

Needs `pip install wandb-workspaces` and a key (`wandb login`). `python -m s5c.report runs=... html=true` shows the same
without an account.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from s5c.errors import UserError
from s5c.locations import results_dir
from s5c.tracking.mirror import choose_mode

console = Console(highlight=False, soft_wrap=True)


def workspace(entity: str, project: str) -> Any:
    """Returns the workspace, not yet saved: curves by preset, states per layer, sweeps, speed, trainings.

    Args:
        entity: User or team.
        project: Project that the jobs log to (`wandb.project`).
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    preset = wr.Config("reduction.name")

    def against_ratio(title: str, metric: str) -> Any:
        return wr.LinePlot(
            title=title, x="ratio", y=[metric], title_x="ratio of states removed", groupby=preset,
            groupby_aggfunc="mean", groupby_rangefunc="stddev", max_runs_to_show=100,
        )  # fmt: skip

    columns = [wr.Config(f"reduction.{key}") for key in ("name", "allocation", "refit", "norm", "sequential")]
    columns += [
        wr.SummaryMetric(f"final_{key}") for key in ("ratio", "states", "params", "val_accuracy", "test_accuracy")
    ]
    sections = {
        "Reduction": [
            against_ratio("Test accuracy", "test_accuracy"),
            against_ratio("Validation accuracy", "val_accuracy"),
            wr.ScatterPlot(
                title="Accuracy against parameters",
                x=wr.SummaryMetric("final_params"),
                y=wr.SummaryMetric("final_test_accuracy"),
            ),
        ],
        "States per layer": [
            wr.MediaBrowser(media_keys=["states_per_layer"]),
            wr.MediaBrowser(media_keys=["eigenvalues", "poles_moved"]),
            wr.MediaBrowser(media_keys=["hankel_singular_values", "score_spectra"]),
        ],
        "Sweeps": [wr.ParallelCoordinatesPlot(columns=[wr.ParallelCoordinatesPlotColumn(metric=c) for c in columns])],
        "Speed": [
            against_ratio("Latency, ms", "latency_ms"),
            against_ratio("Seconds of the reduction", "seconds_reduction"),
        ],
        "Training": [
            wr.LinePlot(title=name, x="Step", y=[name])
            for name in ("train_loss", "selection_loss", "selection_accuracy")
        ],
    }
    opened = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()]
    return ws.Workspace(entity=entity, project=project, name="s5c", sections=opened, auto_generate_panels=False)


def offline_runs(folder: Path) -> list[Path]:
    """Returns the folders of runs that were kept offline and not uploaded since."""
    found = sorted(path for path in folder.rglob("offline-run-*") if path.is_dir())
    return [path for path in found if not any(path.glob("*.synced"))]


def print_sync(folder: Path, project: str) -> None:
    """Prints the command that uploads each offline run."""
    runs = offline_runs(folder)
    console.print(f"{len(runs)} runs below {escape(str(folder))} are not uploaded." + (" To do so:" if runs else ""))
    for run in runs:
        console.print(f"wandb sync --project {shlex.quote(project)} {shlex.quote(str(run.absolute()))}", markup=False)


def main() -> int:
    """Builds the workspace or says what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entity", help="user or team; default: the logged-in user")
    parser.add_argument("--project", default="s5c")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where offline runs are looked for (default: results)")
    asked = parser.parse_args()
    folder = asked.runs or results_dir()
    if choose_mode("auto") != "online":
        console.print("No key of Weights & Biases is configured, or it is switched off: nothing is built.")
        print_sync(folder, asked.project)
        return 0
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("The workspace is built with wandb-workspaces: pip install wandb-workspaces.")
    import wandb

    entity = asked.entity or wandb.Api().default_entity
    saved = workspace(entity, asked.project).save()
    console.print(f"Workspace: {escape(str(saved.url))}")
    print_sync(folder, asked.project)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        console.print(f"[bold red]Error:[/] {escape(str(error))}")
        sys.exit(1)
