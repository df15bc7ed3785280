"""Readers of the published layouts: wrong files are named, with the row, and nothing of them is kept."""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import layouts
import numpy as np
import pytest
from PIL import Image

from s5c.data.base import Dataset, task_class
from s5c.data.cache import MANIFEST
from s5c.data.source import archive, download
from s5c.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


def load(name: str, folder: Path, **keys: object) -> Dataset:
    return task_class(name)(data_dir=str(folder / "raw"), cache_dir=str(folder / "cache"), **keys).load()


def spoil(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Returns a function that changes the content of one file below `raw`."""

    def apply(raw: Path) -> None:
        (raw / path).write_bytes(change((raw / path).read_bytes()))

    return apply


def line(number: int, text: bytes) -> Callable[[bytes], bytes]:
    """Replaces one line."""

    def change(content: bytes) -> bytes:
        lines = content.split(b"\n")
        lines[number - 1] = text
        return b"\n".join(lines)

    return change


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


MNIST, CIFAR, PNG = "MNIST/raw", "cifar-10-batches-bin", "pathfinder32/curv_contour_length_14"
SPEECH = "speech_commands_v0.02"


@pytest.mark.few(6)
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("smnist", spoil(f"{MNIST}/train-images-idx3-ubyte", lambda b: b"\0" * 4 + b[4:]), "begins with 0x00000000"),
        ("smnist", spoil(f"{MNIST}/t10k-images-idx3-ubyte", cut), "t10k-images-idx3-ubyte is cut short"),
        ("smnist", spoil(f"{MNIST}/t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a"), "example 20 has label 10"),
        ("smnist", lambda raw: (raw / MNIST / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte is missing"),
        ("fashion", spoil("fashion-mnist/train-labels-idx1-ubyte.gz", cut), r"train-labels-idx1-ubyte\.gz is damaged"),
        ("image", spoil(f"{CIFAR}/data_batch_3.bin", cut), r"data_batch_3\.bin is cut short.*row 7 is incomplete"),
        (
            "image",
            spoil(f"{CIFAR}/test_batch.bin", lambda b: b"\x0b" + b[1:]),
            r"test_batch\.bin: example 1 has label 11",
        ),
        ("image", lambda raw: (raw / CIFAR / "data_batch_5.bin").unlink(), r"data_batch_5\.bin is missing"),
        ("imdb", spoil("aclImdb/test/pos/2_8.txt", lambda b: b + b"\xff"), r"test/pos/2_8\.txt is not UTF-8"),
        ("imdb", lambda raw: (raw / "aclImdb/train/neg/a.txt").write_text("x"), r"neg/a\.txt is no review"),
        ("imdb", lambda raw: [p.unlink() for p in (raw / "aclImdb/test/neg").iterdir()], "test/neg holds no reviews"),
        (
            "listops",
            spoil("listops-1000/basic_val.tsv", line(3, b"[MAX 1 2 ]")),
            r"basic_val\.tsv, line 3: .* 1 columns",
        ),
        ("listops", spoil("listops-1000/basic_test.tsv", line(4, b"[MAX 1 2 ]\t10")), r"basic_test\.tsv, line 4"),
        (
            "listops",
            spoil("listops-1000/basic_train.tsv", line(5, b"[MAX 1 ?\t1")),
            r"basic_train\.tsv, example 4: .*'\?'",
        ),
        ("listops", spoil("listops-1000/basic_test.tsv", lambda b: b""), r"basic_test\.tsv is empty"),
        (
            "retrieval",
            spoil("tsv_data/new_aan_pairs.train.tsv", line(3, b"1.0\tP\tQ\tx")),
            r"train\.tsv, line 3: .* 4 columns",
        ),
        ("retrieval", spoil("tsv_data/new_aan_pairs.test.tsv", line(2, b"2\tP\tQ\tx\ty")), r"test\.tsv, line 2"),
        ("retrieval", spoil("tsv_data/new_aan_pairs.eval.tsv", lambda b: b + b"\xff\tP"), r"eval\.tsv, after line"),
        ("same_movie", lambda raw: (raw / "aclImdb/test/urls_neg.txt").unlink(), r"test/urls_neg\.txt is missing"),
        ("same_movie", spoil("aclImdb/train/urls_pos.txt", cut), r"urls_pos\.txt, line 81: no film of 80_9\.txt"),
        (
            "same_movie",
            spoil("aclImdb/train/urls_neg.txt", lambda b: b.replace(b"tt", b"tt1").replace(b"/tt1", b"/tt0000001/")),
            "too few films",
        ),
        (
            "pathfinder",
            spoil(f"{PNG}/imgs/1/sample_4.png", lambda b: b""),
            r"sample_4\.png \(named in .*1\.npy, line 5\)",
        ),
        ("pathfinder", spoil(f"{PNG}/imgs/0/sample_0.png", cut), r"sample_0\.png .* cannot be read"),
        ("pathfinder", spoil(f"{PNG}/metadata/0.npy", line(2, b"imgs/0 sample_1.png 1 3")), r"0\.npy, line 2: .*label"),
        (
            "pathfinder",
            spoil(f"{PNG}/metadata/0.npy", line(2, b"../0 a.png 1 1")),
            r"0\.npy, line 2: .*leaves the folder",
        ),
        ("pathfinder", spoil(f"{PNG}/metadata/1.npy", lambda b: b"\x93NUMPY" + b), r"1\.npy is a NumPy file"),
        (
            "speech35",
            lambda raw: layouts.clip(raw / SPEECH / "cat/0_nohash_0.wav", np.ones(9), 8000),
            "at 8000 Hz, not",
        ),
        ("speech35", spoil(f"{SPEECH}/bed/1_nohash_0.wav", cut), r"bed/1_nohash_0\.wav has .* samples of 50"),
        (
            "speech35",
            spoil(f"{SPEECH}/testing_list.txt", line(2, b"cat/x.wav")),
            r"testing_list\.txt, line 2: there is no",
        ),
        ("fsdd", spoil("recordings/3_bob_5.wav", lambda b: b"RIFX" + b[4:]), r"3_bob_5\.wav is no WAV file"),
        ("fsdd", lambda raw: layouts.clip(raw / "recordings/3_bob_5.wav", np.ones(8), 8000, 2), "2 channel"),
    ],
)
def test_damage_is_named_and_nothing_is_kept(
    name: str, damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    layouts.FILES[name](tmp_path / "raw")
    damage(tmp_path / "raw")
    with pytest.raises(UserError, match=message):
        load(name, tmp_path)
    assert not list((tmp_path / "cache").rglob(MANIFEST))
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_the_pickled_cifar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(UserError, match=r"pickled and never loaded.*binary version"):
        load("image", tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    layouts.pathfinder(tmp_path / "raw", 64)
    (tmp_path / "raw" / "pathfinder64").rename(tmp_path / "raw" / "pathfinder32")
    with pytest.raises(UserError, match="is 64 x 64 pixels, not 32 x 32"):
        load("pathfinder", tmp_path)


# ---- archives


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def reviews(folder: Path) -> Path:
    """Packs the tiny aclImdb."""
    layouts.aclimdb(folder)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.txt")}
    return packed(folder / "packed" / "aclImdb_v1.tar.gz", files)


def test_an_archive_is_unpacked_and_read_like_its_folder(tmp_path: Path) -> None:
    reviews(tmp_path / "made").rename(tmp_path / "aclImdb_v1.tar.gz")
    (tmp_path / "raw").mkdir()
    (tmp_path / "aclImdb_v1.tar.gz").rename(tmp_path / "raw" / "aclImdb_v1.tar.gz")
    from_archive = load("imdb", tmp_path)
    from_folder = task_class("imdb")(data_dir=str(tmp_path / "made"), cache_dir=str(tmp_path / "other")).load()
    assert from_archive.fingerprint() == from_folder.fingerprint()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x"])
def test_members_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    path = packed(tmp_path / "in" / "a.tar.gz", {"good": b"1", name: b"2"})
    with pytest.raises(UserError, match="is refused: its member"):
        archive.unpack(path)
    assert {p.name for p in (tmp_path / "in").iterdir()} <= {"a.tar.gz", ".a.tar.gz.lock"}
    assert not (tmp_path / "x").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(UserError, match="its member 'link' is a link"):
        archive.unpack(tmp_path / "a.tar")


@pytest.mark.parametrize("change", [cut, lambda content: b"no archive" * 99])
def test_archives_cut_short_are_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", {"x": np.random.default_rng(0).bytes(9999)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar\.gz cannot be unpacked"):
        archive.unpack(path)
    assert not (tmp_path / "a.tar.gz.unpacked").exists()


# ---- downloads, from a server on this machine


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def infos(url: str, content: bytes) -> dict[str, object]:
    """Returns what TFDS keeps of a file."""
    from tensorflow_datasets.core.download import checksums

    sha256, size = hashlib.sha256(content).hexdigest(), len(content)
    name = url.rsplit("/", 1)[1]
    return {url: checksums.UrlInfo(size=tfds.core.utils.Size(size), checksum=sha256, filename=name)}


def test_what_tfds_knows_is_downloaded_checked_and_read(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reviews(tmp_path / "made")
    (tmp_path / "served").mkdir()
    content = path.read_bytes()
    (tmp_path / "served" / path.name).write_bytes(content)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    task = task_class("imdb")(cache_dir=str(tmp_path / "cache"))
    with mock.patch.object(download, "url_infos", lambda name: infos(f"{server}/{path.name}", content)):
        dataset = task.load()
    assert (len(dataset.train), len(dataset.test)) == (12, 12)
    assert (tmp_path / "cache" / "downloads" / "imdb_reviews" / path.name).is_file()
    again = task_class("imdb")(cache_dir=str(tmp_path / "cache"), download=False, min_freq=1).load()
    assert len(again.train) == 12, "other options are prepared from what was downloaded"


def test_a_download_with_the_wrong_checksum_is_refused(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar.gz").write_bytes(b"damaged")
    monkeypatch.setattr(download, "url_infos", lambda name: infos(f"{server}/a.tar.gz", b"genuine"))
    with pytest.raises(UserError, match="download of imdb_reviews failed"):
        download.fetch("imdb_reviews", tmp_path / "cache")
    assert not (tmp_path / "cache" / "downloads" / "imdb_reviews" / "a.tar.gz").exists()


def test_an_address_that_is_gone_is_an_obstacle(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "url_infos", lambda name: infos(f"{server}/gone", b"x"))
    assert download.fetch("mnist", tmp_path) == "127.0.0.1 cannot be reached (status 404)."


# ---- TFDS


class ImdbReviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Stands in for TFDS's own, which cannot be prepared without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> object:
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> object:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, object]]]:
        for label, name in enumerate(("neg", "pos")):
            for number in range(layouts.REVIEWS):
                yield f"{name}{number}", {"text": layouts.review(split, name, number), "label": label}


def test_what_tfds_has_prepared_is_read_without_tensorflow(tmp_path: Path) -> None:
    ImdbReviews(data_dir=tmp_path / "raw", file_format="array_record").download_and_prepare()
    dataset = load("imdb", tmp_path, min_freq=1)
    assert dataset.source == "imdb_reviews (tfds 1.0.0)"
    vocabulary = dataset.vocabulary
    assert vocabulary is not None
    texts = set()
    for split in (dataset.train, dataset.test):
        for row, n in zip(split.read(np.arange(12)), split.lengths if split.lengths is not None else [], strict=True):
            texts.add("".join(vocabulary[i] for i in row[: n - 1]))
    expected = {layouts.review("train", name, n) for name in ("neg", "pos") for n in range(layouts.REVIEWS)}
    assert expected <= texts and len(texts) == 24
    assert "tensorflow" not in sys.modules


class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """MNIST with the tiny images of the tests."""

    VERSION = tfds.core.Version("3.0.1")

    def _info(self) -> object:
        features = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: object) -> object:
        images = layouts.idx_images()
        return {"train": self._generate_examples(*images["train"]), "test": self._generate_examples(*images["t10k"])}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, object]]]:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            yield number, {"image": png.getvalue(), "label": int(label)}


def test_images_from_tfds_equal_those_from_files(tmp_path: Path) -> None:
    layouts.FILES["smnist"](tmp_path / "files")
    Mnist(data_dir=tmp_path / "raw", file_format="array_record").download_and_prepare()
    dataset = load("smnist", tmp_path)
    files = task_class("smnist")(data_dir=str(tmp_path / "files"), cache_dir=str(tmp_path / "other")).load()
    assert dataset.source == "mnist (tfds 3.0.1)"
    found, expected = (
        sorted((int(label), x.tobytes()) for x, label in zip(s.read(np.arange(20)), s.labels, strict=True))
        for s in (dataset.test, files.test)
    )
    assert found == expected


def test_what_only_tensorflow_reads_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "raw" / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord"}')
    with pytest.raises(UserError, match="does not hold the data of task smnist"):
        load("smnist", tmp_path)
    assert "tfds build mnist --file_format=array_record" in caplog.text
