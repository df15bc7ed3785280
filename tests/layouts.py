"""Writes tiny data sets in the layouts in which the real ones are published."""

from __future__ import annotations

import gzip
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_data
from PIL import Image

from s5c.data.base import task_class
from s5c.data.generator import listops as generator
from s5c.data.origin import Located
from s5c.data.source.idx import IMAGES, LABELS
from s5c.data.task.speech35 import WORDS

REVIEWS = 6


def listops_text(tokens: np.ndarray) -> str:
    """Returns one complete expression as the Arena's files spell it: `( ( ( [MAX 2 ) 9 ) ] )`.

    A list is built from its operator by one pair per argument and one for the closing bracket.
    """
    parts: list[list[str]] = [[]]
    for token in np.asarray(tokens, np.uint8).tobytes():
        if generator.MIN <= token < generator.CLOSE:
            parts.append([generator.SYMBOLS[token]])
        elif token == generator.CLOSE:
            operator, *arguments = parts.pop()
            pairs = " ) ".join([f"{operator} {arguments[0]}", *arguments[1:], "] )"])
            parts[-1].append("( " * (len(arguments) + 1) + pairs)
        else:
            parts[-1].append(generator.SYMBOLS[token])
    return parts[0][0]


def review(split: str, label: str, number: int) -> str:
    """Returns a text that no other review equals."""
    return f"{split} {label} é {number} " + "good film<br /> " * (number + 1)


def aclimdb(folder: Path) -> Path:
    """Writes 12 reviews for training and 12 for the test."""
    for split in ("train", "test"):
        for label, rating in (("neg", 3), ("pos", 8)):
            place = folder / "aclImdb" / split / label
            place.mkdir(parents=True)
            for number in range(REVIEWS):
                (place / f"{number}_{rating}.txt").write_text(review(split, label, number), "utf-8")
    return folder / "aclImdb"


FILMS = 60


def films(folder: Path) -> Path:
    """Writes four reviews, two of each rating, of 60 films for training and 60 for the test; one film is in both."""
    for split, first in (("train", 0), ("test", FILMS - 1)):
        for label, rating in (("neg", 2), ("pos", 9)):
            place = folder / "aclImdb" / split / label
            place.mkdir(parents=True)
            lines = []
            for number in range(2 * FILMS):
                (place / f"{number}_{rating}.txt").write_text(f"{split} {label} {number}", "utf-8")
                lines.append(f"http://www.imdb.com/title/tt{first + number // 2:07d}/usercomments")
            (place.parent / f"urls_{label}.txt").write_text("\n".join([*lines, ""]), "utf-8")
    (folder / "aclImdb/train/pos/79_9.txt").write_text("train neg 3", "utf-8")  # a text that occurs twice
    return folder / "aclImdb"


def idx_images(train: int = 40, test: int = 20) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns images (n, 28, 28) and labels by the names of the two parts."""
    rng = np.random.default_rng(1)
    return {
        part: (rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for part, n in (("train", train), ("t10k", test))
    }


def idx(folder: Path, *, packed: bool = False) -> Path:
    """Writes the four files of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in idx_images().items():
        for kind, magic, values in ((IMAGES, 2051, images), (LABELS, 2049, labels)):
            content = np.array([magic, *values.shape], ">i4").tobytes() + values.tobytes()
            path = folder / f"{part}-{kind}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_rows(*, grey: bool = False) -> np.ndarray:
    """Returns the 70 rows of five training batches and a test batch: label, red, green, blue."""
    rng = np.random.default_rng(2)
    channels = rng.integers(0, 256, (70, 1 if grey else 3, 1024), np.uint8)
    pixels = np.broadcast_to(channels, (70, 3, 1024)).reshape(70, 3072)
    return np.concatenate([(np.arange(70) % 10).astype(np.uint8)[:, None], pixels], axis=1)


def cifar(folder: Path, *, grey: bool = False) -> Path:
    """Writes the six binary files of CIFAR-10, 50 images for training and 20 for the test."""
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    *train, test = np.split(cifar_rows(grey=grey), [10, 20, 30, 40, 50])
    for number, rows in enumerate(train, start=1):
        (place / f"data_batch_{number}.bin").write_bytes(rows.tobytes())
    (place / "test_batch.bin").write_bytes(test.tobytes())
    return place


