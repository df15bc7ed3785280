"""Sound files: mono 16-bit WAV, as Speech Commands and the Free Spoken Digit Dataset have them.

Chunks are read here and not by Python's `wave`, which knows other formats from version to version. Headers of
WAVE_FORMAT_EXTENSIBLE, RF64 and of programs that write to a pipe, and so cannot go back to fill in the size, are read.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from s5c.errors import UserError

PCM, EXTENSIBLE = 0x0001, 0xFFFE
CODINGS = {0x0002: "ADPCM", 0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law", 0x0011: "ADPCM", 0x0055: "MP3"}
GUID = bytes.fromhex("000000001000800000aa00389b71")
"""End of the sub-format of an extensible header; its first two bytes are the coding."""

FORMS = (b"RIFF", b"RF64", b"BW64")
UNKNOWN = 0x7FFFF000
"""Sizes from here on are no sizes but stand for "until the end": programs write 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000."""


class Sound(NamedTuple):
    """What a file holds: its format, and its samples as bytes."""

    coding: int
    channels: int
    rate: int
    bits: int
    data: bytes


def read(path: Path, rate: int) -> np.ndarray:
    """Returns the samples of a clip, int16.

    Args:
        path: path of the file.
        rate: that it must have, in samples a second.

    Raises:
        UserError: another rate or format, or an empty or damaged file.
    """
    sound = _parsed(path)
    if (sound.coding, sound.channels, sound.bits, sound.rate) != (PCM, 1, 16, rate):
        coding = "" if sound.coding == PCM else f", {CODINGS.get(sound.coding, f'coding {sound.coding:#06x}')}"
        raise UserError(
            f"{path} has {sound.channels} channel(s) of {sound.bits} bits{coding} at {sound.rate} Hz, not one of 16 "
            f"bits at {rate} Hz. Get it again, or convert it: ffmpeg -i IN.wav -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"
        )
    if len(sound.data) < 2:
        raise UserError(f"{path} has no samples: it is empty or cut short. Get it again.")
    return np.frombuffer(sound.data, "<i2", len(sound.data) // 2)


def _parsed(path: Path) -> Sound:
    content = path.read_bytes()
    if content[:4] not in FORMS or content[8:12] != b"WAVE":
        raise UserError(f"{path} is no WAV file, or is cut short (it begins with {content[:12]!r}). Get it again.")
    whole = int.from_bytes(content[4:8], "little") == len(content) - 8
    form, data, long_size, at = None, None, 0, 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        begin, left = at + 8, len(content) - at - 8
        if name == b"ds64" and left >= 16:
            long_size = int.from_bytes(content[begin + 8 : begin + 16], "little")
        elif name == b"fmt ":
            form = _format(path, content[begin : begin + size])
        elif name == b"data":
            if data is not None:
                raise UserError(f"{path} has its samples in several parts, and only one is read. Get it again.")
            size = _size_of_data(size, long_size, left, whole)
            if size > left:
                raise UserError(f"{path} has {left // 2} samples of {size // 2}: it is cut short. Get it again.")
            data = content[begin : begin + size]
        at = begin + size
        # Chunks begin at even places, though some programs forget the byte in between.
        at += size % 2 and content[at : at + 4] not in (b"data", b"fmt ", b"fact", b"LIST")
    if form is None or data is None:
        lacks = "no format" if form is None else "no samples"
        raise UserError(f"{path} is no WAV file, or is cut short ({lacks} in it). Get it again.")
    return Sound(*form, data)


def _size_of_data(size: int, long_size: int, left: int, whole: bool) -> int:
    """Returns the bytes of samples where the header gives none: to the end of the file, as whole samples.

    Args:
        size: in the header of the chunk.
        long_size: in the ds64 chunk of RF64; 0 without one.
        left: bytes to the end of the file.
        whole: the size of the whole file is as its header says.
    """
    if size == 0xFFFFFFFF and long_size:
        return long_size
    streamed = size >= UNKNOWN > left or (size == 0 and not whole)
    return left - left % 2 if streamed else size


def _format(path: Path, chunk: bytes) -> tuple[int, int, int, int]:
    """Returns coding, channels, rate and bits."""
    if len(chunk) < 16:
        raise UserError(f"{path} is no WAV file, or is cut short ({len(chunk)} bytes of format). Get it again.")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if coding == EXTENSIBLE and chunk[26:40] == GUID:
        coding = int.from_bytes(chunk[24:26], "little")
    return coding, channels, rate, bits
