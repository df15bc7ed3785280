"""Writes an export, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from s5c import lookup
from s5c.atomic import UNFINISHED, put
from s5c.errors import UserError
from s5c.export import card
from s5c.export import format as formats
from s5c.export.exported import Exported

MARK = "README.md"
MADE = "library_name: s5c"
"""What the README of an export has, and a folder with other things has not."""
ROUNDING = ("c", "onnx", "safetensors")
"""Formats of weights of few bits."""


def names() -> list[str]:
    """Returns the formats that are found (`s5c.lookup`)."""
    return lookup.names(formats)


def export(exported: Exported, form: str, folder: Path) -> str:
    """Writes a network in a format; an export that is there already is replaced once the new one is whole.

    Args:
        exported: the network.
        form: one of `names()`.
        folder: its place.

    Returns:
        The command, to be run in the folder, that compares it with stored answers.

    Raises:
        UserError: unknown format, a network it cannot take, a missing package, or a folder that holds something else.
    """
    module = lookup.load(formats, "format", form, ("write", "EXTRA"))
    if exported.bits != 32 and form not in ROUNDING:
        raise UserError(
            f"bits={exported.bits}: format={form} holds float32; weights of few bits are for c, onnx and safetensors."
        )
    if exported.lengths and form != "stablehlo":
        raise UserError(f"lengths= changes nothing: format={form} is made for any length. Leave it out.")
    folder = folder.absolute()
    check_place(folder)
    unfinished = folder.with_name(f"{UNFINISHED}-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        check: str = module.write(exported, unfinished)
        card.write(exported, unfinished, form, check)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        put(unfinished, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): give another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return check


def check_place(folder: Path) -> None:
    """Raises `UserError` unless a folder is new, empty or an earlier export."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        made = MADE in (folder / MARK).read_text("utf-8", "replace")
    except OSError:
        made = False
    if not made:
        raise UserError(f"{folder} holds something else than an export of s5c: give another folder.")
