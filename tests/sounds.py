"""Builds WAV files chunk by chunk, as programs of all kinds write them."""

from __future__ import annotations

import struct

import numpy as np

WAVE = (8000 * np.sin(np.arange(400) / 5)).astype("<i2")
DATA = WAVE.tobytes()
INFO = b"INFOISFT\x0e\0\0\0Lavf58.76.100\0"
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
FLOAT_GUID = b"\x03" + PCM_GUID[1:]


def fmt(coding: int = 1, channels: int = 1, rate: int = 8000, bits: int = 16, more: bytes = b"") -> bytes:
    """Returns the content of a format chunk."""
    block = channels * bits // 8
    return struct.pack("<HHIIHH", coding, channels, rate, rate * block, block, bits) + more


def extensible(guid: bytes, bits: int = 16) -> bytes:
    """Returns the content of a format chunk of WAVE_FORMAT_EXTENSIBLE."""
    return fmt(0xFFFE, bits=bits, more=struct.pack("<HHI", 22, bits, 4) + guid)


def chunk(name: bytes, content: bytes, size: int | None = None, pad: bytes = b"\0") -> bytes:
    """Returns a chunk; `size` is what its header says, if that is not the size of its content."""
    said = len(content) if size is None else size
    return name + struct.pack("<I", said) + content + (pad if len(content) % 2 else b"")


def riff(*chunks: bytes, size: int | None = None, magic: bytes = b"RIFF") -> bytes:
    """Returns a file; `size` is what its header says, if that is not its size."""
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


FMT, SOUND = chunk(b"fmt ", fmt()), chunk(b"data", DATA)
DS64 = chunk(b"ds64", struct.pack("<QQQI", len(DATA) + 72, len(DATA), 400, 0))


def streamed(size: int, whole: int) -> bytes:
    """Returns a file whose header was never filled in."""
    return riff(FMT, chunk(b"data", DATA, size), size=whole)


READ = {
    "plain": riff(FMT, SOUND),
    "format of 18 bytes": riff(chunk(b"fmt ", fmt(more=b"\0\0")), SOUND),
    "extensible": riff(chunk(b"fmt ", extensible(PCM_GUID)), chunk(b"fact", b"\x90\x01\0\0"), SOUND),
    "list before": riff(FMT, chunk(b"LIST", INFO), SOUND),
    "list after": riff(FMT, SOUND, chunk(b"LIST", INFO)),
    "odd chunk": riff(FMT, chunk(b"junk", b"abc"), SOUND),
    "odd chunk, its padding forgotten": riff(FMT, chunk(b"junk", b"abc", pad=b""), SOUND),
    "of broadcasting": riff(
        chunk(b"bext", bytes(602)), FMT, SOUND, chunk(b"cue ", bytes(4)), chunk(b"id3 ", b"ID3abc")
    ),
    "data before format": riff(SOUND, FMT),
    "RF64": riff(DS64, FMT, chunk(b"data", DATA, 0xFFFFFFFF), magic=b"RF64", size=0xFFFFFFFF),
    "streamed by FFmpeg": riff(FMT, chunk(b"LIST", INFO), chunk(b"data", DATA, 0xFFFFFFFF), size=0xFFFFFFFF),
    "streamed by SoX": streamed(0x7FFFF000, 0x7FFFF024),
    "streamed by arecord": streamed(0x80000000, 0x80000024),
    "streamed, 31 bits": streamed(0x7FFFFFFF, 0x7FFFFFFF),
    "streamed, no size at all": streamed(0, 0),
    "its writer was killed": streamed(0, 36),
    "wrong size of the whole": riff(FMT, SOUND, size=12),
    "bytes after the end": riff(FMT, SOUND) + b"TAG" + bytes(125),
}
"""Files that hold `WAVE`."""

REFUSED = {
    "cut": (riff(FMT, SOUND)[:-100], r"has 350 samples of 400: it is cut short"),
    "cut in the header": (riff(FMT, SOUND)[:30], r"no WAV file, or is cut short"),
    "no data": (riff(FMT, chunk(b"LIST", INFO)), r"no samples in it"),
    "empty": (riff(FMT, chunk(b"data", b"")), r"has no samples"),
    "two parts": (riff(FMT, SOUND, SOUND), r"samples in several parts"),
    "stereo": (riff(chunk(b"fmt ", fmt(channels=2)), SOUND), r"2 channel.*ffmpeg -i .* -ac 1 -ar 8000"),
    "other rate": (riff(chunk(b"fmt ", fmt(rate=44100)), SOUND), r"at 44100 Hz, not one of 16 bits at 8000 Hz.*ffmpeg"),
    "8 bits": (riff(chunk(b"fmt ", fmt(bits=8)), SOUND), r"8 bits at.*ffmpeg"),
    "24 bits": (riff(chunk(b"fmt ", fmt(bits=24)), chunk(b"data", DATA + DATA[:400])), r"24 bits at.*pcm_s16le"),
    "float": (riff(chunk(b"fmt ", fmt(3, bits=32)), SOUND), r"32 bits, float at.*ffmpeg"),
    "extensible float": (riff(chunk(b"fmt ", extensible(FLOAT_GUID, 32)), SOUND), r"32 bits, float at"),
    "mu-law": (riff(chunk(b"fmt ", fmt(7, bits=8, more=b"\0\0")), SOUND), r"8 bits, mu-law at"),
    "big-endian": (riff(FMT, SOUND, magic=b"RIFX"), r"no WAV file.*RIFX"),
    "FLAC": (b"fLaC" + DATA, r"no WAV file.*fLaC"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", r"no WAV file.*version http"),
    "nothing": (b"", r"no WAV file"),
}
"""Files that do not, and what is said of them."""
