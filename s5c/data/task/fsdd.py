"""`fsdd`: which digit is spoken? The Free Spoken Digit Dataset, 8 kHz, up to a second, 8,000 steps. Not in the papers.

Waves in -1 .. 1, padded with silence. The official split: recordings 0 to 4 of each speaker and digit are the test.
What TFDS prepares of this set (spoken_digit) is not read: its audio needs TensorFlow. Its download is.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.data import padding
from s5c.data.base import ADDED_LATER, Dataset, Split
from s5c.data.cache import Entry, Writer
from s5c.data.decode import Wave
from s5c.data.origin import Located, Origin
from s5c.data.source import wav
from s5c.data.source.folder import entries, shown
from s5c.errors import UserError, bounded

VERSION = 1
RATE = 8_000
TEST_RECORDINGS = 5
NAME = re.compile(r"([0-9])_\w+_([0-9]{1,9})\.wav", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Spoken digits.

    Attributes:
        max_length: steps; longer clips are cut.
        pad: full | bucket | a list of lengths | how many to choose (`s5c.data.padding`).
    """

    licence: ClassVar[str] = "Free Spoken Digit Dataset, CC BY-SA 4.0."
    max_length: int = bounded(8000, least=1)
    pad: Any = dataclasses.field(default=padding.FULL, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        padding.check(self.pad, self.max_length)

    def load(self) -> Dataset:
        """Returns waves of shape (n, max_length, 1) with their lengths."""
        files = Origin(
            "files",
            "the folder recordings of the Free Spoken Digit Dataset (0_jackson_0.wav, ...)",
            self._from_files,
            _find,
            archives=("v1.0.9.tar.gz",),
            tfds="spoken_digit",
        )
        entry = self.obtain("fsdd", ("fsdd", VERSION, {"max_length": self.max_length}), [files])
        splits = {name: self._split(entry, name) for name in ("train", "test")}
        splits = padding.padded(splits, self.pad, self.max_length)
        return Dataset(
            name="fsdd",
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            test=splits["test"],
            features=1,
            classes=10,
            checksum=entry.checksum,
        )

    def _split(self, entry: Entry, name: str) -> Split:
        inputs = entry.ragged(name, self.max_length)
        return Split(inputs, entry.labels(name), inputs.lengths, Wave())

    def _from_files(self, place: Path, writer: Writer) -> str:
        clips = entries(place, ".wav")
        if strangers := [path for path in clips if NAME.fullmatch(path.name) is None]:
            are = "is no clip" if len(strangers) == 1 else "are no clips"
            raise UserError(f"{shown(strangers)} {are} of this set: names are <digit>_<speaker>_<number>.wav.")
        self._write(writer, {path.name: wav.read(path, RATE) for path in clips}, place)
        return f"free-spoken-digit-dataset (files {writer.raw.hexdigest()[:8]})"

    def _write(self, writer: Writer, clips: dict[str, np.ndarray], place: Path) -> None:
        found: dict[str, int] = {"train": 0, "test": 0}
        for name, samples in clips.items():
            match = NAME.fullmatch(name)
            assert match is not None
            split = "test" if int(match[2]) < TEST_RECORDINGS else "train"
            cut = samples[: self.max_length]
            writer.raw.update(np.ascontiguousarray(samples).data)
            writer.sequences(split, cut, np.array([len(cut)]))
            writer.labels(split, [int(match[1])], classes=10, where=place / name)
            found[split] += 1
        if not all(found.values()):
            raise UserError(f"{place} holds {found['train']} clips for training and {found['test']} for the test.")


def _find(folder: Path) -> Path | None:
    bases = (folder, *folder.glob("free-spoken-digit-dataset*"))
    for candidate in (folder, *(base / "recordings" for base in bases)):
        if candidate.is_dir() and any(NAME.fullmatch(path.name) for path in entries(candidate, ".wav")):
            return candidate
    return None
