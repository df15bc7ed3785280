"""A model that went into the zoo comes out of it bit for bit, or not at all."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import jobs
import numpy as np
import pytest

from s5c.data import task as tasks
from s5c.data.base import names as task_names
from s5c.data.base import task_class
from s5c.data.batching import eval_batches
from s5c.errors import UserError
from s5c.pipeline import answers, zoo
from s5c.pipeline.restored import restore
from s5c.pipeline.trained import TrainedModel, predictions
from s5c.training.integrity import seal
from s5c.training.loop import to_device


class Home(NamedTuple):
    """A training, what it said about itself, and the zoo it was exported to."""

    folder: Path
    trained: TrainedModel
    row: dict[str, object]
    zoo: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("zoo")
    done = jobs.run("train", "reduction=none", folder=folder)
    assert done.code == 0, done.err
    trained = restore({"checkpoint": str(jobs.only(folder, "results/trained/*"))}, which="best")
    (row,) = jobs.rows(jobs.only(folder, "results/digits/*/rows.jsonl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S5C_ZOO", str(folder / "zoo"))
        zoo.export(trained, "tiny")
    return Home(folder, trained, row, folder / "zoo")


@pytest.fixture(autouse=True)
def _zoo_of_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("S5C_ZOO", str(home.zoo))
    yield


def said(trained: TrainedModel) -> np.ndarray:
    return predictions(trained, 64, trained.model, trained.weights)[1].log_probs


def test_the_same_model_comes_out(home: Home) -> None:
    restored = restore({"checkpoint": "zoo:tiny"}, which="best")
    assert restored.model == home.trained.model and restored.id == home.trained.id
    inside, outside = (dict(jax.tree.leaves_with_path(model.weights)) for model in (restored, home.trained))
    assert inside.keys() == outside.keys()
    assert all(inside[path].dtype == outside[path].dtype == np.float32 for path in inside)
    assert all(inside[path].tobytes() == outside[path].tobytes() for path in inside)
    np.testing.assert_array_equal(said(restored), said(home.trained))


SHIPPED = sorted(path.parent.name for path in (Path(__file__).parents[1] / "results/zoo").glob("*/card.json"))


@pytest.mark.few(1)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_answer_as_where_they_were_trained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To random inputs, and to the first test examples where the data is there or can be generated at once."""
    monkeypatch.delenv("S5C_ZOO")
    folder, checkpoint = zoo.zoo_dir() / name, zoo.load(name)
    assert answers.deviation(checkpoint, folder) < 3e-6
    if checkpoint.metadata["task"]["name"] in ("digits", "listops_small"):
        stored = np.load(folder / answers.FILE)["test"]
        restored = restore({"checkpoint": f"zoo:{name}", "task": None}, which="best")
        assert stored.shape == (256, restored.dataset.classes)
        assert answers.relative(answers.to_test(restored), stored) < 3e-6


def test_other_weights_answer_otherwise(home: Home) -> None:
    checkpoint = zoo.load("tiny")
    assert answers.deviation(checkpoint, home.zoo / "tiny") < 1e-7
    weights = jax.tree.map(lambda w: w * 1.01, checkpoint.weights)
    assert answers.deviation(dataclasses.replace(checkpoint, weights=weights), home.zoo / "tiny") > 1e-3


def test_the_card_says_what_the_training_said(home: Home) -> None:
    card = json.loads((home.zoo / "tiny" / "card.json").read_text())
    assert card["metrics"] == {key: home.row[key] for key in ("val_accuracy", "val_loss", "test_accuracy", "test_loss")}
    assert card["parameters"] == home.row["params"] and sum(card["state_dims"]) == home.row["states"]
    assert card["examples"] == {"train": 1257, "val": 180, "test": 360}
    for key in ("source", "seed", "protocol", "selected_on", "git", "device", "command"):
        assert card[key] == home.row[key]
    assert card["recipe"]["epochs"] == 2 and card["task"]["name"] == "digits" and "CC BY 4.0" in card["licence"]
    readme = (home.zoo / "tiny" / "README.md").read_text()
    assert "checkpoint=zoo:tiny" in readme and f"{100 * card['metrics']['test_accuracy']:.2f} % of 360" in readme
    assert sorted(path.name for path in home.zoo.iterdir()) == ["tiny"], "nothing unfinished is left"


def test_unstable_modes_are_on_the_card_also_of_a_model_that_is_older_than_the_count(home: Home) -> None:
    weights = jax.tree.map(np.array, home.trained.weights)
    weights["params"]["encoder"]["layers_1"]["seq"]["Lambda_re"][[0, 2]] = 0.5, 0.0
    folder = zoo.export(dataclasses.replace(home.trained, weights=weights), "wild")
    try:
        card, readme = (json.loads((folder / "card.json").read_text()), (folder / "README.md").read_text())
        assert card["unstable_modes"] == [0, 2] and "8 states (2 unstable), " in readme
        assert r"| Unstable modes per layer (\|Lambda_bar\| >= 1) | 0, 2 |" in readme
        assert "(2 unstable)" in zoo.summaries()["wild"] and "unstable" not in zoo.summaries()["tiny"]
        older, _ = seal(
            {k: v for k, v in card.items() if k not in ("checksum", "unstable_modes", "padding")}, {"weights": weights}
        )
        (folder / "card.json").write_text(json.dumps(older))
        assert "unstable" not in zoo.summaries()["wild"], "an old card is read as it is"
        before = (folder / "weights.safetensors").read_bytes()
        assert zoo.recount("wild") == [0, 2]
        assert json.loads((folder / "card.json").read_text()) == {**older, **card}
        assert (folder / "README.md").read_text() == readme
        assert (folder / "weights.safetensors").read_bytes() == before
        np.testing.assert_array_equal(
            zoo.load("wild").weights["params"]["encoder"]["layers_1"]["seq"]["B"],
            weights["params"]["encoder"]["layers_1"]["seq"]["B"],
        )
    finally:
        shutil.rmtree(folder)


