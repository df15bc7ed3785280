"""Readers of texts and lists take what spreadsheets, scripts and operating systems add, and name what they refuse."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from s5c.data.base import Dataset, task_class
from s5c.data.source import tsv
from s5c.data.source.folder import is_clutter
from s5c.errors import UserError


def load(name: str, folder: Path, **keys: Any) -> Dataset:
    place = {"data_dir": str(folder / "raw"), "cache_dir": str(folder / "cache"), "download": False}
    return task_class(name)(**place, **keys).load()


def rewrite(folder: Path, pattern: str, change: Callable[[bytes], bytes]) -> None:
    for path in folder.rglob(pattern):
        path.write_bytes(change(path.read_bytes()))


# ---- ListOps and AAN

ADDED: dict[str, Callable[[bytes], bytes]] = {
    "byte-order mark": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "UTF-16, big-endian": lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "no newline at the end": bytes.strip,
    "blank last line": lambda content: content + b"\n",
    "blank last line, CRLF": lambda content: (content + b"\n").replace(b"\n", b"\r\n"),
    "blanks in the last line": lambda content: content + b"  \t \n",
    "blank lines everywhere": lambda content: content.replace(b"\n", b"\n\n"),
}
HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "lower-case header": lambda content: content.replace(b"Source\tTarget", b"source\ttarget"),
    "upper-case header": lambda content: content.replace(b"Source\tTarget", b"SOURCE\tTARGET"),
    "blanks in the header": lambda content: content.replace(b"Source\tTarget", b" Source \t Target "),
    "no header": lambda content: content.removeprefix(b"Source\tTarget\n"),
    "labels as numbers with a point": lambda content: content[:14] + content[14:].replace(b"\n", b".0\n"),
}
PAIRS: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda content: b"label\tinput1_id\tinput2_id\ttext1\ttext2\n" + content,
    "header in capitals": lambda content: b"Label\tID1\tID2\tText1\tText2\n" + content,
    "header, byte-order mark": lambda content: b"\xef\xbb\xbflabel\tid_1\tid_2\ttext 1\ttext 2\n" + content,
}


@pytest.mark.parametrize("name", [*ADDED, *HEADERS])
def test_listops_is_the_same_whatever_wrote_it(name: str, tmp_path: Path) -> None:
    layouts.listops(tmp_path / "raw")
    layouts.listops(tmp_path / "changed" / "raw")
    rewrite(tmp_path / "changed", "*.tsv", {**ADDED, **HEADERS}[name])
    assert load("listops", tmp_path / "changed").fingerprint() == load("listops", tmp_path).fingerprint()


@pytest.mark.parametrize("name", [*ADDED, *PAIRS])
def test_pairs_are_the_same_whatever_wrote_them(name: str, tmp_path: Path) -> None:
    layouts.aan(tmp_path / "raw")
    layouts.aan(tmp_path / "changed" / "raw")
    rewrite(tmp_path / "changed", "*.tsv", {**ADDED, **PAIRS}[name])
    assert load("retrieval", tmp_path / "changed").fingerprint() == load("retrieval", tmp_path).fingerprint()


def test_files_are_found_in_any_case_and_read_again_when_they_change(tmp_path: Path) -> None:
    folder = layouts.listops(tmp_path / "raw")
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.upper()))
    before = load("listops", tmp_path).fingerprint()
    path = folder / "BASIC_TRAIN.TSV"
    path.write_bytes(path.read_bytes().rsplit(b"\n", 2)[0])
    assert load("listops", tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"7\t\xc2\xb2", r"basic_train\.tsv, line 62: .*'²'"),
        (b"7\t\xd9\xa3", r"line 62: .*'٣'"),
        (b"7\t" + b"9" * 5000, r"line 62: .*'99999999999999999999\.\.\.'"),
        (b"7,7", r"line 62: .* 1 columns"),
        (b"\t7", "is not one ListOps expression"),
        (b"Source\tTarget", r"line 62: .*\['Source', 'Target'\]"),
    ],
)
def test_other_lines_are_named(line: bytes, message: str, tmp_path: Path) -> None:
    folder = layouts.listops(tmp_path / "raw")
    path = folder / "basic_train.tsv"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=message):
        load("listops", tmp_path)


def test_an_open_quote_meets_a_limit_before_memory_does(tmp_path: Path) -> None:
    path = layouts.aan(tmp_path / "raw") / "new_aan_pairs.eval.tsv"
    path.write_bytes(path.read_bytes() + b'1\tP\tQ\t"' + b"word " * (tsv.FIELD // 4) + b"\n")
    with pytest.raises(UserError, match=r"eval\.tsv, after line 4: field larger than field limit.*damaged"):
        load("retrieval", tmp_path)


@pytest.mark.parametrize(
    "header", [b"label\ttext1\ttext2\tid1\tid2\n", b"id1\tid2\tlabel\ttext1\ttext2\n", b"abc\t1\t2\tA text.\tOther.\n"]
)
def test_columns_in_another_order_are_refused(header: bytes, tmp_path: Path) -> None:
    layouts.aan(tmp_path / "raw")
    rewrite(tmp_path / "raw", "*.train.tsv", lambda content: header + content)
    with pytest.raises(UserError, match=r"new_aan_pairs\.train\.tsv, line 1: expected five columns \(label 0 or 1"):
        load("retrieval", tmp_path)


# ---- reviews

SYSTEM = (
    *(".DS_Store", "._0_8.txt", ".directory", ".nfs0001", ".gitkeep", "Thumbs.db", "THUMBS.DB", "ehthumbs.db"),
    *("desktop.ini", "Icon\r", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "0_8.txt~"),
)


def test_what_systems_leave_in_folders_is_known() -> None:
    assert [name for name in SYSTEM if not is_clutter(name)] == []
    assert not any(map(is_clutter, ("0_8.txt", "train-images-idx3-ubyte", "icon", "macosx")))


def test_what_systems_leave_in_folders_changes_nothing(tmp_path: Path) -> None:
    place = layouts.aclimdb(tmp_path / "raw")
    before = load("imdb", tmp_path, min_freq=1).fingerprint()
    for folder in (place, place / "train", place / "train" / "pos", place / "test" / "neg"):
        for name in SYSTEM:
            if name in ("__MACOSX", "@eaDir"):
                (folder / name).mkdir()
                (folder / name / "x").write_bytes(b"x")
            else:
                (folder / name).write_bytes(b"\xff")
    assert load("imdb", tmp_path, min_freq=1).fingerprint() == before
    manifests = list((tmp_path / "cache").rglob("manifest.json"))
    assert len(manifests) == 1 and load("imdb", tmp_path, min_freq=2).fingerprint() != before


def test_what_does_not_belong_there_is_named_at_once(tmp_path: Path) -> None:
    place = layouts.aclimdb(tmp_path / "raw")
    names = ["train/neg/b.txt", "train/pos/a.txt", "test/neg/3_2 (1).txt", "test/pos/readme.md"]
    for name in names:
        (place / name).write_bytes(b"x")
    (place / "test/pos/9_9.txt").mkdir()
    with pytest.raises(UserError) as caught:
        load("imdb", tmp_path)
    assert [name for name in (*names, "test/pos/9_9.txt") if str(place / name) not in str(caught.value)] == []


def test_all_reviews_that_are_no_text_are_named_at_once(tmp_path: Path) -> None:
    place = layouts.aclimdb(tmp_path / "raw")
    for name in ("train/neg/3_3.txt", "test/pos/2_8.txt"):
        (place / name).write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"train/neg/3_3\.txt, .*test/pos/2_8\.txt are not UTF-8 text"):
        load("imdb", tmp_path)


@pytest.mark.parametrize("parent", ["aclImdb_v1", "IMDB"])
def test_the_folders_of_other_tools_are_found(parent: str, tmp_path: Path) -> None:
    layouts.aclimdb(tmp_path / "raw" / parent)
    assert len(load("imdb", tmp_path).train) == 12


def test_a_refusal_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("IMDB Dataset.csv", ".DS_Store"):
        (tmp_path / "raw" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"does not hold the data of task imdb: it holds IMDB Dataset\.csv\."):
        load("imdb", tmp_path)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    place = layouts.aclimdb(tmp_path / "raw")
    Path(os.fsdecode(os.fsencode(place / "train" / "neg") + b"/\xff.txt")).write_bytes(b"x")
    with pytest.raises(UserError, match="is no review"):
        load("imdb", tmp_path)


def test_a_folder_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    raw = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    layouts.aclimdb(raw)
    task = task_class("imdb")(data_dir=str(raw), cache_dir=str(tmp_path / "cache"), min_freq=1)
    assert task.load().fingerprint() == task.load().fingerprint()
    assert len(list((tmp_path / "cache").rglob("manifest.json"))) == 1


def test_an_unreadable_review_is_a_message(tmp_path: Path) -> None:
    place = layouts.aclimdb(tmp_path / "raw")
    (place / "train/neg/9_3.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No such file or directory: .*9_3\.txt\.\nMake it readable"):
        load("imdb", tmp_path)


def test_lists_of_films_are_read_whatever_wrote_them(tmp_path: Path) -> None:
    layouts.films(tmp_path / "raw")
    layouts.films(tmp_path / "changed" / "raw")
    rewrite(tmp_path / "changed", "urls_*.txt", lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    files, changed = load("same_movie", tmp_path), load("same_movie", tmp_path / "changed")
    np.testing.assert_array_equal(files.train.read(np.arange(9)), changed.train.read(np.arange(9)))


# ---- lists of clips and images

LISTED: dict[str, Callable[[bytes], bytes]] = {
    **{name: ADDED[name] for name in ("byte-order mark", "CRLF", "no newline at the end", "blank lines everywhere")},
    "paths of Windows": lambda content: content.replace(b"/", b"\\"),
}


@pytest.mark.parametrize("name", LISTED)
def test_lists_of_clips_are_read_whatever_wrote_them(name: str, tmp_path: Path) -> None:
    folder = layouts.speech(tmp_path / "raw")
    rewrite(folder, "*_list.txt", LISTED[name])
    for clutter in ("._0_nohash_0.wav", ".DS_Store"):
        (folder / "bed" / clutter).write_bytes(b"x")
    dataset = load("speech35", tmp_path)
    assert [len(split) for split in dataset.splits.values()] == [105, 35, 35]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff", r"line 36: there is no clip"),
        (b"extra/a.wav", r"line 36: there is no clip .*extra/a\.wav"),
        (b"../a.wav", r"line 36: there is no clip"),
    ],
)
def test_other_lines_in_a_list_of_clips_are_named(line: bytes, message: str, tmp_path: Path) -> None:
    folder = layouts.speech(tmp_path / "raw")
    (folder / "extra").mkdir()
    layouts.clip(folder / "extra" / "a.wav", np.ones(9), 16_000)
    layouts.clip(folder.parent / "a.wav", np.ones(9), 16_000)
    path = folder / "testing_list.txt"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=rf"testing_list\.txt, {message}"):
        load("speech35", tmp_path)


@pytest.mark.parametrize("name", ["byte-order mark", "CRLF", "no newline at the end", "blank lines everywhere"])
def test_lists_of_images_are_read_whatever_wrote_them(name: str, tmp_path: Path) -> None:
    layouts.pathfinder(tmp_path / "raw", 32)
    before = load("pathfinder", tmp_path).fingerprint()
    rewrite(tmp_path / "raw", "*.npy", ADDED[name])
    for path in ("metadata/._0.npy", "metadata/.DS_Store", "imgs/0/._sample_0.png"):
        (tmp_path / "raw/pathfinder32/curv_contour_length_14" / path).write_bytes(b"x")
    assert load("pathfinder", tmp_path).fingerprint() == before


def png(side: int) -> bytes:
    """Returns a black picture of `side` x `side` pixels, a thousandth of their size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer, rows = zlib.compressobj(9), bytes(1 + side // 8)
    pixels = b"".join(packer.compress(rows) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "message"), [(8000, "is 8000 x 8000 pixels, not 32 x 32"), (20000, "cannot be read")])
def test_a_picture_is_not_unpacked_before_its_size_is_known(side: int, message: str, tmp_path: Path) -> None:
    layouts.pathfinder(tmp_path / "raw", 32)
    path = tmp_path / "raw/pathfinder32/curv_contour_length_14/imgs/0/sample_0.png"
    path.write_bytes(png(side))
    with pytest.raises(UserError, match=rf"sample_0\.png .*{message}"):
        load("pathfinder", tmp_path)
