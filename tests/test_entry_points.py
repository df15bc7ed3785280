"""Code and configurations of others: installed packages, `--config-dir` and `hydra.searchpath`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jobs
import pytest

from s5c import lookup, presets, searched
from s5c.data.base import names as task_names
from s5c.errors import UserError
from s5c.guide import complete
from s5c.model.config import families, load_family
from s5c.pipeline import question
from s5c.reduction import contract

EXAMPLE = Path(__file__).parent / "example_package"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what the installation of the example leaves there, as far as it is read here."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "s5c_example").symlink_to(EXAMPLE / "s5c_example")
    declared(place, "s5c_example", methods="gain", tasks="chirps", families="damped")
    monkeypatch.syspath_prepend(place)
    yield place
    for name in [name for name in sys.modules if name.partition(".")[0] == "s5c_example"]:
        del sys.modules[name]


def declared(place: Path, package: str, **points: str) -> None:
    """Writes what `pip install` writes of a package's entry points, NAME or NAME=MODULE."""
    facts = place / f"{package}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = (
        f"[s5c.{group}]\n{n.partition('=')[0]} = {n.partition('=')[2] or f'{package}.{n}'}"
        for group, n in points.items()
    )
    (facts / "entry_points.txt").write_text("\n".join(lines))


# ---- installed packages


def test_what_a_package_declares_is_a_choice_like_any_other(site: Path) -> None:
    assert "gain" in contract.method_names() and "chirps" in task_names() and "damped" in families()
    assert not {"s5c_example", "s5c_example.gain"} & set(sys.modules), "names are told without an import"
    assert type(contract.load_method("gain", {"power": 2.0})).__module__ == "s5c_example.gain"
    assert load_family("damped").Config(n_layers=1, d_model=2, state_size=4).family == "damped"
    assert presets.read("gain")["allocation"] == "global"
    composed = jobs.compose("train", "+experiment=chirps_damped")
    assert (composed["task"]["name"], composed["model"]["fastest"], composed["reduction"]["power"]) == (
        "chirps",
        8.0,
        1.0,
    )
    assert complete(["reduce", "reduction=ga"]) == ["reduction=gain"]


def test_results_depend_on_its_code(site: Path) -> None:
    assert EXAMPLE / "s5c_example" / "gain.py" in {path.resolve() for path in lookup.sources()}
    question.code.cache_clear()
    before = question.code()
    sys.path.remove(str(site))
    question.code.cache_clear()
    assert question.code() != before
    question.code.cache_clear()


def test_without_it_nothing_is_left(tmp_path: Path) -> None:
    assert "gain" not in contract.method_names() and "damped" not in families()
    with pytest.raises(UserError, match="Unknown reduction method 'gain'"):
        contract.load_method("gain")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("hinf=other.mine", "'hinf' is there twice"),
        ("mine=other.mine", r"The reduction method 'mine' cannot be imported: ZeroDivisionError.*mine.py, line 1"),
        ("mine=other.gone", r"cannot be imported: ModuleNotFoundError: No module named 'other.gone'"),
        ("mine=gone.too", r"cannot be imported: ModuleNotFoundError: No module named 'gone'"),
        ("mine=other", r"The reduction method 'mine' lacks Method: .*other/__init__.py"),
    ],
)
def test_a_package_with_a_mistake(point: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/__init__.py").write_text("")
    (tmp_path / "other/mine.py").write_text("1 / 0\n")
    declared(tmp_path, "other", methods=point)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        contract.load_method(point.partition("=")[0])
    sys.modules.pop("other", None)


def test_two_packages_with_one_name(site: Path, tmp_path: Path) -> None:
    (site / "other.py").write_text("")
    declared(site, "other", methods="gain=other")
    with pytest.raises(UserError, match=r"'gain' is there twice: .*other.py and .*gain.py"):
        contract.load_method("gain")


@pytest.mark.slow
def test_a_package_is_installed_and_used(tmp_path: Path) -> None:
    """As a person does it: pip, train, reduce, from an empty folder."""
    site, home = tmp_path / "site", tmp_path / "home"
    home.mkdir()
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    subprocess.run([sys.executable, *install, str(EXAMPLE)], check=True, cwd=home)
    paths = os.pathsep.join([str(site), str(Path(lookup.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "S5C_PLUGINS": "", "S5C_RESULTS": ""}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=home, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    overview = run("s5c")
    assert "chirps" in overview and "damped" in overview and "gain" in overview
    assert "0: the first step alone" in run("s5c.reduce", "reduction=gain", "--help")
    trained = run("s5c.train", "+experiment=chirps_damped", "wandb=disabled")
    assert "gain" in trained and "chirps" in trained
    (checkpoint,) = (home / "results/trained").iterdir()
    assert checkpoint.name.startswith("chirps-damped-")
    asked = [f"checkpoint={checkpoint}", "reduction=gain", "reduction.power=0", "reduction.ratio=0.25"]
    reduced = run("s5c.reduce", *asked, "evaluation.latency=false", "wandb=disabled")
    assert "0.25" in reduced and "power=0" in reduced
    code = "import s5c, sys; m = s5c.load(sys.argv[1]); print(s5c.reduce(m, 'gain', ratio=0.5).states, m.states)"
    out = subprocess.run([sys.executable, "-c", code, str(checkpoint)], cwd=home, env=environment, capture_output=True)
    left, before = map(int, out.stdout.split())
    assert left < before == 64, out.stderr.decode()


# ---- folders of a command line


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A folder with an experiment and a preset."""
    folder = tmp_path / "my conf"
    for group in ("experiment", "reduction"):
        (folder / group).mkdir(parents=True)
    (folder / "experiment/mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - digits_s5\n  - override /reduction: mild\nname: mine\n"
    )
    (folder / "reduction/mild.yaml").write_text(
        "# A quarter of the states.\ndefaults:\n  - bt\n  - _self_\nname: mild\nratio: 0.25      # my own share\n"
    )
    yield folder
    searched.add([])


SPELLED = pytest.mark.parametrize(
    "spelled",
    [("--config-dir", "my conf"), ("--config-dir=my conf",), ("-cd", "{}"), ("hydra.searchpath=['file://{}']",),
     ("hydra.searchpath=[my conf]",)],
    ids=["flag", "flag=", "short", "searchpath", "relative"],
)  # fmt: skip


@SPELLED
def test_own_folders_are_known_to_commands_messages_help_and_the_tab_key(
    spelled: tuple[str, ...],
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tuple(word.format(own) for word in spelled)
    done = jobs.run("train", *words, "+experiment=mine", "--cfg", "job", folder=tmp_path)
    assert done.code == 0 and "name: mild" in done.out and "ratio: 0.25" in done.out, done.err
    done = jobs.run("train", *words, "+experiment=min", folder=tmp_path)
    assert done.code == 1 and "Unknown experiment 'min'. Did you mean 'mine'?" in done.err
    done = jobs.run("reduce", *words, "checkpoint=x", "reduction=mild", "reduction.scoer=1", folder=tmp_path)
    assert (
        done.code == 1 and "Keys of reduction, nearest first" in done.err and "score, " not in done.err.split("\n")[0]
    )
    assert complete(["reduce", *words, "reduction=mil"]) == ["reduction=mild"]
    monkeypatch.setattr(sys, "argv", ["s5c", *words, "reduction=mild", "--help"])
    from s5c.guide import answer

    with pytest.raises(SystemExit):
        answer("reduce")
    assert "my own share" in capsys.readouterr().out


def test_own_folders_are_those_of_the_last_command_line(own: Path, tmp_path: Path) -> None:
    searched.add([f"--config-dir={own}"])
    assert "mild" in presets.names()
    searched.add([])
    assert "mild" not in presets.names()


def test_the_overview_names_what_lies_in_own_folders(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from s5c.__main__ import main

    monkeypatch.setattr(sys, "argv", ["s5c", f"--config-dir={own}"])
    main()
    assert "mild" in capsys.readouterr().out


def test_a_folder_that_is_none_and_a_name_of_s5c_s(own: Path, tmp_path: Path) -> None:
    done = jobs.run("train", "--config-dir=typo", folder=tmp_path)
    assert done.code == 1 and "--config-dir=typo: typo is no folder" in done.err
    (own / "reduction/last.yaml").write_text("name: last\n")
    done = jobs.run("train", f"--config-dir={own}", folder=tmp_path)
    assert done.code == 1 and "'last' is there twice" in done.err and str(own) in done.err.replace("\n", "")
