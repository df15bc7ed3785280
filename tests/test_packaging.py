"""What pip installs is complete, and `make` says what is missing."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from packaging.requirements import Requirement

import s5c
from s5c import locations

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]


def files_below(folder: Path) -> set[str]:
    """Returns the relative names of all files but bytecode."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_package_and_the_configuration(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    conf = {f"s5c/conf/{name}" for name in files_below(REPOSITORY / "conf")}
    zoo = {f"s5c/zoo/{name}" for name in files_below(REPOSITORY / "results/zoo")}
    assert packed == {f"s5c/{name}" for name in files_below(REPOSITORY / "s5c")} | conf | zoo
    assert any(name.endswith(".yaml") for name in conf)
    assert any(re.fullmatch(r"s5c/data/.*\.npz", name) for name in packed)
    assert "s5c/py.typed" in packed
    assert sum(one.compress_size for one in wheel.infolist()) < 4e6, "larger models are for another package"


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    assert f"\nVersion: {s5c.__version__}\n" in metadata
    assert "version" in PROJECT["dynamic"], "s5c/__init__.py is the only place of the version"
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert wheel.read(name.replace("METADATA", "licenses/LICENSE")) == (REPOSITORY / "LICENSE").read_bytes()


def test_wheel_finds_its_configuration_from_another_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    wheel.extractall(site)
    elsewhere.mkdir()
    (site / "conf").mkdir()  # somebody else's
    code = "import s5c, s5c.locations as l; print(s5c.__version__, l.conf_dir(), l.results_dir(), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(site), "S5C_RESULTS": ""}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
    )
    assert shown.stdout.splitlines() == [s5c.__version__, str(site / "s5c/conf"), str(elsewhere / "results")]


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Overview, zoo, presets, the demo's commands, the page of a report, answers: all but what needs a checkout."""
    site, home = tmp_path / "site", tmp_path / "home"
    wheel.extractall(site)
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "S5C_RESULTS": "", "S5C_PLUGINS": "", "S5C_ZOO": ""}

    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    overview = run("s5c")
    assert "zoo:digits_s5" in overview and "digits_last" in overview
    assert str(site / "s5c/zoo") in run("s5c.reduce", "checkpoint=zoo:digits", code=1)
    quick = ["evaluation.latency=false", "wandb=disabled"]
    assert "98.3" in run("s5c.reduce", "checkpoint=zoo:digits_s5", "reduction=last", "reduction.ratio=0.5", *quick)
    tiny = ["model.n_layers=1", "model.d_model=4", "model.state_size=8", "model.blocks=1", "train.epochs=1"]
    assert "0.6" in run("s5c.train", "+experiment=digits_last", "reduction.ratio=[0.3,0.6]", *tiny, *quick)
    run("s5c.report", "runs=results/digits_last", "html=true")
    assert "<script" in (home / "results/digits_last/report/report.html").read_text("utf-8")
    np.save(home / "x.npy", np.zeros((2, 64), np.float32))
    run("s5c.predict", "checkpoint=zoo:digits_s5", "inputs=x.npy", "out=y.npz")
    assert np.load(home / "y.npz")["log_probs"].shape == (2, 10)
    assert "in a checkout" in run("s5c.report", "published=true", code=1)
    assert {path.name for path in home.iterdir()} == {"results", "x.npy", "y.npz"}


OF_A_CHECKOUT = re.compile(r"\bmake [a-z]+`|\bscripts/|results/README|CONTRIBUTING|\bdocs/|\btests/")


