"""Readers take files under the names, and with the headers, that other tools give them: images and sounds."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest
import sounds

from s5c.data.base import Dataset, task_class
from s5c.data.source import idx, pickled, wav
from s5c.errors import UserError


def load(name: str, folder: Path, **keys: Any) -> Dataset:
    place = {"data_dir": str(folder / "raw"), "cache_dir": str(folder / "cache"), "download": False}
    return task_class(name)(**place, **keys).load()


def contents(split: Any) -> tuple[bytes, list[int]]:
    return split.read(np.arange(len(split))).tobytes(), split.labels.tolist()


# ---- MNIST


def mnist(folder: Path, name: Callable[[str, str, str], str], pack: Callable[[bytes], bytes] = bytes) -> None:
    """Writes the four files under names made from part, kind and dimensions: train, images, idx3."""
    layouts.idx(folder / "official")
    for path in (folder / "official").iterdir():
        part, kind, dimensions, _ = path.name.split("-")
        target = folder / "raw" / name(part, kind, dimensions)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pack(path.read_bytes()))


NAMES: dict[str, Callable[[str, str, str], str]] = {
    "published": lambda part, kind, d: f"{part}-{kind}-{d}-ubyte",
    "torchvision's": lambda part, kind, d: f"MNIST/raw/{part}-{kind}-{d}-ubyte",
    "flat": lambda part, kind, d: f"MNIST/{part}-{kind}-{d}-ubyte",
    "inside the packed files": lambda part, kind, d: f"{part}-{kind}.{d}-ubyte",
    "upper case": lambda part, kind, d: f"{part}-{kind}-{d}-ubyte".upper(),
    "underscores": lambda part, kind, d: f"{part}_{kind}_{d}_ubyte",
    "a folder for each": lambda part, kind, d: f"{part}-{kind}-{d}-ubyte/{part}-{kind}-{d}-ubyte",
    "test for t10k": lambda part, kind, d: f"{part.replace('t10k', 'test')}-{kind}-{d}-ubyte",
}
PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "packed": (".gz", gzip.compress),
    "unpacked by a browser, and still called .gz": (".gz", bytes),
    "packed, and not called so": ("", gzip.compress),
    "packed twice": (".gz", lambda content: gzip.compress(gzip.compress(content))),
    "upper case": (".GZ", gzip.compress),
}


@pytest.mark.parametrize("name", NAMES)
def test_mnist_is_found_under_many_names(name: str, tmp_path: Path) -> None:
    mnist(tmp_path, NAMES[name])
    images, labels = layouts.idx_images()["t10k"]
    dataset = load("smnist", tmp_path)
    np.testing.assert_array_equal(dataset.test.read(np.arange(20)).ravel(), (images / np.float32(255)).ravel())
    np.testing.assert_array_equal(dataset.test.labels, labels)


@pytest.mark.parametrize("name", PACKED)
def test_mnist_is_unpacked_by_its_content(name: str, tmp_path: Path) -> None:
    ending, pack = PACKED[name]
    mnist(tmp_path, lambda *parts: NAMES["published"](*parts) + ending, pack)
    assert len(load("smnist", tmp_path).test) == 20


def test_the_published_name_comes_first(tmp_path: Path) -> None:
    mnist(tmp_path, NAMES["inside the packed files"], lambda content: b"never read")
    mnist(tmp_path, NAMES["published"])
    (tmp_path / "raw" / "._train-images-idx3-ubyte").write_bytes(b"of macOS")
    (tmp_path / "raw" / "train-labels.idx1-ubyte").unlink()
    assert len(load("smnist", tmp_path).test) == 20


def test_a_changed_file_of_another_name_is_read_again(tmp_path: Path) -> None:
    mnist(tmp_path, NAMES["inside the packed files"])
    before = load("smnist", tmp_path).fingerprint()
    path = tmp_path / "raw" / "t10k-images.idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    os.utime(path, ns=(1, 1))
    assert load("smnist", tmp_path).fingerprint() != before


def test_the_other_set_of_the_same_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(idx.OFFICIAL.values()) == {"MNIST", "Fashion-MNIST"}
    mnist(tmp_path, NAMES["published"])
    monkeypatch.setattr(idx, "OFFICIAL", {load("smnist", tmp_path).source[-9:-1]: "MNIST"})
    with pytest.raises(UserError, match="holds MNIST and not Fashion-MNIST"):
        load("fashion", tmp_path)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((60_000, 28, 28), 2**28, "more than 47040000 bytes"),
        ((4_000_000, 28, 28), 2**28, "announces 3,136,000,000 bytes"),
        ((2**32 - 1,) * 3, 100, "more than any file"),
        ((0, 28, 28), 0, "0 images"),
        ((40, 16, 49), 40 * 784, "16 x 49 pixels are none of this set"),
    ],
)
def test_what_is_announced_is_no_reason_to_take_memory(
    shape: tuple[int, ...], size: int, message: str, tmp_path: Path
) -> None:
    mnist(tmp_path, NAMES["published"])
    with gzip.open(tmp_path / "raw" / "train-images-idx3-ubyte", "wb", compresslevel=1) as file:
        file.write(np.array([2051, *shape], ">u4").tobytes())
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))
    if shape[0] in (0, 40):
        labels = np.array([2049, shape[0]], ">u4").tobytes() + bytes(shape[0])
        (tmp_path / "raw" / "train-labels-idx1-ubyte").write_bytes(labels)
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        load("smnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


def test_the_file_of_keras_is_read(tmp_path: Path) -> None:
    images = layouts.idx_images()
    (tmp_path / "raw").mkdir()
    arrays = {f"{kind}_{part}": images[key][i] for i, kind in enumerate("xy") for part, key in KERAS.items()}
    np.savez_compressed(tmp_path / "raw" / "mnist.npz", **arrays)  # type: ignore[arg-type]
    dataset = load("smnist", tmp_path)
    assert dataset.source.startswith("MNIST npz (files ")
    layouts.idx(tmp_path / "idx" / "raw")
    assert contents(dataset.test) == contents(load("smnist", tmp_path / "idx").test)
    with pytest.raises(UserError, match=r"does not hold the data of task fashion: it holds mnist\.npz"):
        load("fashion", tmp_path)


KERAS = {"train": "train", "test": "t10k"}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}], object), "announces object"),
        (np.zeros((3, 28, 28), np.float32), r"x_train is float32 \(3, 28, 28\)"),
        (np.zeros((3, 28), np.uint8), r"x_train is uint8 \(3, 28\)"),
    ],
)
def test_other_arrays_than_those_of_keras_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    none = np.zeros(3, np.uint8)
    np.savez(tmp_path / "raw" / "mnist.npz", x_train=array, y_train=none, x_test=none, y_test=none)
    with pytest.raises(UserError, match=message):
        load("smnist", tmp_path)


# ---- CIFAR-10's Python version


def batches() -> dict[str, np.ndarray]:
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return dict(zip(names, np.split(layouts.cifar_rows(), [10, 20, 30, 40, 50]), strict=True))


def as_python_3(rows: np.ndarray, protocol: int, **changes: Any) -> bytes:
    batch = {"labels": rows[:, 0].tolist(), "data": rows[:, 1:].copy(), "filenames": [b"a.png"] * len(rows), **changes}
    return pickle.dumps(batch, protocol)


def as_python_2(rows: np.ndarray) -> bytes:
    """Returns what cPickle of Python 2 wrote of a batch, opcode by opcode, as the published files are."""

    def text(content: bytes) -> bytes:
        short = len(content) < 256
        return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<I", len(content))) + content

    labels = b"](" + b"".join(b"K" + bytes([label]) for label in rows[:, 0].tolist()) + b"e"
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01bq\x05\x87Rq\x06"
    kind = b"cnumpy\ndtype\nq\x07" + text(b"u1") + b"K\x00K\x01\x87Rq\x08(K\x03" + text(b"|")
    kind += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K" + bytes([len(rows)]) + b"M\x00\x0c\x86" + kind + b"\x89" + text(rows[:, 1:].tobytes()) + b"tb"
    names = b"](" + text(b"a.png") * len(rows) + b"e"
    return (
        b"\x80\x02}q\x01("
        + text(b"batch_label") + text(b"training batch 1 of 5")
        + text(b"labels") + labels + text(b"data") + made + state + text(b"filenames") + names + b"u."
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py", "."])
@pytest.mark.parametrize("protocol", [-2, 0, 2, 4, 5])
def test_the_python_version_is_read_like_the_binary_one(protocol: int, folder: str, tmp_path: Path) -> None:
    place = tmp_path / "raw" / folder
    place.mkdir(parents=True)
    for name, rows in batches().items():
        (place / name).write_bytes(as_python_2(rows) if protocol < 0 else as_python_3(rows, protocol))
    layouts.cifar(tmp_path / "binary" / "raw")
    dataset, expected = load("scifar", tmp_path), load("scifar", tmp_path / "binary")
    assert dataset.source.startswith("cifar-10-python (files ")
    assert contents(dataset.train) == contents(expected.train) and contents(dataset.test) == contents(expected.test)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


class Deep:
    def __reduce__(self) -> tuple[Any, ...]:
        return np.core.multiarray._reconstruct, (np.ndarray, (2**40,), "d")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"data": Evil(), "labels": [1]}), r"it names \w+\.mkdir"),
        (b"\x80\x02cbuiltins\neval\nU\x011\x85R.", r"it names builtins\.eval"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "it stores value number 2147483647"),
        (b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b".", "expected 1099511627776 bytes"),
        (b"\x80\x02Pname\n.", "it has the operation PERSID|UNICODE|no newline"),
        (b"pickled!", "no batch of CIFAR-10"),
        (pickle.dumps([1]), "no dictionary"),
        (as_python_3(layouts.cifar_rows()[:3], 2, data=np.zeros((3, 3072))), "something else than bytes"),
        (as_python_3(layouts.cifar_rows()[:3], 2, labels=[1, 2]), "one label a row"),
        (as_python_3(layouts.cifar_rows()[:3], 2, labels=[1, 2, "3"]), "one label a row"),
        (as_python_3(layouts.cifar_rows()[:3], 2, labels=[1, 2, 10]), "example 3 has label 10"),
    ],
    ids=range(11),
)
def test_a_pickle_is_not_run(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "raw" / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name in batches():
        (place / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load("image", tmp_path)
    assert "data_batch_1" in str(caught.value)
    assert not (tmp_path / "hacked").exists()


def test_an_array_is_only_noted_until_its_size_is_known() -> None:
    tracemalloc.start()
    with pytest.raises(pickled.DAMAGE):
        pickled.load(pickle.dumps({"data": Deep()}))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# ---- sound


@pytest.mark.parametrize("name", sounds.READ)
def test_headers_of_many_programs_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sounds.READ[name])
    found = wav.read(tmp_path / "a.wav", 8000)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, sounds.WAVE)


@pytest.mark.parametrize("name", sounds.REFUSED)
def test_other_sounds_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    content, message = sounds.REFUSED[name]
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match=message):
        wav.read(tmp_path / "a.wav", 8000)


def test_clips_are_found_in_any_case_and_strangers_are_named_together(tmp_path: Path) -> None:
    clips = layouts.fsdd(tmp_path / "raw")
    (clips / "3_bob_5.wav").rename(clips / "3_bob_5.WAV")
    for name in ("._3_bob_5.wav", ".DS_Store", "Thumbs.db"):
        (clips / name).write_bytes(b"x")
    assert len(load("fsdd", tmp_path).train) == 40
    for name in ("a.wav", "b.wav"):
        (clips / name).write_bytes(sounds.READ["plain"])
    with pytest.raises(UserError, match=r"recordings/a\.wav, .*recordings/b\.wav are no clips"):
        load("fsdd", tmp_path)
