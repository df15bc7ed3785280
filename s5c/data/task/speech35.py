"""`speech35`: which of 35 words? Speech Commands v0.02, raw waves of one second, 16,000 steps, as S5 reads them.

Clips are padded with silence, and standardised with the mean and deviation of the training clips at each time step,
plus 1e-5. The published code scales twice: its loader gives -1 .. 1, and that is divided by 2**15 once more. The
deviation is then far below the 1e-5 added to it, so the network sees the wave at about a tenth to a half of unit size.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from s5c.data.base import Dataset
from s5c.data.cache import Writer
from s5c.data.decode import Wave
from s5c.data.origin import Located, Origin
from s5c.data.pixels import part
from s5c.data.progress import progress
from s5c.data.source import wav
from s5c.data.source.folder import entries, lines
from s5c.errors import UserError

VERSION = 1
RATE = 16_000
CHUNK = 500
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
WORDS = (
    *("bed", "cat", "down", "five", "forward", "go", "house", "left", "marvin", "no", "on", "right", "sheila", "tree"),
    *("up", "visual", "yes", "backward", "bird", "dog", "eight", "follow", "four", "happy", "learn", "nine", "off"),
    *("one", "seven", "six", "stop", "three", "two", "wow", "zero"),
)
"""Classes in the order of the published code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Spoken words.

    Attributes:
        scale_twice: divide by 2**15 twice, as published, or once.
        half_rate: read every second sample (8 kHz); evaluates a network trained at 16 kHz with Delta doubled.
    """

    licence: ClassVar[str] = "Speech Commands v0.02 (Warden 2018), CC BY 4.0."
    scale_twice: bool = True
    half_rate: bool = False

    def load(self) -> Dataset:
        """Returns standardised waves of shape (n, 16000, 1), or (n, 8000, 1) at half the rate."""
        files = Origin(
            "files",
            "the folder of Speech Commands v0.02 (speech_commands_v0.02)",
            _build,
            _find,
            names=(*LISTS.values(), *WORDS),
            archives=("speech_commands_v0.02.tar.gz",),
        )
        entry = self.obtain("speech35", ("speech_commands", VERSION, {}), [files])
        scale = 2.0**-30 if self.scale_twice else 2.0**-15
        decode = Wave(
            scale,
            stride=2 if self.half_rate else 1,
            mean=(scale * entry.array("train.mean")).astype(np.float32),
            std=(scale * entry.array("train.std")).astype(np.float32),
        )
        return Dataset(
            name="speech35",
            source=entry.source,
            train=part(entry, "train", decode),
            validation=part(entry, "validation", decode),
            test=part(entry, "test", decode),
            features=1,
            classes=len(WORDS),
            step_rescale=float(decode.stride),
            checksum=entry.checksum,
        )


def _find(folder: Path) -> Path | None:
    for candidate in (folder, folder / "speech_commands_v0.02", folder / "SpeechCommands" / "speech_commands_v0.02"):
        if all((candidate / name).is_file() for name in LISTS.values()):
            return candidate
    return None


def _build(folder: Path, writer: Writer) -> str:
    part_of = {}
    for split, name in LISTS.items():
        for number, line in lines(folder / name):
            clip = line.replace("\\", "/")  # as Windows writes paths
            if clip.split("/")[0] not in WORDS or not (folder / clip).is_file():
                raise UserError(f"{folder / name}, line {number}: there is no clip {folder / clip}. Get the set again.")
            part_of[clip] = split
    clips = [(word, path) for word in WORDS for path in _clips(folder / word)]
    moments = np.zeros((3, RATE))
    with progress("clips", len(clips)) as advance:
        for first in range(0, len(clips), CHUNK):
            chunk = clips[first : first + CHUNK]
            waves = np.stack([_fitted(wav.read(path, RATE)) for _, path in chunk])
            writer.raw.update(waves.data)
            labels = np.array([WORDS.index(word) for word, _ in chunk])
            splits = np.array([part_of.get(f"{word}/{path.name}", "train") for word, path in chunk])
            for split in ("train", *LISTS):
                if (rows := splits == split).any():
                    writer.add(f"{split}.inputs", waves[rows])
                    writer.labels(split, labels[rows], classes=len(WORDS))
            train = waves[splits == "train"].astype(np.float64)
            moments += np.stack([np.full(RATE, len(train)), train.sum(axis=0), (train**2).sum(axis=0)])
            advance(len(chunk))
    n, total, squares = moments
    if n[0] < 2 or set(part_of.values()) != set(LISTS):
        raise UserError(f"{folder}: a split is empty. Get the set again.")
    writer.add("train.mean", total / n)
    writer.add("train.std", np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1)))  # as torch's std
    return f"speech_commands_v0.02 (files {writer.raw.hexdigest()[:8]})"


def _clips(folder: Path) -> list[Path]:
    found = entries(folder, ".wav") if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder} holds no clips; the set has one folder for each of its 35 words. Get it again.")
    return found


def _fitted(samples: np.ndarray) -> np.ndarray:
    return np.pad(samples[:RATE], (0, max(0, RATE - len(samples))))
