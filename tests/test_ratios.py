"""Lists of ratios are a group; experiments that only crossed a task with a method are spelled by their parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jobs
import pytest
from omegaconf import OmegaConf

from s5c import guide
from s5c.cli import check_choices
from s5c.errors import UserError
from s5c.locations import conf_dir
from s5c.pipeline.trained import described
from s5c.train import resolve

STORED = json.loads((Path(__file__).parent / "reference/crosses.json").read_text("utf-8"))
"""The experiments TASK_METHOD that there were, and the keys of the reduction that each came to, by method."""
NINE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.few(4)
@pytest.mark.parametrize("name", STORED["names"])
def test_what_an_old_name_is_told_composes_to_what_it_was(name: str) -> None:
    with pytest.raises(UserError, match=f"There is no experiment {name!r}") as caught:
        check_choices([f"+experiment={name}"])
    (spelled,) = re.findall(r"Write (.*?);", str(caught.value))
    check_choices(spelled.split())
    values = jobs.compose("train", *spelled.split(), f"name={name}")
    task, _, method = name.rpartition("_")
    younger = {key: values["reduction"].pop(key) for key in ("bytes", "features", "bits", "bits_fit")}
    younger["inputs"] = values["reduction"]["calibration"].pop("inputs")
    assert younger == {"bytes": None, "features": None, "bits": None, "bits_fit": "nearest", "inputs": None}, (
        "as if they were not there"
    )
    assert values["reduction"] == STORED["reduction"][method] and values["name"] == name
    (recipe,) = [jobs.compose("train", f"+experiment={task}_s5")]
    assert described(resolve(values)[0]) == described(resolve(recipe)[0]), "the training is that of the recipe"


def test_an_old_name_is_a_message_of_the_command(tmp_path: Path) -> None:
    done = jobs.run("train", "+experiment=digits_aire", folder=tmp_path)
    assert done.code == 1 and list(tmp_path.iterdir()) == []
    assert "+experiment=digits_s5 reduction=aire ratios=wide" in " ".join(done.err.split())


@pytest.mark.parametrize("name", ["digits_ayre", "digit_aire", "nothing_h2", "aire"])
def test_another_wrong_name_gets_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=f"Unknown experiment {name!r}. Did you mean"):
        check_choices([f"+experiment={name}"])


def test_every_task_with_a_recipe_is_crossed_with_every_method() -> None:
    with pytest.raises(UserError, match=r"\+experiment=pathx_s5 reduction=global_hinf ratios=wide"):
        check_choices(["+experiment=pathx_global_hinf"])


def test_experiments_of_last_prune_at_nine_ratios_unless_told_otherwise() -> None:
    names = [path.stem for path in (conf_dir() / "experiment").glob("*_last.yaml")]
    assert len(names) == 14 and "imdb_last" in names
    for name in names:
        if name != "digits_last":  # the quick start prunes half
            assert jobs.compose("train", f"+experiment={name}")["reduction"]["ratio"] == NINE
    wide = STORED["reduction"]["aire"]["ratio"]
    for chosen, ratio in (("ratios=wide", wide), ("~ratios", "auto"), ("reduction.ratio=0.5", 0.5)):
        assert jobs.compose("train", "+experiment=imdb_last", chosen)["reduction"]["ratio"] == ratio


def test_a_checkpoint_is_reduced_at_a_list_too() -> None:
    values = jobs.compose("reduce", "checkpoint=x", "reduction=aire", "ratios=nine")
    assert values["reduction"]["ratio"] == NINE and "ratios" not in values


def test_a_list_beside_orders_is_refused() -> None:
    values = jobs.compose("train", "+experiment=digits_bt", "ratios=nine")
    with pytest.raises(UserError, match=r"reduction\.order=\[2, 4, 8, 12\] and reduction\.ratio=.* are both set"):
        resolve(values)


def test_help_and_completion_know_the_lists() -> None:
    for command in ("train", "reduce"):
        found = guide.keys(command, {"ratios": "nine"})
        (ratio,) = [key for key in found["reduction"] if key.name == "reduction.ratio"]
        assert ratio.value == str(NINE) and ratio.comment.startswith("share of stored states")
        assert found["ratios"] == []
    assert guide.complete(["train", "ratios="]) == ["ratios=nine", "ratios=wide"]
    assert guide.file_keys("ratios", "nine") == {"reduction.ratio"}


def test_the_lists_have_no_other_key() -> None:
    for path in (conf_dir() / "ratios").glob("*.yaml"):
        assert list(OmegaConf.load(path)) == ["ratio"]
