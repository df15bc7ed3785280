"""Prepared data: written whole or not at all, by one process, checked when read; and where it is looked for."""

from __future__ import annotations

import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from s5c.data.base import task_class
from s5c.data.cache import ALWAYS_VERIFIED, MANIFEST, Shelf, Writer
from s5c.data.origin import Located, Origin
from s5c.data.source import download
from s5c.errors import UserError
from s5c.locations import data_dir


def shelf(root: Path, **options: Any) -> Shelf:
    return Shelf(root, "numbers", 1, options)


def write(writer: Writer, count: int = 6) -> None:
    writer.add("train.inputs", np.arange(count, dtype=np.int16))
    writer.add("train.inputs", np.arange(2, dtype=np.int16))
    writer.labels("train", [0, 1], classes=2)
    writer.facts["vocabulary"] = ["é"]


def make(root: Path, **options: Any) -> Any:
    with shelf(root, **options).locked(), shelf(root, **options).writer() as writer:
        write(writer)
        return shelf(root, **options).keep(writer, kind="files", source="counted", place="/raw", stamp="1")


# ---- entries


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = make(tmp_path)
    entry = shelf(tmp_path).find("files", "1")
    assert entry is not None and entry.folder == made.folder
    np.testing.assert_array_equal(entry.array("train.inputs"), [0, 1, 2, 3, 4, 5, 0, 1])
    assert isinstance(entry.array("train.inputs"), np.memmap)
    assert not entry.array("train.inputs").flags.writeable
    np.testing.assert_array_equal(entry.labels("train"), [0, 1])
    assert (entry.facts, entry.source, entry.checksum) == ({"vocabulary": ["é"]}, "counted", made.checksum)
    entry.verify(thoroughly=True)


def test_other_options_kinds_and_stamps_are_other_entries(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert shelf(tmp_path, cut=3).find("files") is None
    assert shelf(tmp_path).find("tfds") is None
    assert shelf(tmp_path).find("files", "2") is None
    assert make(tmp_path, cut=3).checksum != made.checksum


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    first = make(tmp_path)
    with shelf(tmp_path).locked(), shelf(tmp_path).writer() as writer:
        write(writer)
        again = shelf(tmp_path).keep(writer, kind="files", source="counted", place="/moved", stamp="2")
    assert again.folder == first.folder
    assert shelf(tmp_path).find("files", "1") is None
    assert shelf(tmp_path).find("files", "2") is not None
    assert [path.name for path in first.folder.parent.iterdir() if not path.name.startswith(".")] == [first.folder.name]


def test_nothing_half_written_is_found(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), shelf(tmp_path).locked(), shelf(tmp_path).writer() as writer:
        write(writer)
        raise RuntimeError("stopped")
    assert [path.name for path in shelf(tmp_path).folder.iterdir()] == [".lock"]
    (shelf(tmp_path).folder / "77.part").mkdir()  # of a process that was killed
    make(tmp_path)
    assert not list(shelf(tmp_path).folder.glob("*.part"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 15 bytes instead of 16"),
        (lambda path: path.write_bytes(b"x" * 16), "checksum"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_damage_is_named_with_the_folder_to_remove(tmp_path: Path, damage: Any, message: str) -> None:
    entry = make(tmp_path)
    damage(entry.folder / "train.inputs")
    with pytest.raises(UserError, match=rf"train\.inputs .*{message}(.|\n)*Remove the folder {entry.folder}"):
        entry.verify(thoroughly=False)


def test_the_checksums_of_large_entries_are_compared_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ALWAYS_VERIFIED >= 2**27
    monkeypatch.setattr("s5c.data.cache.ALWAYS_VERIFIED", 4)
    entry = make(tmp_path)
    (entry.folder / "train.inputs").write_bytes(b"x" * 16)
    entry.verify(thoroughly=False)
    with pytest.raises(UserError, match="checksum"):
        entry.verify(thoroughly=True)


def test_a_broken_manifest_is_no_entry_and_is_replaced(tmp_path: Path) -> None:
    entry = make(tmp_path)
    (entry.folder / MANIFEST).write_text("{")
    assert shelf(tmp_path).find("files") is None
    assert make(tmp_path).folder == entry.folder
    assert shelf(tmp_path).find("files") is not None


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(tmp_path: Path) -> None:
    entry = make(tmp_path)
    path, rng = entry.folder / MANIFEST, np.random.default_rng(0)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :])
        found = shelf(tmp_path).find("files")
        assert found is None or found.manifest == entry.manifest, path.read_bytes()[place - 20 : place + 20]
    assert make(tmp_path).folder == entry.folder, "prepared again, it is replaced"
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["facts"].update(vocabulary=["è"]),
        lambda manifest: manifest["arrays"]["train.inputs"].update(dtype="<u2"),
        lambda manifest: manifest.pop("arrays"),
        lambda manifest: manifest.update(sha255="", raw_sha256=""),
    ],
)
def test_a_manifest_of_before_it_had_a_checksum_is_checked_by_its_folder(change: Any, tmp_path: Path) -> None:
    path = make(tmp_path).folder / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["sha256"]
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), "utf-8")
    entry = shelf(tmp_path).find("files", "1")
    assert entry is not None and entry.manifest == manifest and entry.facts == {"vocabulary": ["é"]}
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")
    assert shelf(tmp_path).find("files") is None
    assert shelf(tmp_path).damaged() == [f"{path} is damaged; what lies beside it is not used."]