def listops(folder: Path) -> Path:
    """Writes the three TSV files of ListOps: 60, 20 and 20 expressions."""
    place = folder / "listops-1000"
    place.mkdir(parents=True)
    flat, offsets, labels = generator.generate(100, seed=7, max_depth=4, max_args=5, min_length=5, max_length=60)
    rows = [f"{listops_text(flat[offsets[i] : offsets[i + 1]])}\t{labels[i]}" for i in range(100)]
    for name, part in (("train", rows[:60]), ("val", rows[60:80]), ("test", rows[80:])):
        (place / f"basic_{name}.tsv").write_text("\n".join(["Source\tTarget", *part, ""]), "utf-8")
    return place


def aan(folder: Path) -> Path:
    """Writes the three TSV files of the AAN pairs: 8, 4 and 4 pairs."""
    place = folder / "tsv_data"
    place.mkdir(parents=True)
    for name, count in (("train", 8), ("eval", 4), ("test", 4)):
        rows = [f'{i % 2}.0\tP{i}\tQ{i}\t"{name} say ""{i}"""\t{"other " * (i + 1)}{i}' for i in range(count)]
        (place / f"new_aan_pairs.{name}.tsv").write_text("\n".join([*rows, ""]), "utf-8")
    return place


def pathfinder(folder: Path, size: int) -> Path:
    """Writes 20 images in two folders with their metadata."""
    place = folder / f"pathfinder{size}" / "curv_contour_length_14"
    (place / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for part in range(2):
        (place / "imgs" / str(part)).mkdir(parents=True)
        rows = []
        for number in range(10):
            name = f"sample_{number}.png"
            Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(place / "imgs" / str(part) / name)
            rows.append(f"imgs/{part} {name} {number} {number % 2} 7.0 14 2 1.0")
        (place / "metadata" / f"{part}.npy").write_text("\n".join([*rows, ""]))
    return place


def clip(path: Path, samples: np.ndarray, rate: int, channels: int = 1) -> None:
    """Writes a 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def speech(folder: Path) -> Path:
    """Writes five short clips of each of the 35 words: three for training, one for validation, one for the test."""
    place = folder / "speech_commands_v0.02"
    rng = np.random.default_rng(4)
    for word in WORDS:
        (place / word).mkdir(parents=True)
        for number in range(5):
            clip(place / word / f"{number}_nohash_0.wav", rng.integers(-9000, 9000, 50), 16_000)
    for name, number in (("validation_list.txt", 3), ("testing_list.txt", 4)):
        (place / name).write_text("".join(f"{word}/{number}_nohash_0.wav\n" for word in WORDS))
    return place


def fsdd(folder: Path) -> Path:
    """Writes recordings 0, 4, 5 and 6 of two speakers and ten digits."""
    place = folder / "recordings"
    place.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for digit in range(10):
        for speaker in ("ann", "bob"):
            for number in (0, 4, 5, 6):
                samples = rng.integers(-9000, 9000, 40 + 10 * number)
                clip(place / f"{digit}_{speaker}_{number}.wav", samples, 8_000)
    return place


def own(folder: Path) -> Path:
    """Writes sequences of one's own: 18 for training and for the test, of three lengths."""
    folder.mkdir(parents=True)
    own_data.as_npz(folder)
    return folder


FILES: dict[str, Callable[[Path], Path]] = {
    "imdb": aclimdb,
    "imdb_small": aclimdb,
    "listops": listops,
    "retrieval": aan,
    "same_movie": films,
    "image": cifar,
    "scifar": cifar,
    "smnist": lambda folder: idx(folder / "MNIST" / "raw"),
    "psmnist": lambda folder: idx(folder / "MNIST" / "raw"),
    "smnist_small": lambda folder: idx(folder / "MNIST" / "raw"),
    "fashion": lambda folder: idx(folder / "fashion-mnist", packed=True),
    "pathfinder": lambda folder: pathfinder(folder, 32),
    "pathx": lambda folder: pathfinder(folder, 128),
    "speech35": speech,
    "fsdd": fsdd,
    "arrays": own,
}
"""How to write the published files of each task that has any."""


def tiny(name: str, folder: Path) -> dict[str, Any]:
    """Returns the options with which a task loads little data, after its raw data has been put into a folder.

    Args:
        name: of the task.
        folder: for raw data, `raw`, and prepared data, `cache`.
    """
    task = task_class(name)
    keys: dict[str, Any] = dict(getattr(task, "few", {}))
    if issubclass(task, Located):
        keys["cache_dir"] = str(folder / "cache")
    if name in FILES:
        if not (folder / "raw").exists():
            FILES[name](folder / "raw")
        keys["data_dir"] = str(folder / "raw")
    return keys
