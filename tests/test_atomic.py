"""Files and folders appear whole or not at all, and what they replace stays until then."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s5c import atomic
from s5c.atomic import put, save_arrays, write_text, written
from s5c.training.exclusive import alone_in, exclusive


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), written(path) as unfinished:
        unfinished.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    save_arrays(path.with_name("a.npz"), {"x": np.arange(3)})
    with np.load(path.with_name("a.npz")) as stored:
        assert stored["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "two renames"])
def test_a_folder_takes_the_place_of_another(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    for content in ("first", "second"):
        (tmp_path / ".new/sub").mkdir(parents=True)
        (tmp_path / ".new/sub/file").write_text(content)
        put(tmp_path / ".new", tmp_path / "place")
        assert (tmp_path / "place/sub/file").read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_no_moment_without_the_folder(tmp_path: Path) -> None:
    """Somebody who looks all the time always finds a whole one."""
    looking, missing, seen = True, [], set()

    def look() -> None:
        while looking:
            try:
                seen.add((tmp_path / "place/file").read_text())
            except FileNotFoundError:
                missing.append(1)

    (tmp_path / "place").mkdir()
    (tmp_path / "place/file").write_text("0")
    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(1, 30):
        (tmp_path / ".new").mkdir()
        (tmp_path / ".new/file").write_text(str(number))
        put(tmp_path / ".new", tmp_path / "place")
    looking = False
    watcher.join()
    assert not missing and seen <= {str(number) for number in range(30)}


def test_a_holder_that_died_is_taken_over_from(tmp_path: Path) -> None:
    code = "import os, pathlib, sys; from s5c.training.exclusive import exclusive\n"
    code += "exclusive(pathlib.Path(sys.argv[1]), 'dies').__enter__(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    dead = (tmp_path / ".lock-holder").read_text()
    with exclusive(tmp_path, "lives"):
        assert (tmp_path / ".lock-holder").read_text() != dead
        assert (tmp_path / ".lock-host").read_text().strip()


def test_whoever_waits_learns_that_the_folder_is_gone(tmp_path: Path) -> None:
    folder, waiting, outcome = tmp_path / "run", threading.Event(), []

    def second() -> None:
        waiting.set()
        try:
            with exclusive(folder, "waits", mark="mark"):
                outcome.append("held")
        except FileNotFoundError:
            outcome.append("gone")

    folder.mkdir()
    (folder / "mark").touch()
    with exclusive(folder, "holds", mark="mark"):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait(10)
        time.sleep(0.2)  # it opens the lock
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    thread.join(10)
    assert outcome == ["gone"] and not folder.exists()


def test_one_at_a_time_in_a_folder_without_leaving_a_file(tmp_path: Path) -> None:
    order: list[Any] = []

    def second() -> None:
        with alone_in(tmp_path):
            order.append("second")

    with alone_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []
