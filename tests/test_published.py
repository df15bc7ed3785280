"""Everything under results/ and all pages that have a template are what the stored runs give."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

import jobs
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from s5c import config as settings
from s5c.bench import report
from s5c.errors import UserError
from s5c.report import published, templates
from s5c.report.collect import restore, store
from s5c.report.csvfile import read_csv
from s5c.report.row import Row

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY / "scripts"))

import bench_methods  # noqa: E402
import bench_reduction  # noqa: E402
import surrogate  # noqa: E402
import wandb_dashboard  # noqa: E402

README = '# x\n\n{{ accuracy_table("demo", ratios=0.5) }}\n\n{{ models_table() }}\n'


@pytest.mark.slow
def test_what_is_published_is_what_the_stored_runs_give() -> None:
    """In a process of its own, which does not check annotations: half a minute instead of two."""
    process = jobs.spawn("report", "check=true", folder=REPOSITORY)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and "Every table and figure is what the stored runs give." in out, out + err


def test_no_path_of_a_machine_is_published() -> None:
    for path in sorted((REPOSITORY / "results").rglob("*")):
        tracked = "published" in path.parts or "zoo" in path.parts or path.name == "README.md"
        if tracked and path.suffix in (".csv", ".md", ".json"):
            found = re.search(
                r"(?<![\w.:/])/(home|root|tmp|work|mnt|Users|private|var|opt)/\S*", path.read_text("utf-8")
            )
            assert found is None, f"{path}: {found and found.group()}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    rows, arrays = restore(REPOSITORY / templates.FOLDER / "smnist_small")
    store(rows, arrays, tmp_path / templates.FOLDER / "demo")
    write(tmp_path, README)
    write(tmp_path, "# Results\n\n{{ sections() }}\n", "results/README.md")
    return tmp_path


def write(checkout: Path, template: str, page: str = "README.md") -> None:
    """Writes the template of a page."""
    path = checkout / templates.TEMPLATES / f"{page}.j2"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template)


def filled(checkout: Path) -> str:
    """Returns README.md as its template makes it."""
    return templates.rendered(checkout, {}, lambda: "")[Path("README.md")]


@pytest.mark.slow
def test_publishing_writes_all_and_a_check_finds_every_change(checkout: Path) -> None:
    models = {"tiny": "a model"}
    made = published.publish(checkout, models, formats=())
    folder = checkout / templates.FOLDER / "demo"
    for path in made:
        if path.suffix == ".csv":
            (checkout / path).with_suffix(".png").touch()
    assert published.differences(checkout, models) == []
    text = (checkout / "README.md").read_text()
    assert "| Arm | 0.5 |" in text and "{{" not in text and "| `zoo:tiny` | a model |" in text
    assert "published/demo/accuracy_vs_ratio.png" in (checkout / "results/README.md").read_text()

    (checkout / "README.md").write_text(text.replace("93.7", "99.7"))
    (folder / "table.csv").write_text((folder / "table.csv").read_text().replace("0.9877", "0.9876"))
    (folder / "old.csv").write_text("x")
    (folder / "environment.json").write_text("{}")
    (folder / "accuracy_vs_ratio.png").unlink()
    found = "\n".join(published.differences(checkout, models))
    for words in (
        "README.md: line",
        "demo/report.md: line",
        "old.csv: made from nothing",
        "accuracy_vs_ratio.png: missing",
    ):
        assert words in found
    assert "environment.json" not in found
    assert published.differences(checkout, {}) != []


@pytest.mark.slow
def test_processors_may_differ_in_the_last_digits_of_a_figure(checkout: Path) -> None:
    models = {"tiny": "a model"}
    for path in published.publish(checkout, models, formats=()):
        if path.suffix == ".csv":
            (checkout / path).with_suffix(".png").touch()
    file = checkout / templates.FOLDER / "demo/eigenvalues.csv"
    text = file.read_text()
    long = re.search(r"\d\.\d{13,}", text)
    assert long is not None
    for digits, found in ((len(long[0]) - 1, 0), (8, 1)):
        changed = long[0][:digits] + str((int(long[0][digits]) + 1) % 10) + long[0][digits + 1 :]
        file.write_text(text.replace(long[0], changed, 1))
        assert len(published.differences(checkout, models)) == found


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("speed_table('demo')", "README.md.j2, line 2 cannot be filled in: 'speed_table' is undefined"),
        ("accuracy_table('dem')", "README.md.j2, line 2: (.|\n)*Did you mean 'demo'"),
        ("accuracy_table('demo', ratio=0.5)", "line 2 cannot be filled in: .*unexpected keyword argument 'ratio'"),
        ("largest_table('demo', experiment='x')", "Unknown experiment"),
        ("largest_table('demo', arms=['last', 'lats'])", "Unknown arm(.|\n)*nearest first: last"),
        ("largest_table('demo'", "README.md.j2, line 2 cannot be filled in: unexpected"),
        ("claims('al')", "Unknown count of claims"),
    ],
)
def test_a_template_that_asks_for_what_is_not_there_is_refused(checkout: Path, words: str, message: str) -> None:
    (checkout / templates.PAPERS).write_text("source,place,task,arm\n")
    write(checkout, f"# x\n{{{{ {words} }}}}\n")
    with pytest.raises(UserError, match=message):
        published.publish(checkout, {}, formats=())


def test_a_table_shows_the_arms_it_names(checkout: Path) -> None:
    write(checkout, "{{ accuracy_table('demo', ratios=0.5, arms=['last', 'none / random']) }}\n")
    lines = filled(checkout).splitlines()
    assert sorted(line.split("|")[1].strip(" *") for line in lines[2:4]) == ["last", "random"] and lines[4] == ""


TEMPLATE = """
{% set values = [0.3, 0.5] %}
| LAST | {{ figure("demo", "last", values) }} | {{ figure("demo", "unpruned", 0) }} |
{{ figure("demo", "last", 0.5, "points_lost") }} points, {{ figure("demo", "last", 0.5, "states", ".0f") }} states
{{ cell("x.csv", "size=2, on=true", "ms", "ms") }} {{ cell("x.csv", "name=a, b", "ms", ".1f") }}
{{ cell("x.csv", "on=true", "size ~ ms", ".0f") }} {untouched} <b> & {{ protected("last") }}
"""


def test_a_template_is_filled_with_figures_of_rows_and_of_files(checkout: Path) -> None:
    (checkout / templates.FOLDER / "x.csv").write_text(
        'name,size,on,ms\n"a, b",1.0,true,1500\n"a, b",2,true,1.25\nc,2,false,9\n'
    )
    write(checkout, TEMPLATE)
    lines = filled(checkout).splitlines()[1:]
    rows = [row for row in restore(checkout / templates.FOLDER / "demo")[0] if row["reduction"] == "last"]
    at = {row["ratio"]: row for row in rows}
    percent = [f"{100 * value:.1f}" for value in (at[0.3]["test_accuracy"], at[0.5]["test_accuracy"])]
    full = at[0.5]["test_accuracy_full"]
    lost = f"−{100 * (full - at[0.5]['test_accuracy']):.1f}"
    assert lines[0] == f"| LAST | {' | '.join(percent)} | {100 * full:.1f} |"
    assert lines[1] == f"{lost} points, {at[0.5]['states']:.0f} states"
    assert lines[2:] == ["1.25 ms 1.2 to 1500.0", "-1 {untouched} <b> & last / last +protect"]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("figure('dem', 'last', 0.5)", "Did you mean 'demo'"),
        ("figure('demo/x', 'last', 0.5)", "Unknown experiment"),
        ("figure('demo', 'lats', 0.5)", "Did you mean 'last'"),
        ("figure('demo', 'last', 0.55)", "Unknown target of last"),
        ("figure('demo', 'last', 0.5, 'sped')", "no such figure"),
        ("cell('y.csv', 'a=1', 'b')", "Did you mean 'x.csv'"),
        ("cell('x.csv', 'naem=a', 'b')", "Did you mean 'name'"),
        ("cell('x.csv', 'name=a', 'sizes')", "no such figure"),
        ("cell('x.csv', 'name=b', 'size')", "no such figure"),
    ],
)
def test_a_field_that_asks_for_what_is_not_there_is_refused(checkout: Path, field: str, message: str) -> None:
    (checkout / templates.FOLDER / "x.csv").write_text("name,size\na,1\n")
    write(checkout, f"{{{{ {field} }}}}\n")
    with pytest.raises(UserError, match=message):
        published.publish(checkout, {}, formats=())


@pytest.mark.parametrize("name", ["operator", "convolution", "step", "inference"])
def test_pages_of_benchmarks_are_what_their_figures_give(name: str) -> None:
    folder = REPOSITORY / templates.FOLDER / "bench"
    page = (folder / f"{name}.md").read_text()
    assert page.endswith("\n\n".join(report.sections(read_csv(folder / f"{name}.csv"))) + "\n")


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (bench_methods.page, "reduction_speed/methods"),
        (bench_reduction.page, "reduction_speed/speed"),
        (surrogate.page, "surrogate/layers"),
    ],
)
def test_pages_of_scripts_are_what_their_figures_give(made: Callable[[list[Row]], str], where: str) -> None:
    file = REPOSITORY / templates.FOLDER / f"{where}.csv"
    page = file.with_name("surrogate.md") if "surrogate" in where else file.with_suffix(".md")
    assert page.read_text() == made(read_csv(file))


def test_what_a_page_says_in_words_is_held_against_the_rows(checkout: Path) -> None:
    """Chains of comparisons of figures; no page is written while one of them is false."""
    bare = 'figure("demo", "last", 0.5, "test_accuracy", ".4f")'
    statements = {
        f'{bare}, ">", figure("demo", "random", 0.5, "test_accuracy", ".4f")': True,
        f'0, "<", {bare}, "<", 1': True,
        f'0, "<", {bare}, "<", 0.1': False,
        'figure("demo", "random over last", 0.5, "lead", ".2f"), ">=", 0': False,
        'figure("demo", "random over last", 0.5, "lead", "signed"), "<", 0': True,  # a minus sign is a minus
    }
    for statement, holds in statements.items():
        write(checkout, f"x\n{{% do holds({statement}) %}}\ny\n")
        if holds:
            assert filled(checkout) == "x\ny\n"
        else:
            with pytest.raises(UserError, match="do not bear out"):
                published.publish(checkout, {}, formats=())
            assert not (checkout / "README.md").exists()
    for nonsense in ("1", '1, "<"', '1, "~", 2', '"a", "<", 2'):
        write(checkout, f"{{% do holds({nonsense}) %}}\n")
        with pytest.raises(UserError, match="give numbers with"):
            filled(checkout)


def test_readme_states_what_it_says_of_methods() -> None:
    """First what has been reproduced; figures of papers from their table, with networks; comparisons as statements."""
    source = (REPOSITORY / templates.TEMPLATES / "README.md.j2").read_text("utf-8")
    first = source[: source.index("{{ accuracy_table(")]
    assert "**Reproduced:**" in first and 'claims("tested")' in first
    readme, results = ((REPOSITORY / name).read_text("utf-8") for name in ("README.md", "results/README.md"))
    for page in (readme, results):
        assert "<!--" not in page and "{{" not in page and "{%" not in page
        assert "HSVR, which trains" not in page and "on a network trained as usual" not in page
    assert len(readme.splitlines()) <= 160
    shown = results[results.index("What HSVR reports on MNIST") :]
    assert "| Network | Epochs |" in shown[:1500] and "99.47" in shown[:3500]
    source = (REPOSITORY / templates.TEMPLATES / "results/README.md.j2").read_text("utf-8")
    assert source.count("{% do holds(") > 15
    columns = re.search(r"\| full model \|.*", results[results.index("## What comes out") :])
    assert columns and "imdb" not in columns.group(), "imdb_small ranks nothing"


def test_papers_and_leads_stand_beside_what_was_measured_here(checkout: Path) -> None:
    (checkout / templates.PAPERS).write_text(
        "source,place,task,arm,of,ratio,accuracy,network,epochs\n"
        "A,table 1,smnist,last,states,0.5,62.37,a network,250\nA,table 1,smnist,last,states,0.9,27.67,a network,250\n"
    )
    (checkout / "results/zoo").symlink_to(REPOSITORY / "results/zoo")
    rows, arrays = restore(checkout / templates.FOLDER / "demo")
    store([{**row, "parent": "zoo:smnist_small_s5"} for row in rows], arrays, checkout / templates.FOLDER / "demo")
    write(
        checkout,
        "{{ reported_table('demo', ratios=[0.5, 0.7], task='smnist', arms='last') }}\n"
        "{{ leads_table('demo', ratios=0.5, arms=['last', 'random', 'lamp']) }}\n",
    )
    lines = filled(checkout).splitlines()
    assert lines[2] == "| A; table 1 | last | a network | 250 | – | 62.37 | – |"
    assert re.fullmatch(r"\| here \| last \| S5, 4 layers, \d+ features, \d+ states \| \d+ \| .*", lines[3])
    assert re.fullmatch(r"\| demo \| .*\((lamp|random)\) \|", lines[6])


def test_without_stored_runs_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No stored runs"):
        published.publish(tmp_path, {})
    done = jobs.run("report", folder=tmp_path)
    assert done.code == 1 and "runs is not set" in done.err


def test_the_command_of_the_package_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra would take it from the file, `__main__`."""
    names: list[str] = []
    monkeypatch.setattr("s5c.report.__main__.main", lambda config: names.append(HydraConfig.get().job.name))
    assert jobs.run("report", folder=tmp_path).code == 0 and names == ["report"]