@pytest.mark.parametrize("content", ["", "[]", "null", "5", "[" * 100_000, "\ud800"])
def test_what_is_no_manifest_is_none(content: str, tmp_path: Path) -> None:
    path = make(tmp_path).folder / MANIFEST
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert shelf(tmp_path).find("files") is None and len(shelf(tmp_path).damaged()) == 1


def test_a_damaged_manifest_is_named_where_the_data_cannot_be_prepared_again(tmp_path: Path) -> None:
    raw = layouts.aclimdb(tmp_path / "raw")
    imdb(tmp_path, data_dir=str(raw))
    manifest = next((tmp_path / "cache").rglob(MANIFEST))
    manifest.write_bytes(manifest.read_bytes().replace(b'"facts"', b'"fakts"'))
    imdb(tmp_path, data_dir=str(raw))  # prepared again
    manifest.write_bytes(manifest.read_bytes().replace(b'"facts"', b'"fakts"'))
    raw.rename(tmp_path / "gone")
    with pytest.raises(UserError, match=rf"no data for task imdb(.|\n)*{manifest} is damaged"):
        imdb(tmp_path, download=False)


def test_chunks_of_different_kinds_are_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.add("x", np.zeros((2, 3), np.uint8))
    for chunk in (np.zeros((2, 4), np.uint8), np.zeros((2, 3), np.int16)):
        with pytest.raises(ValueError, match="a chunk of it"):
            writer.add("x", chunk)


# ---- the disk


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file to which nothing can be written")
@pytest.mark.parametrize("count", [3, 10**6])
def test_a_full_disk_is_said_and_nothing_is_kept(count: int, tmp_path: Path) -> None:
    def build(place: Path, writer: Writer) -> str:
        (writer.folder / "train.inputs").symlink_to("/dev/full")
        writer.add("train.inputs", np.zeros(count, np.int16))
        return "never"

    origin = Origin("generated", "numbers", build)
    message = r"The data of task numbers is not ready: No space left on device: .*\nMake room there, or choose other"
    with pytest.raises(UserError, match=message) as caught:
        Located(cache_dir=str(tmp_path)).obtain("numbers", ("numbers", 1, {}), [origin])
    assert "task.cache_dir=FOLDER" in str(caught.value)
    assert [path.name for path in shelf(tmp_path).folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file")
    with pytest.raises(UserError, match=r"task imdb is not ready: (Not a directory|File exists): .*prepared"):
        imdb(tmp_path, data_dir=str(layouts.aclimdb(tmp_path / "raw")), cache_dir=str(tmp_path))


def test_prepared_data_is_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = layouts.aclimdb(tmp_path / "raw")
    first = imdb(tmp_path, data_dir=str(raw))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert imdb(tmp_path, data_dir=str(raw)).fingerprint() == first.fingerprint()


# ---- origins


def slow_origin(marks: str, path: Path, writer: Writer) -> str:
    with Path(marks).open("a") as file:
        file.write("built\n")
    time.sleep(0.5)
    write(writer)
    return "slowly"


def obtain(root: str, marks: str) -> None:
    origin = Origin("generated", "numbers", partial(slow_origin, marks))
    Located(cache_dir=root).obtain("numbers", ("numbers", 1, {}), [origin])


def test_two_processes_prepare_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=obtain, args=(str(tmp_path), str(tmp_path / "marks"))) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "marks").read_text() == "built\n"


def imdb(folder: Path, **keys: Any) -> Any:
    return task_class("imdb")(**{"cache_dir": str(folder / "cache"), **keys}).load()