def said(source: str) -> list[str]:
    """Returns the texts of a module that are no docstrings."""
    tree = ast.parse(source)
    scopes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    alone = (child.value for scope in scopes for child in scope.body if isinstance(child, ast.Expr))
    docstrings = {id(value) for value in alone if isinstance(value, ast.Constant)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [node.value for node in texts if id(node) not in docstrings]


def test_no_message_and_no_help_names_what_a_wheel_lacks() -> None:
    for_checkouts = {"published.py", "templates.py"}  # of the pages of a checkout, which say so first
    texts = [
        (path.name, text)
        for path in (REPOSITORY / "s5c").rglob("*.py")
        if path.name not in for_checkouts
        for text in said(path.read_text("utf-8"))
    ]
    texts += [(path.name, path.read_text("utf-8")) for path in (REPOSITORY / "conf").rglob("*.yaml")]
    assert [(name, found[0]) for name, text in texts if (found := OF_A_CHECKOUT.search(text))] == []
    assert OF_A_CHECKOUT.search(said('"""See docs/x."""\nraise E("see CONTRIBUTING.md")')[0])


def locations_at(package: Path) -> ModuleType:
    """Returns s5c.locations as if s5c were installed as `package`."""
    package.mkdir(parents=True)
    copy = shutil.copy(Path(locations.__file__), package)
    spec = importlib.util.spec_from_file_location("locations_elsewhere", copy)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_checkout_finds_its_configuration(tmp_path: Path) -> None:
    assert locations.conf_dir() == REPOSITORY / "conf"
    (tmp_path / "conf").mkdir()
    assert locations_at(tmp_path / "s5c").conf_dir() == tmp_path / "conf"


def test_missing_configuration_is_explained(tmp_path: Path) -> None:
    module = locations_at(tmp_path / "s5c")
    with pytest.raises(module.UserError, match="configuration files") as caught:
        module.conf_dir()
    assert str(tmp_path / "s5c" / "conf") in str(caught.value)


def test_results_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S5C_RESULTS", "here/runs")
    assert locations.results_dir() == tmp_path / "here/runs"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("S5C_RESULTS", "~/runs")
    assert locations.results_dir() == tmp_path / "runs"
    monkeypatch.delenv("S5C_RESULTS")
    assert locations.results_dir() == tmp_path / "results"


def test_constraints_pin_each_direct_dependency_for_python_3_11_only() -> None:
    lines = (REPOSITORY / ".ci/constraints.txt").read_text("utf-8").splitlines()
    pins = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        assert requirement.marker is not None, f"{requirement} would bind every Python"
        assert requirement.marker.evaluate({"python_version": "3.11"})
        assert not requirement.marker.evaluate({"python_version": "3.12"})
        pins[requirement.name.lower().replace("_", "-")] = str(requirement.specifier).removeprefix("==")
    extras = PROJECT["optional-dependencies"]
    for line in PROJECT["dependencies"] + [
        line for name in ("dev", "docs", "stablehlo", "onnx") for line in extras[name]
    ]:
        wanted = Requirement(line)
        if wanted.name == "s5c":
            assert wanted.extras == {"docs", "stablehlo", "onnx"}
            continue
        assert wanted.specifier.contains(pins[wanted.name.lower().replace("_", "-")], prereleases=True), line


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds all that `make setup` reads before it installs anything."""
    folder = tmp_path / "a checkout"
    (folder / ".ci").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", ".ci/make-venv", ".ci/constraints.txt"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def interpreter(path: Path, *, version: tuple[int, int], missing: str = "") -> Path:
    """Writes a Python that claims `version` and, optionally, fails to import the module `missing`."""
    claim = f"import sys; sys.version_info = {version}; sys.modules.update({{{missing!r}: None}})"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nshift\ncode=$1\nshift\nexec "{sys.executable}" -c "{claim}; $code" "$@"\n')
    path.chmod(0o755)
    return path


def make_setup(checkout: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": path} if path else {})}
    environment.pop("MAKEFLAGS", None)  # those of the make that runs these tests
    return subprocess.run(
        [shutil.which("make") or "make", "setup", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )


@needs_make
def test_setup_without_a_new_enough_python_says_so(checkout: Path) -> None:
    old = interpreter(checkout / "old bin/python", version=(3, 10))
    done = make_setup(checkout, f"PYTHON={old}")
    assert done.returncode != 0
    assert f"needs Python 3.11 or newer; none of these runs and is new enough: {old}" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_setup_without_ensurepip_names_the_debian_package(checkout: Path) -> None:
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("sh", "echo"):  # neither uv nor virtualenv
        (tools / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
    bare = interpreter(checkout / "bare bin/python", version=(3, 11), missing="ensurepip")
    done = make_setup(checkout, f"PYTHON={bare}", path=str(tools))
    assert done.returncode != 0
    assert "its ensurepip module is missing" in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists()


@needs_make
def test_help_lists_every_target() -> None:
    text = (REPOSITORY / "Makefile").read_text("utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^  make (\S+) +\S", shown, flags=re.MULTILINE) == targets.split()
