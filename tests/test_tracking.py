"""The record of a run: `metrics.jsonl`, and what Weights & Biases keeps of it offline.

The offline run files are decoded here, record by record. Everything that imports wandb runs in a subprocess with a home
of its own and without the variables of whoever runs the tests.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_file import items, models, only, wandb_records

from s5c.errors import UserError
from s5c.tracking.metrics import read_metrics
from s5c.tracking.mirror import choose_mode
from s5c.tracking.run import Run

KEY = "0123456789" * 4
EXPERIMENT = """
import pathlib, sys
import matplotlib.pyplot as plt
import numpy as np
from s5c.tracking.run import Run

root = pathlib.Path(sys.argv[1])
checkpoint, reduced = root / "trained/checkpoint", root / "reduced/model.safetensors"
(checkpoint / "params").mkdir(parents=True)
(checkpoint / "params/array").write_bytes(bytes(100))
(checkpoint / "meta.json").write_text("{}")
reduced.parent.mkdir()
reduced.write_bytes(bytes(50))
train = {"name": "trained-0", "group": "listops", "job_type": "train", "tags": ["s5", "seed0"]}
config = {"model": {"ssm_size": 64, "rate": 1e-3}, "task": "listops"}
with Run(root / "trained", config=config, **train) as run:
    for step in (10, 20):
        run.log({"train/loss": np.float32(1 / step), "epoch": step // 10}, step=step)
    run.log({"train/loss": float("nan")}, step=30)
    run.artifact("trained-0-model", checkpoint, metadata={"step": 30}, aliases=["best"])
    print(run.sync_hint)
with Run(root / "reduced", config=config, name="reduced-0", group="listops", job_type="reduce") as run:
    run.log({"accuracy": 0.5}, step=0)
    run.table("states", [{"layer": 0, "kept": 8}, {"layer": 1, "kept": 4, "note": "unstable"}])
    plt.plot([1, 2])
    plt.savefig(run.directory / "curve.png")
    run.figure("curve", run.directory / "curve.png")
    run.summary({"accuracy": 0.75, "removed": {"states": 12}})
    run.artifact("reduced-0-model", reduced, parent=("trained-0-model", checkpoint))
    print(run.sync_hint)
"""


def python(code: str, home: Path, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` as a fresh user with home `home` and requires that it ends well."""
    home.mkdir(exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "NETRC", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**inherited, "HOME": str(home), "MPLBACKEND": "agg", **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A training job and a reduction of its result, recorded offline because no key is configured."""
    root = tmp_path_factory.mktemp("experiment")
    done = python(EXPERIMENT, root / "home", root)
    assert done.stderr == ""
    return root, done.stdout.splitlines()


class TestOfflineRun:
    def test_identity_and_config(self, experiment: tuple[Path, list[str]]) -> None:
        run = only(wandb_records(experiment[0] / "trained"), "run")[0]
        assert (run.project, run.display_name, run.run_group, run.job_type) == ("s5c", "trained-0", "listops", "train")
        assert list(run.tags) == ["s5", "seed0"]
        config = items(run.config.update)
        assert config["model"] == {"ssm_size": 64, "rate": 1e-3}
        assert config["task"] == "listops"

    def test_history(self, experiment: tuple[Path, list[str]]) -> None:
        rows = [items(row.item) for row in only(wandb_records(experiment[0] / "trained"), "history")]
        assert [row["_step"] for row in rows] == [10, 20, 30]
        assert [row.get("epoch") for row in rows] == [1, 2, None]
        assert rows[0]["train/loss"] == pytest.approx(0.1)
        assert math.isnan(float(rows[2]["train/loss"]))

    def test_summary_is_not_overwritten_by_the_history(self, experiment: tuple[Path, list[str]]) -> None:
        summary: dict[str, Any] = {}
        for record in only(wandb_records(experiment[0] / "reduced"), "summary"):
            summary.update(items(record.update))
        assert summary["accuracy"] == 0.75  # the history has 0.5
        assert summary["removed"] == {"states": 12}

    def test_tables_and_figures(self, experiment: tuple[Path, list[str]]) -> None:
        folder = experiment[0] / "reduced"
        history: dict[str, Any] = {}
        for row in only(wandb_records(folder), "history"):
            history.update(items(row.item))
        (files,) = folder.glob("wandb/offline-run-*/files")
        assert (history["states/_type"], history["states/nrows"], history["states/ncols"]) == ("table-file", 2, 3)
        table = json.loads((files / history["states/path"]).read_text())
        assert table["columns"] == ["layer", "kept", "note"]
        assert table["data"] == [[0, 8, None], [1, 4, "unstable"]]
        assert history["curve/_type"] == "image-file"
        assert (files / history["curve/path"]).read_bytes() == (folder / "curve.png").read_bytes()

    def test_lineage_from_trained_to_reduced(self, experiment: tuple[Path, list[str]]) -> None:
        (made,) = models(wandb_records(experiment[0] / "trained"))
        used, derived = models(wandb_records(experiment[0] / "reduced"))
        assert (made.name, made.use_after_commit, set(made.aliases)) == ("trained-0-model", False, {"latest", "best"})
        assert json.loads(made.metadata) == {"step": 30}
        assert [entry.path for entry in made.manifest.contents] == ["meta.json", "params/array"]
        # The server takes two records for one artifact when type, name and digest agree.
        assert (used.type, used.name, used.digest) == (made.type, made.name, made.digest)
        assert used.use_after_commit and used.user_created  # an input of the run, not one of its outputs
        assert (derived.name, derived.use_after_commit) == ("reduced-0-model", False)

    def test_run_folders_are_enough_to_sync(self, experiment: tuple[Path, list[str]]) -> None:
        root, hints = experiment
        for name, hint in zip(("trained", "reduced"), hints, strict=True):
            folder = root / name
            assert Path(hint.removeprefix("wandb sync ")).parent == folder / "wandb"
            for record in only(wandb_records(folder), "artifact"):
                assert all(Path(entry.local_path).is_relative_to(root) for entry in record.manifest.contents)
                assert all(Path(entry.local_path).is_file() for entry in record.manifest.contents)
        assert not list((root / "home").rglob("staging/*"))

    def test_metrics_file_has_everything(self, experiment: tuple[Path, list[str]]) -> None:
        rows = read_metrics(experiment[0] / "reduced/metrics.jsonl")
        assert [row["event"] for row in rows] == ["metrics", "table", "figure", "summary", "artifact"]
        assert rows[1]["rows"][1] == {"layer": 1, "kept": 4, "note": "unstable"}
        assert rows[2]["path"] == "curve.png"
        assert rows[4]["parent"] == {"name": "trained-0-model", "path": "../trained/checkpoint"}


class TestMode:
    RECORD = """
import pathlib, sys
from s5c.tracking.run import Run
with Run(pathlib.Path("run"), config={}, mode=sys.argv[1], name="n", group="g", job_type="train") as run:
    run.log({"loss": 1.0}, step=1)
print("wandb" in sys.modules, run.sync_hint)
"""
    AUDIT = """
import sys
def watch(event, args):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(args[1], tuple)):
        print("NETWORK", event, args)
sys.addaudithook(watch)
"""
    CHOOSE = """
import sys
from s5c.errors import UserError
from s5c.tracking.mirror import choose_mode
for mode in sys.argv[1:]:
    try:
        print(choose_mode(mode))
    except UserError as error:
        print("UserError", error)
"""

    def test_disabled_writes_the_file_and_never_imports_wandb(self, tmp_path: Path) -> None:
        assert python(self.RECORD, tmp_path, "disabled").stdout == "False None\n"
        assert [row["loss"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1.0]
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]

    def test_auto_without_key_is_offline_and_calls_nobody(self, tmp_path: Path) -> None:
        # The audit hook watches this process; the proxy, wandb's background process too, as the next test shows.
        with Listener() as proxy:
            done = python(self.AUDIT + self.RECORD, tmp_path, "auto", **proxy.environment)
        assert done.stdout.startswith("True wandb sync ")  # and no line before it
        assert done.stderr == ""
        assert proxy.connections == 0
        assert [row["loss"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1.0]

    def test_without_network_an_online_run_goes_on_offline(self, tmp_path: Path) -> None:
        with Listener() as proxy:
            slow = {"WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "1"}
            done = python(self.RECORD, tmp_path, "auto", **slow, **proxy.environment)
        assert proxy.connections > 0
        assert "could not start online" in done.stderr
        assert "offline-run" in done.stdout
        assert [row["loss"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [1.0]

    @pytest.mark.parametrize("source", ["environment", "netrc", "settings"])
    def test_a_configured_key_means_online(self, tmp_path: Path, source: str) -> None:
        environment = {"WANDB_API_KEY": KEY} if source == "environment" else {}
        if source == "netrc":
            (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
            (tmp_path / ".netrc").chmod(0o600)
        if source == "settings":
            (tmp_path / ".config/wandb").mkdir(parents=True)
            (tmp_path / ".config/wandb/settings").write_text(f"[default]\napi_key = {KEY}\n")
        assert python(self.CHOOSE, tmp_path, "auto", "online", **environment).stdout == "online\nonline\n"

    def test_online_without_key_says_what_to_do(self, tmp_path: Path) -> None:
        said = python(self.CHOOSE, tmp_path, "online").stdout
        assert said.startswith("UserError")
        assert all(way in said for way in ("wandb login", "WANDB_API_KEY", "wandb.mode=offline"))

    def test_malformed_key(self, tmp_path: Path) -> None:
        said = python(self.CHOOSE, tmp_path, "auto", WANDB_API_KEY="short").stdout
        assert said.startswith("UserError WANDB_API_KEY invalid")

    def test_auto_obeys_wandb_offline(self, tmp_path: Path) -> None:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb/settings").write_text("[default]\nmode = offline\n")
        said = python(self.CHOOSE, tmp_path, "auto", "online", WANDB_API_KEY=KEY).stdout
        assert said == "offline\nonline\n"

    def test_auto_obeys_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for value in ("offline", "disabled"):
            monkeypatch.setenv("WANDB_MODE", value)
            assert choose_mode("auto") == value
        assert choose_mode("offline") == "offline"
        monkeypatch.setenv("WANDB_MODE", "of")
        with pytest.raises(UserError, match=r"'of'.*\n.*offline"):
            choose_mode("auto")

    def test_unknown_mode(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="Did you mean 'offline'"):
            Run(tmp_path / "run", config={}, mode="ofline", name="n", group="g", job_type="train")
        assert not (tmp_path / "run").exists()


class Listener:
    """Stands in for the network: counts the connections made to it as a proxy and answers none."""

    def __enter__(self) -> Listener:
        self._socket = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.environment = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        self.environment |= {"NO_PROXY": "", "no_proxy": ""}
        return self

    def __exit__(self, *_: object) -> None:
        self.connections = 0
        self._socket.setblocking(False)
        try:
            while True:  # the kernel has accepted them for us
                self._socket.accept()[0].close()
                self.connections += 1
        except BlockingIOError:
            self._socket.close()


class TestFailingWandb:
    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the background process in /proc")
    def test_its_death_is_one_warning(self, tmp_path: Path) -> None:
        code = """
import logging, os, pathlib, signal, time
from s5c.tracking.run import Run
logging.basicConfig(format="LOG %(message)s")
run = Run(pathlib.Path("run"), config={}, mode="offline", name="n", group="g", job_type="train")
run.log({"loss": 3.0}, step=1)
tasks = pathlib.Path("/proc/self/task").iterdir()
children = " ".join((task / "children").read_text() for task in tasks)
core = [pid for pid in children.split() if "wandb-core" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()]
os.kill(int(core[0]), signal.SIGKILL)
os.waitpid(int(core[0]), 0)
time.sleep(0.2)
run.log({"loss": 2.0}, step=2)
run.table("t", [{"a": 1}])
run.artifact("a", run.metrics_file)
run.summary({"loss": 2.0})
run.close()
run.log({"loss": 1.0}, step=3)
"""
        done = python(code, tmp_path)
        assert done.stderr.count("LOG ") == done.stderr.count("LOG Weights & Biases failed") == 1
        rows = read_metrics(tmp_path / "run/metrics.jsonl")
        assert [row["event"] for row in rows] == ["metrics", "metrics", "table", "artifact", "summary", "metrics"]

    def test_one_bad_figure_spoils_nothing_else(self, tmp_path: Path) -> None:
        code = """
import pathlib
from s5c.tracking.run import Run
with Run(pathlib.Path("run"), config={}, mode="offline", name="n", group="g", job_type="train") as run:
    run.figure("missing", pathlib.Path("missing.png"))
    run.log({"loss": 2.0}, step=2)
"""
        done = python(code, tmp_path)
        assert done.stderr.count("Weights & Biases failed") == 1
        (row,) = only(wandb_records(tmp_path / "run"), "history")
        assert items(row.item)["loss"] == 2.0
