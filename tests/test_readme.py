"""The commands of README.md and of the pages in docs/, run as they stand there, on a tiny network."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import jobs
import layouts
import numpy as np
import own_data
import pytest

from s5c.studies import __main__ as queue

REPOSITORY = Path(__file__).resolve().parents[1]
MAKEFILE = REPOSITORY / "Makefile"


def pages(root: Path) -> list[Path]:
    """Returns README.md and the pages in docs/, at any depth."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def commands(root: Path = REPOSITORY) -> list[list[str]]:
    """Returns every command of the sh blocks once, split into words, in order of the pages."""
    blocks = [block for page in pages(root) for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [list(words) for words in dict.fromkeys(map(tuple, found)) if words]


def test_commands_of_all_pages_are_found(tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text("```sh\nmake x  # y\n# only a comment\n```\n```python\nimport s5c\n```\n")
    (tmp_path / "docs" / "deep" / "page.md").write_text("a\n```sh\nmake x\npython -m s5c.train 'a=[1,2]'\n```\n")
    assert commands(tmp_path) == [["make", "x"], ["python", "-m", "s5c.train", "a=[1,2]"]]


def test_links_lead_to_files() -> None:
    for page in (*pages(REPOSITORY), REPOSITORY / "results/README.md", REPOSITORY / "CONTRIBUTING.md"):
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = link.partition("#")
            if "://" in link:
                continue
            target = (page.parent / place).resolve() if place else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor and target.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link


def test_make_targets_exist() -> None:
    targets = [words[1] for words in commands() if words[0] == "make"]
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", MAKEFILE.read_text(), re.MULTILINE) for target in targets)


def test_every_other_command_is_a_module_of_s5c() -> None:
    others = [words for words in commands() if words[0] != "make"]
    assert others and all(words[:2] == ["python", "-m"] and f"{words[2]}.".startswith("s5c.") for words in others)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


COMPILING = (
    *("+experiment=imdb_last", "reduction=calibrated", "refit=", "readout=", "norm=", "finetune.", "tolerance="),
    *("mask_padding", "reduction.params=", "reduction.order=", "reduction.ratio=["),  # much the same as the first ones
    *("s5c.train task=arrays", "reduction=width", "deploy=true", "s5c.data prepare"),
)


def cases() -> list[object]:
    """Returns the commands of s5c; sweeps, dozens of networks each, and what compiles for long are slow tests."""
    found = [words for words in commands() if words[0] == "python"]

    def marks(words: list[str]) -> list[pytest.MarkDecorator]:
        slow = "-m" in words[3:] or any(part in " ".join(words) for part in COMPILING)
        return [pytest.mark.slow] if slow else []

    return [pytest.param(words, marks=marks(words), id=" ".join(words)) for words in found]


@pytest.mark.xdist_group("pages")
@pytest.mark.parametrize("words", cases())
def test_command_runs(words: list[str], folder: Path) -> None:
    """In the order of the pages and in one folder: later commands find what earlier ones left there."""
    if words[2] == "s5c":
        done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0 and "python -m s5c.train" in done.stdout, done.stderr
        return
    if "deploy=true" in words:
        folder = folder / "deploy"  # of two networks, not of all that the commands before have made
        folder.mkdir()
        of_eight_bits = "reduction=last", "reduction.ratio=0.5", "reduction.bits=8"
        assert jobs.run("reduce", "checkpoint=zoo:digits_s5", *of_eight_bits, folder=folder).code == 0
    if words[2] == "s5c.studies":
        with contextlib.chdir(folder):
            assert queue.main(words[3:]) == 0
        return
    if "imdb" in " ".join(words):
        on_a_few_reviews(words, folder)
        return
    if "task=listops" in words:
        on_a_release(words, folder)
        return
    if "inputs=X.npz" in words:
        np.savez(folder / "X.npz", inputs=np.zeros((3, 64)))
    if "--config-dir=my_conf" in words:
        (folder / "my_conf/experiment").mkdir(parents=True)
        own = "# @package _global_\ndefaults: [digits_s5, override /reduction: last]\nname: mine\n"
        (folder / "my_conf/experiment/mine.yaml").write_text(own)
    if "task=arrays" in words:
        on_own_sequences(words, folder)
        return
    if "<" in words:
        on_a_stream(words, folder)
        return
    if any("PATH" in word for word in words):
        if not list(folder.glob("results/trained/*")):  # the command that trains was not asked for
            assert jobs.run("train", "+experiment=digits_last", folder=folder).code == 0
        trained = jobs.only(folder, "results/trained/*")
        words = [word.replace("PATH", str(trained)) for word in words]
    if "runs=results/digits_last" in words and not (folder / "results/digits_last").exists():
        assert jobs.run("train", "+experiment=digits_last", folder=folder).code == 0
    done = jobs.run(words[2].removeprefix("s5c."), *words[3:], folder=folder)
    assert done.code == 0, done.err


def on_a_stream(words: list[str], folder: Path) -> None:
    """Runs a command whose samples come from standard input."""
    samples = "\n".join(map(str, np.linspace(0, 1, 40))).encode()
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(samples))):
        done = jobs.run(words[2].removeprefix("s5c."), *words[3 : words.index("<")], folder=folder)
    assert done.code == 0 and done.out.startswith("16\t"), done.err


def on_a_release(words: list[str], folder: Path) -> None:
    """Prepares a hand-made archive of the Long Range Arena, as a process: `prepare` is a word of its own."""
    layouts.listops(folder / "lra/lra_release/lra_release")
    with tarfile.open(folder / "lra_release.gz", "w:gz") as packed:
        packed.add(folder / "lra", "")
    arguments = [word.replace("PATH", str(folder)) for word in (*words[2:], f"task.cache_dir={folder / 'cache'}")]
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "LRA listops" in done.stdout, done.stderr


def on_own_sequences(words: list[str], folder: Path) -> None:
    """Runs a command on sequences of its own, as a process, away from what the other commands leave."""
    place = folder / ("numbers" if "task.answers=values" in words else "own")
    if not place.exists():
        place.mkdir()
        values, labels = own_data.sequences(40)
        inputs, lengths = own_data.padded(values)
        y = inputs[:, 0, 0] if place.name == "numbers" else np.array(labels)
        np.savez(place / "data.npz", inputs=inputs, lengths=lengths, y=y)
    entry, arguments = words[2], [word.replace("PATH", str(place)) for word in words[3:]]
    if entry == "s5c.train":
        arguments = jobs.merged((*jobs.TINY, "train.batch_size=5"), tuple(arguments))
    environment = {**os.environ, "S5C_DATA": str(folder / "cache"), "S5C_RESULTS": str(folder / "of_own")}
    done = subprocess.run(
        [sys.executable, "-m", entry, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def on_a_few_reviews(words: list[str], folder: Path) -> None:
    """Runs a command on a hand-made aclImdb, as a process: its training is no business of the other commands."""
    place = folder / "reviews"
    if not place.exists():
        layouts.aclimdb(place)
    few = ("task.max_length=32", "task.min_freq=1", "train.batch_size=5", "reduction.ratio=0.5")
    entry, arguments = words[2], [word.replace("PATH", str(place)) for word in words[3:]]
    if entry == "s5c.train":
        arguments = jobs.merged((*jobs.TINY, *few), tuple(arguments))
    environment = {**os.environ, "S5C_DATA": str(place), "S5C_RESULTS": str(folder / "of_reviews")}
    done = subprocess.run(
        [sys.executable, "-m", entry, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
