"""Fixtures that several test files share."""

from __future__ import annotations

import copy
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import omegaconf.omegaconf
import pytest
import yaml

# Methods, tasks, families and backends from outside of s5c: what is tested for all of a kind is tested for them too.
_plants = str(Path(__file__).parent / "plants")
_given = [folder for folder in os.environ.get("S5C_PLUGINS", "").split(os.pathsep) if folder not in ("", _plants)]
os.environ["S5C_PLUGINS"] = os.pathsep.join([_plants, *_given])

signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited as ignored in the background of a shell
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


_parsed: dict[str, Any] = {}


def _parse(stream: Any, Loader: Any) -> Any:
    """Returns what a text in yaml says: a job composes its configuration three times, from the same thirty files."""
    text = stream if isinstance(stream, str) else stream.read()
    if text not in _parsed:
        if stream is not text:
            stream.seek(0)  # read again, for messages with the name of the file
        _parsed[text] = yaml.load(stream, Loader)
    return copy.deepcopy(_parsed[text])


omegaconf.omegaconf.yaml = SimpleNamespace(**{**vars(yaml), "load": _parse})  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes all cases of a test marked `few(n)` slow but n of them, evenly spread."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for every in cases.values():
        mark = every[0].get_closest_marker("few")
        assert mark is not None
        quick = {round(i * (len(every) - 1) / max(mark.args[0] - 1, 1)) for i in range(mark.args[0])}
        for i, item in enumerate(every):
            if i not in quick:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Takes what is there now, the modules and the tests, out of what the garbage collector looks through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def programs_of_other_files() -> Iterator[None]:
    """Forgets what one file has compiled before the next: kept, programs fill the memory and make every test slower."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run and for every test."""
    return np.random.default_rng(20240)


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Leaves figures out: three quarters of the time of small jobs, and tested elsewhere."""
    importlib.import_module("s5c.report.__main__")  # first imported below, it would keep what stands there now for good
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s5c.report.plots.save_figures", lambda *_, **__: [])
        yield
