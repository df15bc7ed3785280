"""Folders: the configuration tree, the default place for results, the data directory."""

from __future__ import annotations

import os
from pathlib import Path

from s5c.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """Returns the folder of the configuration files: `s5c/conf` of a wheel, `conf` of a checkout or editable install.

    Raises:
        UserError: Neither exists, so the installation is incomplete.
    """
    # A checkout never has s5c/conf. Looking there first keeps a wheel from picking up site-packages/conf of a stranger.
    candidates = (_PACKAGE / "conf", _PACKAGE.parent / "conf")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " nor ".join(str(candidate) for candidate in candidates)
    raise UserError(
        f"The configuration files of s5c are missing: neither {looked} is a folder.\n"
        "Run `pip install -e .` in a complete checkout, or install the wheel again."
    )


def results_dir() -> Path:
    """Returns the absolute folder for run folders: `$S5C_RESULTS` if set, else `results` in the working directory."""
    return Path(os.environ.get("S5C_RESULTS") or "results").expanduser().absolute()


def data_dir() -> Path:
    """Returns the absolute folder for data sets: `$S5C_DATA` if set, else `~/.cache/s5c`."""
    return Path(os.environ.get("S5C_DATA") or "~/.cache/s5c").expanduser().absolute()
