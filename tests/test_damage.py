"""Files cut short, with bits flipped, bytes removed or put in, end in a message or are read: never in a traceback."""

from __future__ import annotations

import gzip
import itertools
import logging
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import sounds

from s5c.data.cache import Writer
from s5c.data.generator import listops
from s5c.data.source import aclimdb, archive, cifar, idx, keras, pathfinder, tsv, wav
from s5c.errors import UserError

TRIALS = int(os.environ.get("S5C_DAMAGE_TRIALS", "60"))
"""For each kind of file; a thousand take a minute each."""

SIDE = idx.SIDE


def arrays() -> dict[str, np.ndarray]:
    images = {f"x_{part}": np.zeros((n, SIDE, SIDE), np.uint8) for part, n in (("train", 3), ("test", 2))}
    return images | {f"y_{part}": np.arange(n, dtype=np.uint8) for part, n in (("train", 3), ("test", 2))}


def mnist(folder: Path) -> None:
    for name, values in arrays().items():
        part = "train" if name.endswith("train") else "t10k"
        kind, magic = (idx.IMAGES, 2051) if name.startswith("x") else (idx.LABELS, 2049)
        content = np.array([magic, *values.shape], ">i4").tobytes() + values.tobytes()
        (folder / f"{part}-{kind}").write_bytes(gzip.compress(content) if part == "train" else content)


def python_batches(folder: Path) -> None:
    rows = layouts.cifar_rows()[:3]
    for protocol, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        batch = {"labels": rows[:, 0].tolist(), "data": rows[:, 1:].copy(), "filenames": ["a.png"] * 3}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))


def archives(folder: Path) -> None:
    (folder / "in" / ("d" * 80)).mkdir(parents=True)
    (folder / "in" / ("d" * 80) / ("é" * 60)).write_bytes(bytes(700))
    for mode, format in itertools.product(("", "gz", "bz2", "xz"), (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        with tarfile.open(folder / f"{format}.{mode}", f"w:{mode}", format=format) as packed:
            packed.add(folder / "in", "in")
    shutil.rmtree(folder / "in")


def unpacked(path: Path) -> None:
    try:
        archive.unpack(path)
    finally:
        shutil.rmtree(path.with_name(f"{path.name}.unpacked"), ignore_errors=True)


def parsed(path: Path) -> None:
    for text, _ in tsv.listops(path):
        listops.parse(text)


def clips(folder: Path) -> None:
    for number, content in enumerate(sounds.READ.values()):
        (folder / f"{number}.wav").write_bytes(content)


def built(build: Callable[[Path, Writer], object], inner: str = "") -> Callable[[Path, Path], object]:
    """Returns what reads the whole set that a file belongs to."""

    def read(path: Path, root: Path) -> object:
        scratch = root.with_name("written")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        return build(root / inner, Writer(scratch))

    return read


KINDS: dict[str, tuple[Callable[[Path], object], Callable[[Path, Path], object]]] = {
    "idx": (mnist, built(lambda folder, writer: idx.build(folder, writer, title="MNIST"))),
    "keras": (lambda folder: np.savez_compressed(folder / keras.FILE, **arrays()), built(keras.build)),  # type: ignore[arg-type]
    "cifar": (layouts.cifar, built(cifar.build, cifar.FOLDER)),
    "cifar python": (python_batches, built(cifar.build)),
    "reviews": (layouts.aclimdb, built(aclimdb.read, "aclImdb")),
    "films": (layouts.films, built(aclimdb.films, "aclImdb")),
    "listops": (layouts.listops, lambda path, _: parsed(path)),
    "pairs": (layouts.aan, lambda path, _: list(tsv.pairs(path))),
    "sounds": (clips, lambda path, _: wav.read(path, 8000)),
    "pictures": (
        lambda folder: layouts.pathfinder(folder, 32),
        built(lambda folder, writer: pathfinder.build(folder, writer, size=32), "pathfinder32/curv_contour_length_14"),
    ),
    "archives": (archives, lambda path, _: unpacked(path)),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file cut, with up to eight bits flipped, a byte replaced, or a few bytes removed or put in."""
    changed = bytearray(content)
    kind = rng.choice(["cut", "flip", "flip", "replace", "remove", "insert"])
    place = int(rng.integers(len(content) + 1) if rng.random() < 0.5 else rng.integers(min(len(content), 600) + 1))
    inside = max(0, min(place, len(content) - 1))
    if kind == "cut":
        return content[:place]
    if kind == "insert" or not content:
        changed[place:place] = rng.bytes(int(rng.integers(1, 20)))
    elif kind == "remove":
        del changed[inside : inside + int(rng.integers(1, 50))]
    elif kind == "replace":
        changed[inside] = int(rng.choice([0, 255, 127, 128, 10, 9, 34]))
    else:
        for bit in rng.integers(0, 8 * min(len(content), 600), int(rng.choice([1, 2, 8]))).tolist():
            changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_ends_in_a_message_or_is_read(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "s5c")
    make, read = KINDS[kind]
    root = tmp_path / "raw"
    root.mkdir()
    make(root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    rng, refused = np.random.default_rng(0), 0
    for trial in range(TRIALS):
        path = files[int(rng.integers(len(files)))]
        content = path.read_bytes()
        path.write_bytes(damaged(content, rng))
        try:
            read(path, root)
        except UserError:
            refused += 1
        except Exception as error:
            kept = tmp_path / f"trial{trial}-{path.name}"
            shutil.copy(path, kept)
            raise AssertionError(f"trial {trial}, kept as {kept}: {error!r}") from error
        path.write_bytes(content)
    assert refused or kind == "films"
    read(files[0], root)  # whole again
