"""Archives are read whole or refused: what is cut, damaged, hostile or far larger than it looks."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s5c.data.source import archive
from s5c.errors import UserError

CONTENT = np.random.default_rng(0).bytes(3000)
LONG = "a/" + "d" * 80 + "/" + "é" * 90


def member(name: str, content: bytes = b"x", **facts: object) -> Callable[[tarfile.TarFile], None]:
    def add(packed: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        for fact, value in {"size": len(content), **facts}.items():
            setattr(info, fact, value)
        packed.addfile(info, io.BytesIO(content) if info.isreg() else None)

    return add


def packed(path: Path, *members: Callable[[tarfile.TarFile], None], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Writes a tar archive, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as file:
        for add in members:
            add(file)
    return path.read_bytes()


def leaves_nothing(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {"a.tar", ".a.tar.lock"}


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, lambda content: gzip.compress(gzip.compress(content))]
)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archives_are_unpacked_however_they_are_packed(
    pack: Callable[[bytes], bytes], format: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    members = [
        member("a/x", CONTENT),
        member("a/y", b"", mode=0),
        member(LONG, b"z"),
        member("a/d", type=tarfile.DIRTYPE),
    ]
    path.write_bytes(pack(packed(path, *members, format=format)))
    folder = archive.unpack(path)
    assert [(folder / name).read_bytes() for name in ("a/x", "a/y", LONG)] == [CONTENT, b"", b"z"]
    assert (folder / "a/d").is_dir()
    assert len([found for found in folder.rglob("*") if found.is_file()]) == 3


@pytest.mark.parametrize("keep", [512, 1500, 512 + 3072, 512 + 3072 + 100, 2 * (512 + 3072), -1024])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_archives_cut_anywhere_are_refused(pack: Callable[[bytes], bytes], keep: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = packed(path, member("x", CONTENT), member("y", CONTENT))
    whole = whole[: 2 * (512 + 3072) + 1024]  # without the filling after the end
    path.write_bytes(pack(whole[:keep]))
    with pytest.raises(UserError, match=r"a\.tar cannot be unpacked"):
        archive.unpack(path)
    assert leaves_nothing(tmp_path)


def test_a_packed_archive_without_its_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(gzip.compress(packed(path, member("x", CONTENT)))[:-4])
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpack(path)


@pytest.mark.parametrize("place", [0, 3, 124, 148, 156, 257])
def test_a_damaged_header_is_not_taken_for_the_end(place: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = bytearray(packed(path, member("x", CONTENT), member("y", CONTENT)))
    whole[512 + 3072 + place] ^= 4
    path.write_bytes(whole)
    with pytest.raises(UserError, match="cannot be unpacked"):
        archive.unpack(path)
    assert leaves_nothing(tmp_path)


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (member("a/l", type=tarfile.SYMTYPE, linkname="x", size=0), "is refused: its member 'a/l' is a link"),
        (member("a/l", type=tarfile.LNKTYPE, linkname="good", size=0), "is refused: its member 'a/l' is a link"),
        (member("a/f", type=tarfile.FIFOTYPE, size=0), "is refused: its member 'a/f' is a link, a device"),
        (member("a/../../x"), "leaves the folder"),
        (member("good", type=tarfile.DIRTYPE), "cannot be unpacked"),
        (member("good/x"), "cannot be unpacked"),
        (member("a/" + "n" * 300), "cannot be unpacked"),
        (member(""), "cannot be unpacked"),
        (member("q", pax_headers={"path": "a\0b"}), "cannot be unpacked"),
    ],
)
def test_hostile_members_are_refused(hostile: Callable[[tarfile.TarFile], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    packed(path, member("good"), hostile)
    with pytest.raises(UserError, match=message):
        archive.unpack(path)
    assert leaves_nothing(tmp_path)


# ---- bombs


def bomb(path: Path, info: tarfile.TarInfo, size: int, format: int = tarfile.PAX_FORMAT) -> None:
    """Writes a packed archive whose only member is `size` bytes of nothing."""
    info.size = size
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(format))
        for _ in range(0, size, 2**24):
            file.write(bytes(2**24))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_bomb_meets_a_limit_before_memory_and_disk_do(kind: bytes, tmp_path: Path) -> None:
    path, info = tmp_path / "a.tar", tarfile.TarInfo("x")
    info.type = kind
    bomb(path, info, 2**29, tarfile.GNU_FORMAT)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"is refused at .*unpack to more than 100 times its size"):
        archive.unpack(path)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
    assert leaves_nothing(tmp_path)


def test_a_size_that_is_only_announced_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.size = 2**62
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="is refused at 'x'"):
        archive.unpack(tmp_path / "a.tar")


def test_holes_count_as_what_they_unpack_to(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"  # 8 GiB, all of it holes
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(UserError, match="is refused at 'x'"):
        archive.unpack(tmp_path / "a.tar")


def test_there_is_a_limit_to_the_number_of_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 200_000 < archive.MEMBERS < 2_000_000
    monkeypatch.setattr(archive, "MEMBERS", 3)
    packed(tmp_path / "a.tar", *(member(f"{i}") for i in range(3)))
    assert len(list(archive.unpack(tmp_path / "a.tar").iterdir())) == 3
    packed(tmp_path / "b.tar", *(member(f"{i}") for i in range(4)))
    with pytest.raises(UserError, match=r"b\.tar is refused at '3'"):
        archive.unpack(tmp_path / "b.tar")


def test_many_small_members_are_no_bomb(tmp_path: Path) -> None:
    packed(tmp_path / "a.tar", *(member(f"{i}", bytes(10_000)) for i in range(300)))
    path = tmp_path / "b.tar"
    path.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    assert path.stat().st_size * archive.RATIO < 300 * 10_000 < archive.ROOM
    assert len(list(archive.unpack(path).iterdir())) == 300


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    packed(tmp_path / "a.tar", member("x"))
    monkeypatch.setattr("s5c.data.source.archive.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        archive.unpack(tmp_path / "a.tar")
    assert leaves_nothing(tmp_path)
