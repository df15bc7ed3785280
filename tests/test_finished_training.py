"""A finished training stays the model it was: damaged, it is refused with ways out, each of which works."""

from __future__ import annotations

import io
import json
import logging
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jobs
import numpy as np
import pytest
from rich.console import Console

from s5c.errors import UserError
from s5c.pipeline.kept import PREVIOUS
from s5c.pipeline.restored import restore
from s5c.pipeline.trained import TrainedModel, obtain
from s5c.train import resolve
from s5c.training import finished
from s5c.training.checkpoint import CheckpointStore, load
from s5c.training.finished import FINISHED, LostModelError
from s5c.training.stored import BEST

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OPTIONS = ("train.epochs=4", "reduction=none")  # of 5 steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = jobs.run("train", *OPTIONS, folder=folder)
    assert done.code == 0, done.err
    trained = jobs.only(folder, "results/trained/*")
    assert load(trained).step != load(trained, which="latest").step, "or these tests show little"
    return trained


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "results/trained" / whole.name))


def again(copied: Path, resume: str = "auto", which: str = "best") -> TrainedModel:
    """Does what the same command does again, as far as the training."""
    folder = f"results_dir={copied.parents[1]}"
    values = jobs.compose("train", *jobs.merged(jobs.TINY, (*OPTIONS, f"resume={resume}")), folder)
    return obtain(resolve(values)[0], Console(file=io.StringIO()), which=which)


def flip(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))


def best(trained: Path) -> Path:
    return trained / "checkpoints" / str(finished.read(trained)["best"]["step"])  # type: ignore[index]


def bytes_of(model: TrainedModel) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(model.weights)]


def a_bit_of_the_metadata(trained: Path) -> None:
    flip(best(trained) / "metadata/metadata", b'"epoch"', b'"epocj"')


