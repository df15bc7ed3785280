"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited as ignored in the background of a shell
if sys.platform != "win32":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run and for every test."""
    return np.random.default_rng(20240)