def test_changed_files_are_read_again_and_untouched_ones_are_not(tmp_path: Path) -> None:
    raw = layouts.aclimdb(tmp_path / "raw")
    first = imdb(tmp_path, data_dir=str(raw))
    manifests = list((tmp_path / "cache").rglob(MANIFEST))
    assert len(manifests) == 1
    times = manifests[0].stat().st_mtime_ns
    assert imdb(tmp_path, data_dir=str(raw)).fingerprint() == first.fingerprint()
    assert manifests[0].stat().st_mtime_ns == times
    (raw / "train" / "pos" / "0_8.txt").write_text("another review", "utf-8")
    changed = imdb(tmp_path, data_dir=str(raw))
    assert changed.fingerprint() != first.fingerprint()
    assert changed.source != first.source


def test_prepared_data_outlives_its_files(tmp_path: Path) -> None:
    raw = layouts.aclimdb(tmp_path / "raw")
    first = imdb(tmp_path, data_dir=str(raw))
    raw.rename(tmp_path / "gone")
    assert imdb(tmp_path, download=False).fingerprint() == first.fingerprint()
    with pytest.raises(UserError, match=r"task\.data_dir=.*: there is no folder and no file"):
        imdb(tmp_path, data_dir=str(raw))
    with pytest.raises(UserError, match="There is no data for task imdb"):
        imdb(tmp_path, download=False, min_freq=3)


def test_the_options_of_the_preparation_decide_what_is_reused(tmp_path: Path) -> None:
    raw = str(layouts.aclimdb(tmp_path / "raw"))
    prints = {imdb(tmp_path, data_dir=raw, **keys).fingerprint() for keys in ({}, {"min_freq": 2}, {"max_length": 99})}
    assert len(prints) == 3
    assert len(list((tmp_path / "cache").rglob(MANIFEST))) == 3
    imdb(tmp_path, data_dir=raw, width=None)  # only read differently
    assert len(list((tmp_path / "cache").rglob(MANIFEST))) == 3


def test_files_are_found_in_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5C_DATA", str(tmp_path / "data"))
    assert data_dir() == tmp_path / "data"
    layouts.idx(tmp_path / "data" / "MNIST" / "raw")
    dataset = task_class("smnist")(download=False).load()
    assert dataset.source.startswith("MNIST IDX (files ")
    manifest = json.loads(next((tmp_path / "data" / "prepared" / "mnist").rglob(MANIFEST)).read_text())
    assert manifest["place"] == str(tmp_path / "data" / "MNIST" / "raw")
    monkeypatch.delenv("S5C_DATA")
    assert data_dir() == Path.home() / ".cache" / "s5c"


@pytest.mark.parametrize(("name", "ways"), [("imdb", 4), ("smnist", 4), ("speech35", 2), ("retrieval", 2)])
def test_no_data_is_explained_on_one_screen(
    name: str, ways: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S5C_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(download, "_head", lambda url: "offline")
    with pytest.raises(UserError) as caught:
        task_class(name)().load()
    text = str(caught.value)
    assert len(text.splitlines()) <= 24
    assert f"no data for task {name}" in text and str(tmp_path) in text and "task.data_dir=" in text
    assert f"  {ways}. " in text and f"  {ways + 1}. " not in text
    downloadable = name in ("imdb", "smnist")
    assert ("cannot be reached (offline)" in text) == downloadable
    assert (f"python -m s5c.data prepare task={name}" in text) == downloadable
    assert not (tmp_path / "prepared").exists()


def test_an_address_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROBE_SECONDS", -0.8)  # 0.2 s of patience
    monkeypatch.setattr(download, "_head", lambda url: time.sleep(3))
    began = time.monotonic()
    obstacle = download.probe("http://host.invalid/x")
    assert time.monotonic() - began < 2
    assert obstacle is not None and "host.invalid cannot be reached (no answer" in obstacle


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    layouts.fsdd(tmp_path / "raw")
    with pytest.raises(UserError, match=r"does not hold the data of task imdb(.|\n)*aclImdb"):
        imdb(tmp_path, data_dir=str(tmp_path / "raw"))
    with pytest.raises(UserError, match=r"does not hold the data of task listops"):
        task_class("listops")(data_dir=str(tmp_path / "raw"), cache_dir=str(tmp_path / "cache")).load()


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.source 'file'.*Did you mean 'files'(.|\n)*auto"):
        imdb(tmp_path, source="file")
    with pytest.raises(UserError, match=r"task\.source 'generated'"):
        imdb(tmp_path, source="generated")
