"""The Weights & Biases side of a run: optional, best effort, never fatal."""

from __future__ import annotations

import functools
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from s5c.errors import UserError, unknown

MODES = ("auto", "online", "offline", "disabled")

# wandb reads these once, as it starts. What the user has set stands.
_ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # else even an offline run reports its usage to the vendor as it ends
    "WANDB_INIT_TIMEOUT": "30",  # seconds without a network before the run goes offline
    "WANDB_FINISH_TIMEOUT": "600",  # seconds an accelerator is held for uploads; `wandb sync` sends the rest
}
_log = logging.getLogger(__name__)
_Args = ParamSpec("_Args")


def choose_mode(mode: str) -> str:
    """Resolves the mode: `auto` is online where a key is configured and offline, without a prompt, where none is.

    `auto` obeys `WANDB_MODE` and `wandb offline`/`wandb disabled`. Nothing here touches the network.

    Args:
        mode: One of `MODES`.

    Returns:
        "online", "offline" or "disabled".

    Raises:
        UserError: The mode is unknown, the key is malformed, or online is asked for and no key is configured.
    """
    asked = (os.environ.get("WANDB_MODE") or mode) if mode == "auto" else mode
    if asked not in MODES:
        raise unknown("Weights & Biases mode", asked, MODES)
    if asked in ("offline", "disabled"):
        return asked
    wandb = _import_wandb()
    saved = wandb.setup().settings.mode
    if asked == "auto" and saved in ("offline", "disabled"):
        return str(saved)
    wandb.setup(wandb.Settings(mode="online"))  # after `wandb offline`, login() would not look for a key
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"{error} Run `wandb login` again, or choose wandb.mode=offline.") from error
    if not has_key and asked == "online":
        raise UserError(
            "Weights & Biases is to run online and no API key is configured. "
            "Run `wandb login`, set WANDB_API_KEY, or choose wandb.mode=offline."
        )
    return "online" if has_key else "offline"


def _import_wandb() -> Any:
    for variable, default in _ENVIRONMENT.items():
        os.environ.setdefault(variable, default)
    import wandb  # 0.4 s, and not needed at all by a disabled run

    wandb.setup(wandb.Settings(silent=True))
    return wandb


def _harmless(method: Callable[Concatenate[Mirror, _Args], None]) -> Callable[Concatenate[Mirror, _Args], None]:
    """Makes a failure of W&B a warning, once per run: the record is complete without it."""

    @functools.wraps(method)
    def guarded(self: Mirror, *args: _Args.args, **kwargs: _Args.kwargs) -> None:
        if self._run is None:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            _log.log(level, "Weights & Biases failed (%r); metrics.jsonl goes on without it.", error)

    return guarded


