"""Which of the data sets that TFDS has prepared is taken, and what is said of damaged ones."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s5c.data.base import Dataset, task_class
from s5c.data.cache import MANIFEST
from s5c.data.source import prepared
from s5c.errors import UserError

sources = pytest.importorskip("test_sources")


def load(name: str, folder: Path, **keys: Any) -> Dataset:
    place = {"data_dir": str(folder / "raw"), "cache_dir": str(folder / "cache"), "download": False}
    return task_class(name)(**{**place, **keys}).load()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny imdb_reviews 1.0.0 and mnist 3.0.1."""
    folder = tmp_path_factory.mktemp("made")
    for builder in (sources.ImdbReviews, sources.Mnist):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def version(made: Path, folder: Path, place: str, of: str = "mnist/3.0.1", **facts: Any) -> Path:
    """Copies a version to another place, with other facts in its dataset_info.json."""
    target = folder / "raw" / place
    shutil.copytree(made / of, target)
    info = json.loads((target / prepared.INFO).read_text())
    (target / prepared.INFO).write_text(json.dumps({**info, **facts}))
    return target


def test_versions_are_numbers_and_the_highest_is_taken(made: Path, tmp_path: Path) -> None:
    for name in ("3.0.1", "3.0.2", "10.0.0", "9.9.9"):
        version(made, tmp_path, f"mnist/{name}", version=name)
    version(made, tmp_path, "mnist/11.0.0.incompleteA1B2C3", version="11.0.0")
    assert load("smnist", tmp_path).source == "mnist (tfds 10.0.0)"


def test_the_published_configuration_is_taken_and_no_other(made: Path, tmp_path: Path) -> None:
    of = "imdb_reviews/1.0.0"
    version(made, tmp_path, "imdb_reviews/subwords8k/2.0.0", of, configName="subwords8k", version="2.0.0")
    with pytest.raises(UserError, match="subwords8k and is passed over: what is read is imdb_reviews/plain_text"):
        load("imdb", tmp_path)
    version(made, tmp_path, "imdb_reviews/plain_text/1.0.0", of, configName="plain_text")
    dataset = load("imdb", tmp_path, min_freq=1)
    assert (dataset.source, len(dataset.train)) == ("imdb_reviews (tfds 1.0.0)", 12)


@pytest.mark.parametrize("given", ["", "mnist", "mnist/3.0.1"])
def test_any_folder_of_the_data_set_may_be_given(given: str, made: Path, tmp_path: Path) -> None:
    version(made, tmp_path, "mnist/3.0.1")
    version(made, tmp_path, "imdb_reviews/1.0.0", "imdb_reviews/1.0.0")
    assert len(load("smnist", tmp_path, data_dir=str(tmp_path / "raw" / given)).test) == 20


def test_a_folder_of_another_data_set_is_refused(made: Path, tmp_path: Path) -> None:
    place = version(made, tmp_path, "mnist/3.0.1")
    with pytest.raises(UserError, match=r"3\.0\.1 is mnist and is passed over: what is read is fashion_mnist"):
        load("fashion", tmp_path, data_dir=str(place))


def test_a_second_format_beside_the_first_is_read(made: Path, tmp_path: Path) -> None:
    version(made, tmp_path, "mnist/3.0.1", fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    assert len(load("smnist", tmp_path).test) == 20


INFOS: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"name": "mnist", "ver',
    "a list": b"[1]",
    "null": b"null",
    "a number": b"5",
    "no text": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", INFOS)
def test_a_damaged_description_is_named(name: str, made: Path, tmp_path: Path) -> None:
    place = version(made, tmp_path, "mnist/3.0.1")
    (place / prepared.INFO).write_bytes(INFOS[name])
    message = r"mnist/3\.0\.1/dataset_info\.json is empty, cut short or damaged .*prepare the set with TFDS again"
    with pytest.raises(UserError, match=message):
        load("smnist", tmp_path)
    with pytest.raises(UserError, match=message):
        load("smnist", tmp_path, data_dir=None, cache_dir=str(tmp_path / "raw"))


def test_what_is_whole_is_taken_where_something_is_damaged(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version(made, tmp_path, "mnist/3.0.1")
    (version(made, tmp_path, "mnist/3.1.0") / prepared.INFO).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert load("smnist", tmp_path).source == "mnist (tfds 3.0.1)"
    assert "3.1.0/dataset_info.json is empty" in caplog.text


def cut(content: bytes) -> bytes:
    return content[:1000]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mnist-test.array_record-00000-of-00001", cut),
        ("mnist-train.array_record-00000-of-00001", lambda content: b""),
        ("features.json", cut),
        ("features.json", lambda content: b""),
        ("features.json", lambda content: content.replace(b'"image"', b'"picture"')),
    ],
)
def test_damaged_files_are_named_and_nothing_is_kept(
    name: str, change: Callable[[bytes], bytes], made: Path, tmp_path: Path
) -> None:
    path = version(made, tmp_path, "mnist/3.0.1") / name
    content = path.read_bytes()
    path.write_bytes(change(content) if change(content) != content else b"{")
    with pytest.raises(UserError, match=r"mnist/3\.0\.1: split .* cannot be read"):
        load("smnist", tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"mnist/3\.0\.1: split .* cannot be read"):
        load("smnist", tmp_path)
    assert not list((tmp_path / "cache").rglob(MANIFEST))


def test_examples_of_another_kind_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the field text is NoneType instead of bytes"):
        next(prepared.read(made / "mnist" / "3.0.1", "train", {"text": bytes}))
    with pytest.raises(UserError, match="the field text is bytes instead of ndarray"):
        next(prepared.read(made / "imdb_reviews" / "1.0.0", "train", {"text": np.ndarray}))
    for path in version(made, tmp_path, "cifar10/3.0.2", name="cifar10").glob("mnist-*"):
        path.rename(path.with_name(path.name.replace("mnist", "cifar10")))
    with pytest.raises(UserError, match=r"train has an image of uint8 \(28, 28, 1\), not uint8 \(32, 32, 3\)"):
        load("image", tmp_path)