# ---- Weights & Biases


def test_every_point_of_the_sweep_is_a_command_of_s5c() -> None:
    sweep = yaml.safe_load((REPOSITORY / "scripts/wandb_sweep.yaml").read_text())
    assert sweep["command"][2:4] == ["-m", "s5c.reduce"] and "val" in sweep["metric"]["name"]
    for name, choice in sweep["parameters"].items():
        for value in choice.get("values", [choice.get("value")]):
            values = (
                jobs.compose("reduce", "checkpoint=x", f"{name}={str(value).lower()}") if name != "checkpoint" else {}
            )
            if values:
                settings.reduction_job(values["reduction"])
    assert len(list(itertools.product(*(c["values"] for c in sweep["parameters"].values() if "values" in c)))) < 200


def test_offline_runs_are_listed_with_the_command_that_uploads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("offline-run-1-a", "offline-run-2-b"):
        (tmp_path / "job [x]" / "wandb" / name).mkdir(parents=True)
    (tmp_path / "job [x]" / "wandb" / "offline-run-2-b" / "run-b.wandb.synced").touch()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", "--runs", str(tmp_path)])
    assert wandb_dashboard.main() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wandb sync")]
    assert lines == [f"wandb sync --project s5c '{tmp_path}/job [x]/wandb/offline-run-1-a'"]