class Mirror:
    """One Weights & Biases run. No method raises; online, the start, `artifact` and `finish` wait for the server.

    A failed start online continues offline; a failed start offline leaves a mirror that does nothing.

    Args:
        directory: The run folder; W&B writes to its `wandb/`.
        mode: "online" or "offline". The id kept in `wandb_id.txt` makes each start the same run. Online it is resumed.
            Offline it cannot be: each start begins a file, and one that was not uploaded moves to `wandb/earlier`.
            Whoever holds the record logs it from the start where `behind` says so.
        run_id: Takes the place of the kept id.
        init: Passed to `wandb.init`: config, project, name, group, job_type, tags.
    """

    def __init__(self, directory: Path, *, mode: str, run_id: str | None, init: Mapping[str, Any]) -> None:
        self._directory = directory
        self._id_file = directory / "wandb_id.txt"
        self._warned = False
        self._run: Any = None
        self._summary: dict[str, Any] = {}
        self.sync_hint: str | None = None  # the command that uploads an offline run later
        self.behind = False  # nothing that was recorded before is in the run
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                self._run = self._start(attempt, run_id, init)
                break
            except Exception as error:
                _log.warning("Weights & Biases could not start %s (%r).", attempt, error)

    def _start(self, mode: str, run_id: str | None, init: Mapping[str, Any]) -> Any:
        wandb = _import_wandb()
        online = mode == "online"
        if run_id is None and self._id_file.exists():
            run_id = self._id_file.read_text().strip() or None
        self.behind = self.behind or not self._resumable()
        run = wandb.init(
            **init,
            dir=self._directory,
            mode=mode,
            id=run_id,
            resume="allow" if online else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        unfinished = self._id_file.with_name(f".{self._id_file.name}.unfinished")
        unfinished.write_text(f"{run.id}\n")
        unfinished.replace(self._id_file)
        if not online:
            self.sync_hint = f"wandb sync {shlex.quote(str(Path(run.dir).parent.absolute()))}"
        return run

    def _resumable(self) -> bool:
        """Returns whether W&B has what was logged before under this id."""
        earlier = sorted(self._directory.glob("wandb/offline-run-*"))
        waiting = [path for path in earlier if not list(path.glob("*.wandb.synced"))]
        for path in waiting:  # superseded: uploaded too, it would show every row twice
            place = path.parent / "earlier"
            place.mkdir(exist_ok=True)
            path.rename(place / path.name)
        return not waiting and self._id_file.exists()

    @_harmless
    def log(self, values: Mapping[str, Any], step: int | None) -> None:
        """Adds `values` to the history; a step that the history has passed is ignored."""
        self._run.log(dict(values), step=step)

    @_harmless
    def summary(self, values: Mapping[str, Any]) -> None:
        """Keeps final values for `finish`: W&B overwrites a summary with whatever is logged after it."""
        self._summary.update(values)

    @_harmless
    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int | None) -> None:
        """Logs a table whose columns are the keys of all rows, in order of appearance."""
        import wandb

        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(column) for column in columns] for row in rows]
        with self._staging():
            self._run.log({name: wandb.Table(columns=columns, data=data, allow_mixed_types=True)}, step=step)

    @_harmless
    def figure(self, name: str, path: Path, step: int | None) -> None:
        """Logs an image; W&B copies it."""
        import wandb

        self._run.log({name: wandb.Image(str(path))}, step=step)

    @_harmless
    def artifact(
        self,
        name: str,
        path: Path,
        *,
        kind: str,
        metadata: Mapping[str, Any],
        aliases: Sequence[str],
        parent: tuple[str, Path] | None,
    ) -> None:
        """Logs files as an output of the run, and `parent` as an input that it used."""
        with self._staging():
            if parent is not None:
                self._use(_artifact(*parent, kind=kind))
            output = _artifact(name, path, kind=kind, metadata=metadata)
            self._run.log_artifact(output, aliases=list(aliases))

    def _use(self, parent: Any) -> None:
        # The public use_artifact() refuses offline and waits for the server online. This is the call it makes first:
        # once the server holds these contents under this name (it compares digests), the run is marked as their user.
        self._run._log_artifact(parent, is_user_created=True, use_after_commit=True)

    @_harmless
    def finish(self, exit_code: int) -> None:
        """Writes the summary and ends the run, waiting `WANDB_FINISH_TIMEOUT` seconds for uploads, or ten minutes."""
        run, self._run = self._run, None
        run.log({}, commit=True)  # the row of the last step is still open
        run.summary.update(self._summary)
        run.finish(exit_code=exit_code)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        # W&B keeps files to upload in the home directory unless told otherwise, and only the environment can tell it.
        # A run folder must be enough for `wandb sync`.
        kept = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = kept or str(self._directory / "wandb")
        try:
            yield
        finally:
            if kept is None:
                del os.environ["WANDB_DATA_DIR"]


def _artifact(name: str, path: Path, *, kind: str, metadata: Mapping[str, Any] | None = None) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata or {}))
    path = path.absolute()  # `wandb sync` may be run from elsewhere
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        inside = file.relative_to(path).as_posix() if path.is_dir() else file.name
        artifact.add_file(str(file), name=inside, policy="immutable", skip_cache=True)  # else copied twice
    return artifact
