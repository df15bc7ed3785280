"""Names that mean something to a console, a formula, a spreadsheet or a browser are shown as they are."""

from __future__ import annotations

import csv
import html
import json
import logging
import shutil
from pathlib import Path

import jobs
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console
from test_report import row, write_job

from s5c.errors import UserError
from s5c.locations import for_checkpoints
from s5c.report import cells, plots
from s5c.report.collect import collect
from s5c.report.csvfile import read_csv, write_csv
from s5c.report.page import page
from s5c.report.plots import save_figures
from s5c.report.tables import commands, console, markdown
from s5c.training.checkpoint import CheckpointStore, load, save_single

# ---- on the console


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which a tiny model was trained."""
    folder = tmp_path_factory.mktemp("trained")
    assert jobs.run("train", "reduction=none", folder=folder).code == 0
    return folder


@pytest.mark.parametrize("name", ["[/x]", "br[ack]et", "[bold]a", ":smile:", "a=b", "a$b$c", "with space"])
def test_a_checkpoint_is_read_from_any_folder_and_shown_as_it_is_called(name: str, trained: Path) -> None:
    target = trained / "moved" / name / "model"
    shutil.copytree(jobs.only(trained, "results/trained/*"), target)
    shutil.rmtree(trained / "results" / "evaluate", ignore_errors=True)  # the same model has the same folder
    done = jobs.run("evaluate", f'checkpoint="{target}"', folder=trained)
    assert done.code == 0, done.err
    assert f"checkpoint: {target}" in done.err.replace("\n│   ", "")
    assert str(target) in next(line for line in done.out.splitlines() if line.startswith("Reproduce: "))


@pytest.mark.parametrize("name", ["[/x]", "br[ack]et", ":smile:"])
def test_a_report_goes_to_any_folder_and_says_which(name: str, trained: Path) -> None:
    done = jobs.run("report", "runs=results", f'output="{name}"', folder=trained)
    assert done.code == 0, done.err
    assert f"{name}/report.md" in done.out and (trained / name / "report.md").is_file()


def test_a_log_that_cannot_be_opened_is_a_message(tmp_path: Path) -> None:
    assert jobs.run("train", "reduction=none", folder=tmp_path).code == 0
    log = jobs.only(tmp_path / "results" / "digits", "*/train.log")
    log.unlink()
    log.mkdir()
    done = jobs.run("train", "reduction=none", folder=tmp_path)
    assert done.code == 1 and "Traceback" not in done.err
    assert f"Error: Is a directory: {log}" in done.err and "results_dir=" in done.err


def test_a_disk_that_numpy_finds_full_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("31360 requested and 12288 written")

    monkeypatch.setattr("s5c.train.obtain", full)
    done = jobs.run("train", "reduction=none", folder=tmp_path)
    assert done.code == 1 and "Traceback" not in done.err
    assert "Error: No space left on device: while writing" in done.err


def test_other_errors_without_a_number_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError("something else"), ValueError("a mistake of ours")):
        monkeypatch.setattr("s5c.train.obtain", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error), match=str(error)):
            jobs.run("train", "reduction=none", folder=tmp_path)


# ---- in folders of checkpoints


@pytest.mark.parametrize("name", ["a[b]", "a*", "a?", "a\\b"])
def test_checkpoints_are_not_stored_where_they_could_not_be_read(name: str, tmp_path: Path) -> None:
    for store in (
        lambda: CheckpointStore(tmp_path / name),
        lambda: save_single(tmp_path / name / "x", weights={"params": {"w": np.ones(2)}}, metadata={}),
    ):
        with pytest.raises(UserError, match="No checkpoint can be stored in"):
            store()
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "name", ["a=b", "a b", "${x}", "a$b", "(a)", "{a}", "a,b", "a'b", 'a"b', "a:b", "a;b", "é日😀", "%41", "#"]
)
def test_checkpoints_are_stored_everywhere_else(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "absl")
    assert for_checkpoints(tmp_path / name) == tmp_path / name
    save_single(tmp_path / name / "x", weights={"params": {"w": np.arange(3.0)}}, metadata={})
    np.testing.assert_array_equal(load(tmp_path / name / "x").weights["params"]["w"], np.arange(3.0))


# ---- in tables, figures and pages

MARKUP = "[/x] [bold]a :smile:"
HTML = "<script>alert(1)</script> <img src=x onerror=alert(1)> & &lt; [a](javascript:alert(1)) ![b](http://c)\n# d | e"
FORMULA = "$\\frac$ ${x} a$b$c"


def rows(tmp_path: Path, name: str) -> list[dict[str, object]]:
    changes = {"experiment": name, "source": name, "device": name, "notes": [name], "trained_id": name}
    write_job(tmp_path / "full", [row("full", 0.0, **changes)])
    for preset in ("last", "random"):
        found = [row(preset, ratio, options={"eps": name}, **changes) for ratio in (0.3, 0.5)]
        write_job(tmp_path / preset, found)
    return collect([tmp_path])


def test_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    out = Console(width=300)
    with out.capture() as capture:
        out.print(console(rows(tmp_path, MARKUP)))
    assert f"digits, s5, {MARKUP}" in capture.get() and f"{MARKUP}; selected" in capture.get()


def test_no_html_and_no_link_is_in_a_report(tmp_path: Path) -> None:
    text = markdown(rows(tmp_path, HTML))
    prose = text.split("```")[0]
    assert "<" not in prose and "](" not in prose and "\n# d" not in prose
    assert "&lt;script>" in prose and "&amp;lt;" in prose
    table = [line for line in prose.splitlines() if line.startswith("|")]
    pipes = {line.replace(r"\|", "").count("|") for line in table if "Protocol" in line or "validation" in line}
    assert len(pipes) == 1, "no name adds a column"
    assert (
        cells.plain("a < b & c") == "a &lt; b &amp; c" and cells.plain("|x| >= 1, [8,4] (2)") == "|x| >= 1, [8,4] (2)"
    )


def test_no_command_ends_its_block_or_starts_another(tmp_path: Path) -> None:
    found = rows(tmp_path, "x\nrm -rf /")
    for one in found:
        one["command"] = "echo ```\n```\n<b>"
    lines = commands(found).splitlines()
    assert lines[0] == "````bash" and lines[-1] == "````" and "````" not in lines[1:-1]
    assert not any(line.startswith("rm") for line in lines)


def test_a_page_shows_names_and_runs_none(tmp_path: Path) -> None:
    text = page(rows(tmp_path, HTML))
    assert "<script>alert" not in text and "<img" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    study = data["studies"][0]
    assert HTML.splitlines()[0] in study["title"] and "<script>alert(1)</script>" in study["about"]
    assert html.unescape(study["about"]) != study["about"], "what was written as &lt; stays so"


def test_dollars_are_no_formulas_in_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    original = plots._as_written
    monkeypatch.setattr(plots, "_as_written", lambda figure: drawn.append(original(figure)) or drawn[-1])
    found = rows(tmp_path, FORMULA)
    files = save_figures(found, {}, tmp_path / "figures", ("png",))
    assert len(files) > 2
    texts = [text for figure in drawn for text in figure.findobj(Text) if "$" in text.get_text()]
    assert texts and not any(text.get_parse_math() for text in texts if FORMULA in text.get_text())


def test_powers_of_ten_on_axes_are_formulas_still() -> None:
    figure = Figure()
    ax = figure.subplots()
    ax.semilogy([1, 2], [1e-3, 1e3])
    ax.set_title("a$b$c")
    plots._as_written(figure)
    figure.draw_without_rendering()
    labels = ax.get_yticklabels()
    assert any("10^" in label.get_text() and label.get_parse_math() for label in labels)
    assert not ax.title.get_parse_math()


# ---- in spreadsheets

DANGEROUS = [
    "=1+2",
    "=HYPERLINK(1)",
    "+1+2",
    "-1+2",
    "@SUM(1)",
    " =1",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "=",
    "-",
]


@pytest.mark.parametrize("text", DANGEROUS)
def test_no_cell_begins_like_a_formula(text: str, tmp_path: Path) -> None:
    written = [{"a": text, "b": -0.5, "c": [text], text: "key"}, {"a": "x", "b": 1}]
    write_csv(written, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert all(not cell.lstrip().startswith(tuple("=+@＝＋－＠")) for line in read for cell in line)
    assert [cell for line in read for cell in line if cell.lstrip().startswith("-")] == ["-0.5"], "a number"
    assert read_csv(tmp_path / "a.csv") == written


def test_tables_of_before_are_read_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,null,1\n=1+2,-0.5,x,y\n-readout,,,\n", "utf-8")
    assert read_csv(tmp_path / "a.csv") == [{"a": "=1+2", "b": -0.5, "null": "x", "1": "y"}, {"a": "-readout"}]
