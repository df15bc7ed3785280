"""The Long Range Arena's release, packed or not: each task takes its own part of it and leaves the rest alone."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import layouts
import pytest

from s5c.data.base import Dataset, task_class
from s5c.data.source import archive
from s5c.errors import UserError

PARTS = {
    "listops": "listops-1000",
    "retrieval": "tsv_data",
    "pathfinder": "pathfinder32-curv_contour_length_14",
    "pathx": "pathfinder128-curv_contour_length_14",
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lra_release`, and with the archive, as it is downloaded."""
    folder = tmp_path_factory.mktemp("lra")
    inside = folder / "lra_release" / "lra_release"
    for write in (layouts.listops, layouts.aan):
        write(inside)
    for size in (32, 128):
        layouts.pathfinder(inside, size)
    other = inside / "pathfinder32" / "curv_baseline" / "metadata"
    other.mkdir(parents=True)
    (other / "0.npy").write_text("imgs/0 none.png 0 7\n")  # would be refused
    with tarfile.open(folder / "lra_release.gz", "w:gz") as packed:
        packed.add(folder / "lra_release", "lra_release")
        link = tarfile.TarInfo("lra_release/lra_release/elsewhere")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
    return folder


def load(task: str, place: Path, cache: Path) -> Dataset:
    return task_class(task)(data_dir=str(place), cache_dir=str(cache), source="files", download=False).load()


@pytest.mark.parametrize("task", PARTS)
def test_a_task_takes_its_part_of_the_archive_or_of_the_folder(task: str, release: Path, tmp_path: Path) -> None:
    inside = release / "lra_release" / "lra_release"
    expected = load(task, inside, tmp_path / "a")
    assert "generated" not in expected.source and len(expected.train) > 0
    places = [release / "lra_release", release / "lra_release.gz", inside / PARTS[task].partition("-curv")[0]]
    for number, place in enumerate(places):
        assert load(task, place, tmp_path / f"b{number}").fingerprint() == expected.fingerprint(), place
    unpacked = release / f"lra_release.gz.{PARTS[task]}.unpacked"
    files = [path for path in unpacked.rglob("*") if path.is_file()]
    assert files and all(PARTS[task].replace("-curv", "/curv") in str(path) for path in files)


def test_the_archive_may_lie_in_the_data_directory_under_any_of_its_names(release: Path, tmp_path: Path) -> None:
    for name in ("lra_release.tar.gz", "mine.tgz"):
        place = tmp_path / name
        place.write_bytes((release / "lra_release.gz").read_bytes())
        given = place if name == "mine.tgz" else tmp_path
        assert load("listops", given, tmp_path / f"cache {name}").source.startswith("LRA listops")


def test_a_release_without_the_part_and_a_file_that_is_no_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "lra_release.gz", "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("lra_release/lra_release/listops-1000/README"), io.BytesIO())
    for task, words in {"retrieval": "tsv_data", "listops": "listops-1000", "pathx": "pathfinder128"}.items():
        with pytest.raises(
            UserError, match=f"does not hold the data of task {task}(.|\n)*{words}(.|\n)*lra_release.gz"
        ):
            load(task, tmp_path, tmp_path / "cache")
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"notes.txt cannot be unpacked"):
        load("listops", tmp_path / "notes.txt", tmp_path / "cache")


def test_what_is_passed_over_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "lra_release.gz", "w:gz") as packed:
        for number in range(9):
            packed.addfile(tarfile.TarInfo(f"other/{number}"), io.BytesIO())
    monkeypatch.setattr(archive, "MEMBERS", 3)
    assert not list(archive.unpack(tmp_path / "lra_release.gz", "tsv_data").iterdir())
    monkeypatch.setattr(archive, "PASSED", 5)
    with pytest.raises(UserError, match="is refused at 'other/5'"):
        archive.unpack(tmp_path / "lra_release.gz", "listops-1000")


@pytest.mark.slow
def test_prepare_reads_the_archive(release: Path, tmp_path: Path) -> None:
    place = [f"task.data_dir={release / 'lra_release.gz'}", f"task.cache_dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "s5c.data", "prepare", "task=listops", *place]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "LRA listops" in done.stdout and "10 classes" in done.stdout, done.stderr
