"""Help, overview and completions say what the configuration is, and what Hydra composes is what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from s5c import guide
from s5c.__main__ import _words
from s5c.cli import register_resolvers
from s5c.locations import conf_dir


def leaves(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, dict) or not values:
        return [prefix]
    return [leaf for key, value in values.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)]


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        ("train", {}),
        ("train", {"task": "imdb", "model": "s4d", "reduction": "bt"}),
        ("reduce", {"reduction": "lqo_curve"}),
        ("evaluate", {}),
        ("report", {}),
        ("convert", {}),
    ],
)
def test_the_keys_of_the_help_are_those_that_hydra_composes(command: str, chosen: dict[str, str]) -> None:
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose(command, [f"{group}={name}" for group, name in chosen.items()])
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    expected = {
        leaf for leaf in leaves(values) if leaf.partition(".")[::2] not in [(g, "name") for g in guide_groups()]
    }
    shown = {key.name for found in guide.keys(command, chosen).values() for key in found if key.value}
    assert shown == expected


def guide_groups() -> list[str]:
    return [path.name for path in conf_dir().iterdir() if path.is_dir()]


def test_defaults_of_the_last_file_count_and_comments_of_the_first_stay() -> None:
    found = {key.name: key for key in guide.keys("reduce", {"reduction": "calibrated"})["reduction"]}
    assert found["reduction.allocation"].value == "global"
    assert found["reduction.refit"].value == "calibrated" and found["reduction.refit"].comment.startswith("none | h2")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("t", ["train"]),
        ("train +exp", ["+experiment="]),
        ("train +experiment=digits_fa", ["+experiment=digits_fast"]),
        ("reduce reduction=bt_e", ["reduction=bt_empirical"]),
        ("reduce reduction=bt reduction.var", ["reduction.variant="]),
        ("reduce reduction=last reduction.var", []),
        ("reduce reduction.norm=", ["reduction.norm=keep", "reduction.norm=recalibrate"]),
        ("reduce checkpoint=zoo:dig", ["checkpoint=zoo:digits_s5"]),
        ("evaluate evaluation.latency=f", ["evaluation.latency=false"]),
        ("data ", ["prepare"]),
        ("train 'reduction.ratio=[0.1", []),
    ],
)
def test_the_tab_key(typed: str, offered: list[str]) -> None:
    assert guide.complete(_words(f"s5c {typed}")) == offered


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "s5c", *arguments], capture_output=True, text=True)


def test_what_there_is() -> None:
    said = ask()
    assert said.returncode == 0 and not said.stderr
    for word in ("s5c.train", "s5c.reduce", "imdb", "bt_tolerance", "zoo:digits_s5"):
        assert word in said.stdout


def test_an_unknown_command_is_a_message() -> None:
    said = ask("trian")
    assert said.returncode == 1 and "Did you mean 'train'?" in said.stderr and "Traceback" not in said.stderr


def test_answers_at_once_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, s5c.guide as g; g.printed(g.help_text('train', ['reduction=bt'])); g.complete(['train', 'r']);"
        "sys.exit(str([m for m in ('jax', 'hydra', 'numpy', 'omegaconf', 'wandb') if m in sys.modules] or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "largest condition number of a reduced system's eigenvectors" in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell: str) -> None:
    assert ask("completion", shell).stdout.strip() == guide.SCRIPTS[shell]


def test_bash_completes(tmp_path: Path) -> None:
    """In a real bash: what the Tab key would fill in behind `reduction=bt_e`."""
    program = tmp_path / "s5c"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m s5c "$@"\n')
    program.chmod(0o755)
    script = f"""
export PATH="{tmp_path}:$PATH"
eval "$(s5c completion bash)"
COMP_LINE="s5c reduce reduction=bt_e"; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=(s5c reduce reduction = bt_e); COMP_CWORD=4
compopt() {{ :; }}
_s5c; echo "${{COMPREPLY[@]}}"
COMP_LINE="s5c reduce reduction.no"; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=(s5c reduce reduction.no); COMP_CWORD=2
_s5c; echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["bt_empirical", "reduction.norm="], done.stderr


@pytest.mark.parametrize("command", guide.COMPOSED)
def test_help_of_every_command(command: str) -> None:
    """Without the imports of the command: the help comes from the files."""
    code = (
        f"import sys, runpy; sys.argv = ['x', 'task=imdb', '--help'];"
        f"sys.modules['jax'] = sys.modules['hydra'] = None; runpy.run_module('s5c.{command}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"python -m s5c.{command}: ")