def test_exporting_again_replaces(home: Home) -> None:
    before = (home.zoo / "tiny" / "weights.safetensors").read_bytes()
    (home.zoo / "tiny" / "stray").write_text("of an older version")
    zoo.export(home.trained, "tiny")
    assert (home.zoo / "tiny" / "weights.safetensors").read_bytes() == before
    assert not (home.zoo / "tiny" / "stray").exists()


def test_it_is_reduced_and_the_reduced_model_evaluated(home: Home) -> None:
    done = jobs.run("reduce", "checkpoint=zoo:tiny", "reduction=last", "reduction.ratio=0.5", folder=home.folder)
    assert done.code == 0, done.err
    full, reduced = jobs.rows(jobs.only(home.folder, "results/reduce/*/rows.jsonl"))
    assert full["test_accuracy"] == home.row["test_accuracy"] and reduced["states"] == 4
    assert full["checkpoint_bytes"] is None and reduced["checkpoint_bytes"] > 0, "formats that do not compare"
    assert full["parent"] == full["checkpoint"] == "zoo:tiny" and full["trained_id"] == home.trained.id
    done = jobs.run("evaluate", f"checkpoint={reduced['checkpoint']}", folder=home.folder)
    assert done.code == 0, done.err
    (again,) = jobs.rows(jobs.only(home.folder, "results/evaluate/*/rows.jsonl"))
    assert again["test_accuracy"] == reduced["test_accuracy"]


@pytest.mark.parametrize(("name", "nearest"), [("tyni", "no zoo model 'tyni'"), ("", "needs the name of a model")])
def test_another_name_lists_what_there_is(home: Home, name: str, nearest: str) -> None:
    done = jobs.run("evaluate", f"checkpoint=zoo:{name}", folder=home.folder)
    assert done.code == 1 and nearest in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("  zoo:")]
    assert line.startswith("  zoo:tiny  s5 on digits, ") and "% on test" in line


def test_every_task_says_under_what_terms_its_data_is() -> None:
    own = {path.stem for path in Path(inspect.getfile(tasks)).parent.glob("[!_]*.py")}
    assert own and all(len(task_class(name).licence) > 20 for name in task_names() if name in own)
    stranger = type("Task", (), {})
    with mock.patch.object(zoo, "task_class", lambda _: stranger):
        assert "terms of its source" in zoo._terms("stranger")


def test_only_names_in_the_zoo_are_opened(home: Home) -> None:
    (home.zoo / ".hidden.unfinished").mkdir()
    (home.zoo / ".hidden.unfinished" / "card.json").write_text("{}")
    assert zoo.names() == ["tiny"]
    for name in ("../zoo/tiny", ".hidden.unfinished", "tiny/"):
        with pytest.raises(UserError, match="no zoo model"):
            zoo.load(name)


def test_an_empty_zoo_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S5C_ZOO", str(tmp_path))
    with pytest.raises(UserError, match=r"is empty(.|\n)*S5C_ZOO(.|\n)*s5c\.studies run"):
        zoo.load("tiny")


def flipped(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a weight": lambda model: flipped(model / "weights.safetensors", -7),
    "the header": lambda model: flipped(model / "weights.safetensors", 12),
    "half of the weights": lambda model: (model / "weights.safetensors").write_bytes(
        (model / "weights.safetensors").read_bytes()[:2000]
    ),
    "no weights": lambda model: (model / "weights.safetensors").unlink(),
    "a fact": lambda model: (model / "card.json").write_text(
        (model / "card.json").read_text().replace('"seed": 0', '"seed": 1')
    ),
    "half of the card": lambda model: (model / "card.json").write_text((model / "card.json").read_text()[:200]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused(what: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    for file in (home.zoo / "tiny").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("S5C_ZOO", str(tmp_path))
    assert zoo.load("tiny").step > 0
    DAMAGE[what](model)
    with pytest.raises(UserError, match=r"tiny is damaged"):
        zoo.load("tiny")
    with pytest.raises(UserError, match="zoo:tiny"):
        zoo.load("other")


def test_only_finished_trainings_and_plain_names_go_in(home: Home) -> None:
    with pytest.raises(UserError, match="not of a finished training"):
        zoo.export(dataclasses.replace(home.trained, path=home.zoo / "tiny"), "again")
    for name in ("../up", "", ".hidden", "a b"):
        with pytest.raises(UserError, match="cannot name a zoo model"):
            zoo.export(home.trained, name)


def test_data_at_half_the_rate_doubles_the_steps_of_the_network(home: Home) -> None:
    trained = home.trained
    at_half = dataclasses.replace(trained, dataset=dataclasses.replace(trained.dataset, step_rescale=2.0))
    batch = to_device(next(eval_batches(trained.splits.test, 64)))
    expected = jax.jit(partial(trained.model.apply, step_rescale=2.0))(trained.weights, batch.inputs)
    np.testing.assert_allclose(said(at_half)[:64], expected, atol=1e-5)
    assert np.abs(said(at_half) - said(trained)).max() > 1e-3
    of_half = dataclasses.replace(at_half, metadata={**trained.metadata, "step_rescale": 2.0})
    assert of_half.step_rescale == 1.0, "a network trained at half the rate reads it as it is"
    np.testing.assert_array_equal(said(of_half), said(trained))