def a_bit_of_the_weights(trained: Path) -> None:
    files = [path for path in (best(trained) / "weights").rglob("*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def the_best_step_gone(trained: Path) -> None:
    shutil.rmtree(best(trained))


def the_best_step_another(trained: Path) -> None:
    latest = load(trained, which="latest").path
    shutil.rmtree(best(trained))
    shutil.copytree(latest, best(trained))


def all_steps_gone(trained: Path) -> None:
    shutil.rmtree(trained / "checkpoints")


def record_cut(trained: Path) -> None:
    content = (trained / FINISHED).read_bytes()
    (trained / FINISHED).write_bytes(content[: len(content) // 2])


def record_empty(trained: Path) -> None:
    (trained / FINISHED).write_bytes(b"")


def record_of_another_step(trained: Path) -> None:
    for old, new in (("best", "other"), ("latest", "best"), ("other", "latest")):
        flip(trained / FINISHED, f'"{old}": {{'.encode(), f'"{new}": {{'.encode())


def record_without_checksum(trained: Path) -> None:
    flip(trained / FINISHED, b'"checksum"', b'"checksul"')


OF_STEPS = {
    a_bit_of_the_metadata: "is damaged: its metadata does not match",
    a_bit_of_the_weights: "is damaged: ",
    the_best_step_gone: "is gone: there is no",
    the_best_step_another: "under another number",
    all_steps_gone: "is gone: there is no",
}
OF_RECORD = {
    record_cut: "is damaged: ",
    record_empty: "is damaged: ",
    record_of_another_step: "does not match its checksum",
    record_without_checksum: "lacks its checksum",
}
Damage = Callable[[Path], None]


@pytest.mark.few(2)
@pytest.mark.parametrize(("damage", "words"), [*OF_STEPS.items(), *OF_RECORD.items()])
def test_damage_is_refused(damage: Damage, words: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["s5c/train.py", "train.epochs=4", "resume=auto", "model.d_model=8"])
    damage(copied)
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and not path.name.startswith(".")}
    with pytest.raises(LostModelError) as refused:
        again(copied)
    said = str(refused.value)
    assert words in said and str(copied) in said
    assert "train.epochs=4 model.d_model=8 resume=rebuild\n" in said and "resume=best_intact" in said
    assert {path: path.read_bytes() for path in before} == before, "nothing is lost by asking"

    # A reader does not take another step either, and names the command of the training.
    if damage is not all_steps_gone:
        with pytest.raises(LostModelError, match="resume=rebuild"):
            restore({"checkpoint": str(copied)}, which="best")


MADE_GOOD = [the_best_step_gone, record_cut]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "damage",
    [
        damage if damage in MADE_GOOD else pytest.param(damage, marks=pytest.mark.slow)
        for damage in OF_STEPS | OF_RECORD
    ],
)
def test_damage_is_made_good_on_request(damage: Damage, whole: Path, copied: Path) -> None:
    damage(copied)
    model = again(copied, "rebuild")
    assert bytes_of(model) == bytes_of(restore({"checkpoint": str(whole)}, which="best"))
    assert bytes_of(again(copied)) == bytes_of(model), "the command as it was goes on with it"
    ours, theirs = finished.read(copied), finished.read(whole)
    assert ours is not None and theirs is not None
    for key in ("best", "latest", "best_epoch", "selection_accuracy", "trained_id"):
        assert ours[key] == theirs[key]
    assert not (copied / PREVIOUS).exists() and not (copied / "checkpoints/superseded").exists()


def test_the_message_is_printed_without_a_traceback(copied: Path) -> None:
    the_best_step_gone(copied)
    for entry, *arguments in (("train", *OPTIONS), ("evaluate", f"checkpoint={copied}")):
        done = jobs.run(entry, *arguments, folder=copied.parents[2])
        assert done.code == 1 and "Traceback" not in done.err
        command = next(line.strip() for line in done.err.splitlines() if line.endswith("resume=rebuild"))
        assert shlex.split(command)[0] == "python" and "train.epochs=4" in command


def test_another_step_is_taken_only_by_name(whole: Path, copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    lost = load(whole)
    the_best_step_gone(copied)
    model = again(copied, "best_intact")
    step = model.metadata["step"]
    assert step != lost.step and model.metadata["score"] <= lost.metadata["score"]
    assert model.id == f"{lost.metadata['trained_id']}-step{step}"
    caplog.clear()
    caplog.set_level(logging.WARNING, "s5c")
    assert again(copied).id == model.id and "taken in its place" in caplog.text, "also later, with a word"
    assert restore({"checkpoint": str(copied)}, which="best").id == model.id


@pytest.mark.slow
def test_a_lost_latest_step_matters_where_it_is_asked_for(whole: Path, copied: Path) -> None:
    shutil.rmtree(load(copied, which="latest").path)
    assert bytes_of(again(copied)) == bytes_of(again(whole))
    with pytest.raises(LostModelError, match="the latest one of the training"):
        again(copied, which="latest")
    assert bytes_of(again(copied, "rebuild", "latest")) == bytes_of(again(whole, which="latest"))


def test_descriptions_are_written_again(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = {name: (copied / name).read_text() for name in ("identity.json", "environment.json")}
    (copied / "identity.json").write_text(whole["identity.json"].replace('"epochs": 4', '"epochs": 5'))
    (copied / "environment.json").unlink()
    again(copied)
    assert {name: (copied / name).read_text() for name in whole} == whole
    assert caplog.text.count("damaged or gone; it is written again") == 2


@pytest.mark.slow
def test_a_model_made_again_that_differs_is_not_passed_off_as_the_lost_one(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = finished.read(copied)
    assert facts is not None
    finished.write(copied, {**facts, "best": {**facts["best"], "weights": "of another device"}})
    again(copied, "rebuild")
    assert "another one than the one that was lost" in caplog.text
    assert json.loads((copied / PREVIOUS).read_text())["best"]["weights"] == "of another device"


def as_older_code_wrote(trained: Path, *, finished_too: bool = True) -> None:
    """Takes out what older code did not write."""
    from s5c.training import integrity

    for path in (trained / "checkpoints").glob("[0-9]*/metadata/metadata"):
        said = json.loads(path.read_text())
        said.pop(BEST)
        said["checksum"]["metadata"] = integrity.metadata_digest(said)
        path.write_text(json.dumps(said))
    facts = finished.read(trained)
    assert facts is not None
    kept = {key: value for key, value in facts.items() if key not in ("best", "latest", "trained_id")}
    (trained / FINISHED).write_text(json.dumps(kept))
    if not finished_too:
        (trained / FINISHED).unlink()


def test_trainings_of_older_code_are_read_and_guarded(whole: Path, copied: Path) -> None:
    path = best(copied)
    as_older_code_wrote(copied)
    for which in ("best", "latest"):
        assert bytes_of(again(copied, which=which)) == bytes_of(again(whole, which=which))
    flip(path / "metadata/metadata", b'"epoch"', b'"epocj"')
    with pytest.raises(LostModelError, match=rf"of epoch \d, selection accuracy .* the metadata of step {path.name}"):
        again(copied)
    shutil.rmtree(path)
    with pytest.raises(LostModelError, match="it is not in"):
        again(copied)
    assert bytes_of(again(copied, "rebuild")) == bytes_of(again(whole))


@pytest.mark.slow
def test_an_unfinished_training_of_older_code(whole: Path, copied: Path) -> None:
    path = best(copied)
    as_older_code_wrote(copied, finished_too=False)
    flip(path / "metadata/metadata", b'"epoch"', b'"epocj"')
    with pytest.raises(LostModelError, match="cannot be told which step is the best"):
        again(copied)
    assert bytes_of(again(copied, "rebuild")) == bytes_of(again(whole))


def test_an_unfinished_training_knows_its_best_step_too(whole: Path, copied: Path) -> None:
    the_best_step_gone(copied)
    (copied / FINISHED).unlink()
    with pytest.raises(LostModelError, match="the best so far"):
        again(copied)
    with pytest.raises(LostModelError, match="the best so far"):
        restore({"checkpoint": str(copied)}, which="best")
    assert bytes_of(again(copied, "rebuild")) == bytes_of(again(whole))


def test_a_finished_training_whose_record_is_gone_is_finished_again(whole: Path, copied: Path) -> None:
    (copied / FINISHED).unlink()
    assert bytes_of(again(copied)) == bytes_of(again(whole))
    ours, theirs = finished.read(copied), finished.read(whole)
    assert ours is not None and theirs is not None and ours["best"] == theirs["best"]
    events = [row["event"] for row in jobs.rows(copied / "metrics.jsonl")]
    assert events == [row["event"] for row in jobs.rows(whole / "metrics.jsonl")], "nothing is recorded twice"


def test_a_damaged_line_of_the_record(whole: Path, copied: Path) -> None:
    (copied / FINISHED).unlink()
    flip(copied / "metrics.jsonl", b'"train_loss": 2', b'"train_loss": 3')
    with pytest.raises(UserError, match=r"line 1 is damaged: it does not match its checksum(.|\n)*sed -i.bak 1d"):
        again(copied)
    assert bytes_of(again(copied, "rebuild")) == bytes_of(again(whole))
    assert '"train_loss": 3' in (copied / "metrics.damaged.jsonl").read_text()


def test_an_unknown_way_is_refused(copied: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown value for resume 'best'(.|\n)*best_intact"):
        again(copied, "best")
    with pytest.raises(UserError, match="Unknown value for resume"):
        CheckpointStore(copied / "checkpoints", resume="best")


def test_a_folder_in_the_place_of_the_record_is_named(copied: Path) -> None:
    (copied / FINISHED).unlink()
    (copied / FINISHED).mkdir()
    with pytest.raises(UserError, match=r"is a folder, where the file should be .* Move it away"):
        again(copied)
