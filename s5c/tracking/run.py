"""One job's record."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from s5c.tracking.metrics import append_row, plain, truncate_after
from s5c.tracking.mirror import Mirror, choose_mode


class Run:
    """One job's record: `metrics.jsonl` in its folder, mirrored to Weights & Biases.

    The file is the record of truth and a failure to write it raises. A failure of W&B is logged, once, and ignored.
    A job that resumes calls `truncate_after` on its `metrics.jsonl` first.

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
        UserError: The mode is unknown, or online without a key.
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
        self.metrics_file = directory / "metrics.jsonl"
        truncate_after(self.metrics_file)  # the first row must not continue a half-written one
        self._step: int | None = None
        self._mirror: Mirror | None = None
        if chosen != "disabled":
            init = {"project": project, "name": name, "group": group, "job_type": job_type, "tags": list(tags)}
            self._mirror = Mirror(directory, mode=chosen, run_id=run_id, init={**init, "config": plain(config)})

    @property
    def sync_hint(self) -> str | None:
        """The command that uploads an offline run to W&B, or None where there is nothing to upload."""
        return self._mirror.sync_hint if self._mirror else None

    def log(self, values: Mapping[str, Any], *, step: int | None = None, event: str = "metrics") -> None:
        """Records `values` at `step`.

        Args:
            values: Scalars by name; `event`, `step` and `time` are taken. A JAX scalar blocks until it is computed.
            step: The training step. W&B shows values without one at the last step logged.
            event: What the row records.
        """
        values = plain(values)
        append_row(self.metrics_file, event, step, values)
        if step is not None:
            self._step = int(step)
        if self._mirror and values:
            self._mirror.log(values, self._step)

    def truncate_after(self, step: int) -> None:
        """Forgets the rows written after `step`: a training resumes from the checkpoint of that step."""
        truncate_after(self.metrics_file, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Records the final values of the job."""
        values = plain(values)
        append_row(self.metrics_file, "summary", None, values)
        if self._mirror:
            self._mirror.summary(values)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records a table, one mapping per row; rows need not have the same keys."""
        rows = plain(list(rows))
        append_row(self.metrics_file, "table", None, {"name": name, "rows": rows})
        if self._mirror:
            self._mirror.table(name, rows, self._step)

    def figure(self, name: str, path: Path) -> None:
        """Records a PNG file that lies in the run folder."""
        append_row(self.metrics_file, "figure", None, {"name": name, "path": self._relative(path)})
        if self._mirror:
            self._mirror.figure(name, path, self._step)

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
        append_row(self.metrics_file, "artifact", None, {**row, "parent": source})
        if self._mirror:
            self._mirror.artifact(name, path, kind=kind, metadata=facts, aliases=aliases, parent=parent)

    def close(self, *, exit_code: int = 0) -> None:
        """Ends the W&B run, marked failed unless `exit_code` is 0. Closing twice does nothing."""
        if self._mirror:
            self._mirror.finish(exit_code)

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.directory)).as_posix()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(exit_code=0 if kind is None else 1)
