"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import numpy as np
import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited as ignored in the background of a shell
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run and for every test."""
    return np.random.default_rng(20240)


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Leaves figures out: three quarters of the time of small jobs, and tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s5c.report.plots.save_figures", lambda *_, **__: [])
        yield
