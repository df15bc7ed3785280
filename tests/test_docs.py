"""The documentation: notebooks run, its Python compiles and its names exist, links lead somewhere, the site builds."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import s5c

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
NOTEBOOKS = sorted(PAGES.rglob("*.ipynb"))
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.M | re.S)


def cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs_and_prints_what_is_stored(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers may differ in the last digits from processor to processor; everything else is compared."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
        printed = capsys.readouterr().out
        stored = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        assert re.sub(r"\d+(\.\d+)?", "#", printed).split() == re.sub(r"\d+(\.\d+)?", "#", stored).split()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(notebook: Path) -> None:
    text = notebook.read_text("utf-8")
    assert not re.search(r'"output_type": "error"|/(home|tmp|root|Users)/', text)
    assert [cell["execution_count"] for cell in cells(notebook)] == list(range(1, len(cells(notebook)) + 1))
    assert any(cell["outputs"] for cell in cells(notebook))


@pytest.mark.parametrize("page", sorted(PAGES.rglob("*.md")), ids=lambda path: path.stem)
def test_python_on_a_page_compiles_and_yaml_is_read(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text("utf-8")):
        if language == "python":
            ast.parse(block)
        elif language not in ("sh", "bash", "yaml", "text"):
            pytest.fail(f"{page.name}: a block of {language!r}")


def test_the_method_that_is_added_on_the_page_is_one_that_all_tests_know() -> None:
    text, plants = (PAGES / "extend.md").read_text("utf-8"), ROOT / "tests" / "plants"
    blocks = [block for _, block in BLOCK.findall(text)]
    for path in (plants / "method/decay.py", plants / "conf/reduction/decay.yaml"):
        assert path.read_text("utf-8") in blocks


def test_names_on_the_api_page_exist_and_all_public_names_are_there() -> None:
    named = re.findall(r"^::: (\S+)$", (PAGES / "api.md").read_text("utf-8"), re.M)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name
    assert set(s5c._PUBLIC) <= {name.rpartition(".")[2] for name in named}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "docs" / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "methods/index.html", "api/index.html", "results/index.html"):
        text = (tmp_path / "site" / page).read_text("utf-8")
        assert "<h1" in text and "$$" not in text
    assert "<math" in (tmp_path / "site" / "methods" / "index.html").read_text("utf-8")
