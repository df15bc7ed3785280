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


def chosen_results(given: object) -> Path:
    """Returns the absolute folder that `results_dir=` names.

    Raises:
        UserError: it names none, as with an unset variable of the shell.
    """
    if not isinstance(given, str | int | float) or not str(given).strip():
        shown = "null" if given is None else repr(given)
        raise UserError(
            f"results_dir={shown} names no folder: write results_dir=FOLDER, or leave it out for ./results."
        )
    return Path(str(given)).expanduser().absolute()


def given_path(given: object, name: str) -> Path:
    """Returns the path that a person gave.

    Args:
        given: what was typed or handed over.
        name: what it is called in messages, such as `checkpoint=`.

    Raises:
        UserError: it names none, as with an unset variable of the shell: "" would be the current folder.
    """
    if not isinstance(given, str | int | float | Path) or not str(given).strip() or "\0" in str(given):
        raise UserError(f"{name}{'' if given is None else given!r} names no folder or file: give its path.")
    return Path(str(given)).expanduser()


def data_dir() -> Path:
    """Returns the absolute folder for data sets: `$S5C_DATA` if set, else `~/.cache/s5c`."""
    return Path(os.environ.get("S5C_DATA") or "~/.cache/s5c").expanduser().absolute()


def for_checkpoints(folder: Path) -> Path:
    """Returns a folder, if checkpoints can be stored in it.

    Raises:
        UserError: its path has `*`, `?`, `[` or a backslash in it, or is no UTF-8. Orbax takes the first for a pattern
            that matches nothing, TensorStore writes the others elsewhere: what is stored there cannot be read back.
    """
    text = str(folder)
    if any(character in text for character in "*?[\\") or os.fsencode(folder) != text.encode("utf-8", "replace"):
        raise UserError(
            f"No checkpoint can be stored in {folder}: its path has one of the characters * ? [ \\ in it, or is no "
            "UTF-8, and what is stored there cannot be read back. Choose another folder: results_dir=FOLDER, "
            "S5C_RESULTS=FOLDER or name=..."
        )
    return folder
