"""One job's record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from s5c.tracking.metrics import ONCE, MetricsFile, plain, read_metrics, subject
from s5c.tracking.mirror import Mirror, choose_mode


class Run:
    """One job's record: `metrics.jsonl` in its folder, mirrored to Weights & Biases.

    The file is the record of truth and a failure to write it raises. A failure of W&B is logged, once, and ignored.
    A job that resumes calls `truncate_after` first; whatever else an earlier attempt wrote counts until this one writes
    it again, and is dropped when this one ends well.

    Args:
        directory: The run folder, created if need be.
        config: The resolved configuration, in plain containers.
        mode: "auto", "online", "offline" or "disabled"; see `choose_mode`. Disabled never imports wandb.
        project: The W&B project.
        name: The display name.
        group: What the jobs of one experiment share.
        job_type: What the job does, such as "train" or "reduce".
        tags: Labels to filter by.
        run_id: The W&B id; by default the one kept in the folder, or a new one.

    Raises:
        UserError: The mode is unknown, online without a key, or a line of an earlier `metrics.jsonl` is damaged.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: Mapping[str, Any],
        mode: str = "auto",
        project: str = "s5c",
        name: str,
        group: str,
        job_type: str,
        tags: Sequence[str] = (),
        run_id: str | None = None,
    ) -> None:
        chosen = choose_mode(mode)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._rows = MetricsFile(directory / "metrics.jsonl")
        self.metrics_file = self._rows.path
        self._step: int | None = None
        self._places: dict[str, int] = {}  # of rows without a step, in the history of W&B
        self._caught_up = False
        self._mirror: Mirror | None = None
        if chosen != "disabled":
            init = {"project": project, "name": name, "group": group, "job_type": job_type, "tags": list(tags)}
            self._mirror = Mirror(directory, mode=chosen, run_id=run_id, init={**init, "config": plain(config)})
            self._caught_up = not self._mirror.behind

    @property
    def sync_hint(self) -> str | None:
        """The command that uploads an offline run to W&B, or None where there is nothing to upload."""
        return self._mirror.sync_hint if self._mirror else None

    def log(self, values: Mapping[str, Any], *, step: int | None = None, event: str = "metrics") -> None:
        """Records `values` at `step`.

        Args:
            values: Scalars by name; `event`, `step` and `time` are taken. A JAX scalar blocks until it is computed.
            step: The training step. W&B shows values without one at the last step logged, or numbers them.
            event: What the row records.
        """
        values = plain(values)
        self._catch_up()
        self._rows.log(values, step=step, event=event)
        if self._mirror and values:
            self._mirror.log(values, self._place(event, step, values))

    def truncate_after(self, step: int) -> None:
        """Forgets the rows written after `step`: a training resumes from the checkpoint of that step."""
        self._rows.truncate_after(step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records the final values of the job."""
        values = plain(values)
        self._catch_up()
        self._rows.log(values, event="summary")
        if self._mirror:
            self._mirror.summary(values)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records a table, one mapping per row; rows need not have the same keys."""
        rows = plain(list(rows))
        self._catch_up()
        self._rows.log({"name": name, "rows": rows}, event="table")
        if self._mirror:
            self._mirror.table(name, rows, self._place("table", None, {"name": name}))

    def figure(self, name: str, path: Path) -> None:
        """Records a PNG file that lies in the run folder."""
        self._catch_up()
        self._rows.log({"name": name, "path": self._relative(path)}, event="figure")
        if self._mirror:
            self._mirror.figure(name, path, self._place("figure", None, {"name": name}))

    def artifact(
        self,
        name: str,
        path: Path,
        *,
        kind: str = "model",
        metadata: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
        parent: tuple[str, Path] | None = None,
    ) -> None:
        """Records files that the job made, and the ones it made them from.

        W&B uploads the files from where they lie, for offline runs at `wandb sync`: they must stay, unchanged.

        Args:
            name: The artifact's name. One name is one line of versions, so give each job its own.
            path: A file, or a directory with everything in it.
            kind: The artifact's type.
            metadata: Facts about the contents.
            aliases: Labels besides "latest".
            parent: Name and path of the artifact of the same kind that this one was derived from, exactly as the job
                that made it recorded them: W&B knows the two for the same by name and contents.
        """
        facts = plain(metadata or {})
        source = {"name": parent[0], "path": self._relative(parent[1])} if parent else None
        row = {"name": name, "path": self._relative(path), "kind": kind, "metadata": facts, "aliases": list(aliases)}
        self._catch_up()
        self._rows.log({**row, "parent": source}, event="artifact")
        if self._mirror:
            self._mirror.artifact(name, path, kind=kind, metadata=facts, aliases=aliases, parent=parent)

    def close(self, *, exit_code: int = 0) -> None:
        """Ends the W&B run, marked failed unless `exit_code` is 0. Closing twice does nothing."""
        if exit_code == 0:
            self._rows.settle()
        if self._mirror:
            self._catch_up()
            self._mirror.finish(exit_code)

    def _catch_up(self) -> None:
        """Shows a W&B run that begins now what earlier attempts have recorded, before anything else.

        Their tables, figures and files are left out: a job makes these at its end, so this attempt makes them again.
        """
        if self._mirror is None or self._caught_up:
            return
        self._caught_up = True
        for row in read_metrics(self.metrics_file) if self.metrics_file.exists() else ():
            event, step = row.pop("event"), row.pop("step")
            del row["time"]
            if event == "summary":
                self._mirror.summary(row)
            elif event not in ONCE and row:
                self._mirror.log(row, self._place(event, step, row))

    def _place(self, event: str, step: int | None, values: Mapping[str, Any]) -> int:
        """Returns the step that W&B is told, which never falls: it ignores what falls behind."""
        if step is not None:
            self._step = int(step)
        if self._step is not None:
            return self._step
        key = subject({"event": event, "step": None, **values})
        return self._places.setdefault(key, len(self._places))

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.directory)).as_posix()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(exit_code=0 if kind is None else 1)
