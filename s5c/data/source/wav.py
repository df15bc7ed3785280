"""Sound files: mono 16-bit WAV, as Speech Commands and the Free Spoken Digit Dataset have them."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from s5c.errors import UserError


def read(path: Path, rate: int) -> np.ndarray:
    """Returns the samples of a clip, int16.

    Args:
        path: of the file.
        rate: that it must have, in samples a second.

    Raises:
        UserError: another rate or format, or an empty or damaged file.
    """
    try:
        with wave.open(str(path), "rb") as clip:
            channels, width, found, frames = clip.getparams()[:4]
            content = clip.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise UserError(f"{path} is no WAV file, or is cut short ({error}). Get it again.") from error
    if (channels, width, found) != (1, 2, rate):
        raise UserError(
            f"{path} has {channels} channel(s) of {8 * width} bits at {found} Hz, not one of 16 bits at {rate} Hz."
        )
    if len(content) != 2 * frames or not frames:
        raise UserError(f"{path} has {len(content) // 2} samples of {frames}: it is empty or cut short. Get it again.")
    return np.frombuffer(content, "<i2")
