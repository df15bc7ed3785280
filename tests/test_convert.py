"""Networks of other code: their answers are those of the code that made them, and what does not fit is named."""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jobs
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.serialization import msgpack_restore, to_bytes
from safetensors.numpy import load_file, save_file

import s5c
from s5c.errors import UserError
from s5c.keys import EvaluationKeys
from s5c.model import surgery
from s5c.pipeline import conversion, portable, recipe
from s5c.pipeline.conversion import Conversion
from s5c.pipeline.provenance import environment
from s5c.pipeline.restored import restore
from s5c.pipeline.row import common
from s5c.reduction.contract import load_allocation, load_method
from s5c.reduction.stage import rank
from s5c.training.checkpoint import CheckpointStore
from s5c.training.facts import SCHEMA
from s5c.upstream import files, options

HERE = Path(__file__).parent / "reference" / "converted"
NETWORKS = sorted(path for path in HERE.iterdir() if path.suffix != ".npz")
PRUNED = ("clipped", "full_glu_tokens", "last_unidirectional", "no_conjugates")
TOKENS = HERE / "full_glu_tokens.msgpack"


def answers_of(source: Path) -> Path:
    """Returns the file of inputs and answers that belongs to a network."""
    own = HERE / f"{source.stem}.npz"
    return own if own.exists() else HERE.parent / f"{source.stem}.npz"


@functools.cache
def converted(name: str) -> Conversion:
    source = next(path for path in NETWORKS if path.stem == name)
    return conversion.convert(source, given=answers_of(source), check=answers_of(source))


@pytest.mark.slow  # to the precision of programs that are optimised
@pytest.mark.parametrize("name", [path.stem for path in NETWORKS])
def test_answers_are_those_of_the_original(name: str) -> None:
    """Of S5, state-spaces/s4 and s5-pytorch, as they are at the commits that tests/reference/README.md names."""
    found = converted(name)
    assert found.deviation is not None and found.deviation <= 1e-5
    with np.load(answers_of(found.source)) as stored:
        assert found.answers == len(stored["log_probs" if "log_probs" in stored else "logits_after"])


# ---- scores and pruned answers


@pytest.mark.few(2)
@pytest.mark.parametrize(("called", "method"), [("last", "hinf"), ("aire", "aire")])
@pytest.mark.parametrize("name", PRUNED)
def test_scores_are_those_of_the_released_code(name: str, called: str, method: str) -> None:
    """LAST's and AIRE-Prune's own, run in double precision on the same weights."""
    network = converted(name).converted
    ranked = rank(
        load_method(method, {"score": "released", "eps": 1e-8}),
        load_allocation("normalised"),
        surgery.layers(network.weights, network.config),
        seed=0,
    )
    # Infinity marks the best state of a layer, which always stays; its score is 1.
    found = np.concatenate([np.where(np.isinf(one), 1, one) for one in ranked.priorities])
    np.testing.assert_allclose(found, np.load(answers_of(HERE / name))[f"{called}_scores"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["last", "aire"])
@pytest.mark.parametrize("name", PRUNED)
def test_pruned_answers_are_those_of_the_masked_original(name: str, preset: str) -> None:
    source = next(path for path in NETWORKS if path.stem == name)
    with np.load(answers_of(source)) as stored:
        model = s5c.load(source, recipe=answers_of(source), check=answers_of(source))
        lengths = stored.get("lengths")
        for i in range(9):
            small = s5c.reduce(model, preset, ratio=(i + 1) / 10, score="released", eps=1e-8)
            said = small.predict(stored["inputs"], lengths=lengths)
            np.testing.assert_allclose(said, stored[f"{preset}_masked"][i], atol=5e-5)
            np.testing.assert_array_equal(said.argmax(1), stored[f"{preset}_masked"][i].argmax(1))


# ---- what the file says, what is given, what is assumed


def test_what_nobody_said_is_told_apart() -> None:
    found = conversion.convert(TOKENS, overrides={"tokens": True, "mode": "pool"})
    assert found.deviation is None and "Nothing was checked" in found.said
    assert {
        "n_layers": 2,
        "d_model": 8,
        "activation": "full_glu",
        "norm": "batch",
    }.items() <= found.converted.read.items()
    assert found.given == {"tokens": True, "pooling": "mean"}
    assert {"prenorm", "clip_eigs", "discretisation", "conj_sym"} <= found.converted.assumed.keys()


LINE = (
    "python run_train.py --C_init=lecun_normal --activation_fn full_glu --batchnorm=True --bidirectional=True \\\n"
    "  --d_model=8 --dataset=listops-classification --n_layers=2 --p_dropout=0.1 --ssm_size_base=16 --bsz 50 "
    "--blocks=2 --epochs=35 --lr_factor=4 --warmup_end=0 --dt_global=True --ssm_lr_base=0.001"
)


def test_upstreams_argument_line_is_understood(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(LINE)
    for given in (LINE, str(script)):
        found = conversion.convert(TOKENS, given=given)
        assert found.converted.spec.tokens and found.converted.config.dropout == 0.1
        assert found.given["state_size"] == 16 and found.converted.read["conj_sym"] is True
        wanted = {"epochs": 35, "batch_size": 50, "ssm_lr": 1e-3, "lr_factor": 4, "warmup_epochs": 0, "dt_global": True}
        assert wanted.items() <= found.facts["recipe"].items() and found.facts["recipe"]["weight_decay"] == 0.05
    with pytest.raises(UserError, match=r"recipe\.epochs='many'"):
        conversion.convert(TOKENS, given=f"{LINE} --epochs=many")


def test_a_recipe_by_name_brings_task_and_training() -> None:
    found = recipe.read("digits_s4d")
    assert found.family == "s4d" and found.task is not None and found.task["name"] == "digits"
    assert found.training is not None and found.training["epochs"] == 30
    assert options.read(found.options)["d_model"] == 48
    assert options.read(recipe.read("imdb_s5").options)["tokens"] is True


def test_a_wrong_option_is_found_by_the_answers(tmp_path: Path) -> None:
    source = HERE / "no_conjugates.msgpack"
    given = json.loads(str(np.load(answers_of(source))["config"]))
    with pytest.raises(UserError, match=r"With activation=half_glu2 they agree to .*options\.activation=half_glu2"):
        conversion.convert(source, given={**given, "activation": "half_glu1"}, check=answers_of(source))
    outcome = jobs.run(
        "convert", f"source={source}", f"recipe={answers_of(source)}", f"check={answers_of(source)}",
        "options.activation=half_glu1", f"out={tmp_path}/out", folder=tmp_path,
    )  # fmt: skip
    assert outcome.code == 1 and "half_glu2" in outcome.err and not list(tmp_path.iterdir())


# ---- what is wrong


def damaged(change: Callable[[Any], Any]) -> Callable[[Path], Path]:
    """Returns what writes the network with something changed in its tree."""

    def write(folder: Path) -> Path:
        tree = jax.tree.map(np.array, msgpack_restore(TOKENS.read_bytes()))
        change(tree)
        (folder / "x.msgpack").write_bytes(to_bytes(tree))
        return folder / "x.msgpack"

    return write


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


class _Runs:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def zipped(content: bytes, **more: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "x.pt", "w") as archive:
            for name, part in {"a/data.pkl": content, **more}.items():
                archive.writestr(name, part)
        return folder / "x.pt"

    return write


def without(arrays: dict[str, np.ndarray], **others: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save_file({**arrays, **others}, folder / "x.safetensors")
        return folder / "x.safetensors"

    return write


S4D = load_file(HERE / "s4d_block.safetensors")
LAYER = ["encoder", "layers_0", "seq"]


def at(tree: Any, *names: str) -> Any:
    return functools.reduce(lambda node, name: node[name], names, tree["params"])


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "none.msgpack", "does not exist"),
    "empty": (written("x.msgpack", b""), "0 bytes"),
    "truncated": (written("x.msgpack", TOKENS.read_bytes()[:3000]), "cut short"),
    "oversized": (written("x.msgpack", TOKENS.read_bytes() + b"xx"), "extra data"),
    "text": (written("x.msgpack", b"hello"), "none of the kinds that can be read: a msgpack"),
    "truncated torch": (written("x.pt", (HERE / "s4d_minimal.pt").read_bytes()[:5000]), "PyTorch file"),
    "truncated safetensors": (written("x", (HERE / "dss.safetensors").read_bytes()[:-9]), "safetensors file"),
    "pickle": (written("x.pkl", pickle.dumps(_Runs())), "bare pickle"),
    "pickle in a torch file": (zipped(pickle.dumps({"model": _Runs()})), "names builtins.exec"),
    "archive": (lambda _: HERE / "dss.npz", "no data.pkl"),
    "folder": (lambda folder: folder, "none of the kinds"),
    "numbers": (damaged(lambda tree: tree.pop("params")), "no network that is known"),
    "NaN": (
        damaged(lambda tree: at(tree, *LAYER, "B").fill(np.nan)),
        "seq/B holds numbers that are not finite",
    ),
    "infinite": (damaged(lambda tree: at(tree, "decoder").update(bias=np.full(4, 1e300))), "single precision"),
    "variance": (
        damaged(lambda tree: tree["batch_stats"]["encoder"]["layers_0"]["norm"]["var"].fill(-1)),
        "less than 0 is not possible",
    ),
    "integers": (damaged(lambda tree: at(tree, *LAYER).update(D=np.arange(8))), "seq/D holds int64"),
    "shape": (damaged(lambda tree: at(tree, *LAYER).update(B=np.ones((8, 7, 2)))), r"seq/B has shape \(8, 7, 2\), not"),
    "lacking": (damaged(lambda tree: at(tree, "encoder", "layers_1").pop("out1")), "layers_1/out1/kernel is missing"),
    "no decoder": (damaged(lambda tree: tree["params"].pop("decoder")), "no array 'params/decoder/kernel'"),
    "gap": (
        damaged(lambda tree: at(tree, "encoder").update(layers_3=at(tree, "encoder").pop("layers_0"))),
        "layers 1, 3",
    ),
    "surplus": (damaged(lambda tree: at(tree, *LAYER).update(E=np.ones(3))), "seq/E has no place"),
    "low rank": (without(S4D, **{"s4_layers.0.layer.kernel.P": np.ones(3)}), "kernel.P has no place"),
    "states": (without(S4D, **{"s4_layers.1.layer.kernel.A_imag": np.ones((2, 3))}), r"A_imag has shape \(2, 3\), not"),
    "other network": (without({"w": np.ones(3)}), "no network that is known: w"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_network_is_a_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = WRONG[name]
    with pytest.raises(UserError, match=said):
        conversion.convert(make(tmp_path), overrides={"tokens": True} if name not in ("low rank", "states") else {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give tokens=true or tokens=false"),
        ({"activation": "half_glu1"}, "out1 and out2, which is full_glu"),
        ({"activation_fn": "swish"}, "Unknown value for activation_fn 'swish'"),
        ({"H": 9}, "d_model=9 does not fit the file: the shapes say d_model=8"),
        ({"n_layers": 3}, "n_layers=3 does not fit"),
        ({"P": 12}, "state_size=12 does not fit the file"),
        ({"P": "many"}, "P='many'.*whole number"),
        ({"bidirectional": "False"}, "bidirectional=False does not fit"),
        ({"batchnorm": False}, "norm=layer does not fit"),
        ({"discretization": "foh"}, "'foh'.*\n.*zoh, bilinear"),
        ({"mode": "max"}, "one of pool, last"),
        ({"step_rescale": -1}, "step_rescale=-1.*positive number"),
        ({"widht": 3}, "Unknown option 'widht'"),
        ({"P": 16, "ssm_size_base": 8}, "leave one out"),
        ({"real_transform": "exp"}, "means nothing for S5 networks"),
        ("--d_model 8 --activation_fn", "--activation_fn has no value"),
        ("imdb_s6", "Unknown recipe 'imdb_s6'. Did you mean 'imdb_s5'"),
        ("digits_s4d", "family s4d"),
        ("none.yaml", "no such file"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_named(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        conversion.convert(
            TOKENS, given={"tokens": True, **given} if isinstance(given, dict) and given else given or None
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": None}, "no array 'inputs'"),
        ({"log_probs": np.zeros((8, 2))}, r"\(8, 2\); 8 sequences and 4 classes"),
        ({"log_probs": np.full((8, 4), np.nan)}, "finite"),
        ({"log_probs": np.array([{}], dtype=object)}, "cannot be read as .npz"),
        ({"inputs": np.full((8, 40), 12)}, "Ids from 12 to 12"),
        ({"lengths": np.full(8, 41)}, "lengths must be whole numbers from 1 to 40"),
    ],
)
def test_answers_that_do_not_fit_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with np.load(answers_of(TOKENS)) as stored:
        arrays = {name: stored[name] for name in ("inputs", "lengths", "log_probs")}
    np.savez(tmp_path / "x.npz", **{name: one for name, one in {**arrays, **change}.items() if one is not None})
    with pytest.raises(UserError, match=said):
        conversion.convert(TOKENS, overrides={"tokens": True}, check=tmp_path / "x.npz")


def test_a_torch_file_changes_nothing_outside_of_itself(tmp_path: Path) -> None:
    """Neither what builds tensors, nor by announcement the memory."""
    changes = b"\x80\x02ctorch\nFloatStorage\nN}X\x05\x00\x00\x00dtypeK\x01s\x86b."
    with pytest.raises(UserError, match="changes what builds tensors"):
        files.read(zipped(changes)(tmp_path))
    with pytest.raises(UserError, match="stores value number"):
        files.read(zipped(b"\x80\x02}r\xff\xff\xff\x7f.")(tmp_path))


# ---- what becomes of it


def test_the_steps_of_a_training_are_none_of_other_code(tmp_path: Path) -> None:
    found = conversion.convert(HERE / "pixel_unidirectional.msgpack")
    with CheckpointStore(tmp_path / "mine" / "checkpoints") as store:
        store.save(1, weights=found.converted.weights, training=None, metadata=found.facts, score=0.5, wait=True)
    for place in ("mine", "mine/checkpoints", "mine/checkpoints/1"):
        assert s5c.load(tmp_path / place).states == 16


def test_an_orbax_folder_is_the_same_network(tmp_path: Path) -> None:
    tree = msgpack_restore((HERE / "last_unidirectional.msgpack").read_bytes())
    with ocp.CheckpointManager(tmp_path / "orbax") as manager:
        for step in (3, 12):
            kept = jax.tree.map(lambda x, step=step: x * (step == 12), {k: tree[k] for k in ("params", "batch_stats")})
            manager.save(step, args=ocp.args.StandardSave(kept))
    found = conversion.convert(tmp_path / "orbax")
    of_file = conversion.convert(HERE / "last_unidirectional.msgpack")
    assert found.container == "an Orbax folder"
    jax.tree.map(np.testing.assert_array_equal, found.converted.weights, of_file.converted.weights)
    for stored in (tmp_path / "orbax" / "12").rglob("d/*"):
        stored.write_bytes(stored.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read as an Orbax folder"):
        conversion.convert(tmp_path / "orbax")


def test_systems_of_single_layers() -> None:
    """s5-pytorch's layers by themselves, against the recurrence written out."""
    every = s5c.load_systems(HERE / "s5_pytorch.pt")
    assert list(every) == ["blocks.0.s5", "blocks.1.s5"]
    source = files.read(HERE / "s5_pytorch.pt")[1]
    name = "blocks.0.s5.seq"
    system, step = every["blocks.0.s5"], np.exp(source[f"{name}.log_step"].astype(float))
    Lambda, C, B = source[f"{name}.Lambda"], source[f"{name}.C"], source[f"{name}.B"]
    a = np.exp(Lambda * step)
    impulse = (C * a**5) @ (((a - 1) / Lambda)[:, None] * (B @ [1, 1j]))
    with jax.enable_x64(True):
        A_bar, B_bar = (np.asarray(one) for one in system.discretise())
        found = 2 * ((np.asarray(system.C) * A_bar**5) @ B_bar).real
    np.testing.assert_allclose(found, impulse.real, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    conversion.write(conversion.convert(HERE / "pixel_unidirectional.msgpack"), folder / "mine")
    return folder / "mine"


@pytest.mark.slow
def test_a_network_without_a_task_is_reduced(checkpoint: Path, tmp_path: Path) -> None:
    outcome = jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=last", "reduction.ratio=0.5", folder=tmp_path)
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in next(tmp_path.rglob("rows.jsonl")).read_text().splitlines()]
    assert [row["states"] for row in rows] == [16, 8]
    assert rows[1]["test_accuracy"] is None and rows[1]["task"] == "none"
    assert s5c.load(tmp_path / rows[1]["checkpoint"]).states == 8


CALIBRATED = ("reduction=calibrated", "reduction.ratio=0.5")


def test_what_looks_at_data_asks_for_some(checkpoint: Path, tmp_path: Path) -> None:
    command = (f"checkpoint={checkpoint}", *CALIBRATED)
    outcome = jobs.run("reduce", *command, folder=tmp_path)
    assert outcome.code == 1 and "reduction.calibration.inputs=FILE.npz" in outcome.err
    np.savez(tmp_path / "x.npz", inputs=np.random.default_rng(0).standard_normal((6, 20, 1)))
    given = f"reduction.calibration.inputs={tmp_path / 'x.npz'}"
    outcome = jobs.run("reduce", *command, given, folder=tmp_path)
    assert outcome.code == 1 and "has 6; choose from 1 to 6" in outcome.err
    outcome = jobs.run("reduce", *command, given, "reduction.calibration.split=validation", folder=tmp_path)
    assert outcome.code == 1 and "changes nothing: the sequences are those" in outcome.err


@pytest.mark.slow
def test_calibration_takes_arrays(checkpoint: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", inputs=np.random.default_rng(0).standard_normal((6, 20, 1)))
    given = (f"reduction.calibration.inputs={tmp_path / 'x.npz'}", "reduction.calibration.sequences=6")
    outcome = jobs.run("reduce", f"checkpoint={checkpoint}", *CALIBRATED, *given, folder=tmp_path)
    assert outcome.code == 0, outcome.err


def test_a_task_and_a_recipe_may_be_given(checkpoint: Path, tmp_path: Path) -> None:
    tuned = (f"checkpoint={checkpoint}", "reduction=last", "reduction.finetune.epochs=1")
    outcome = jobs.run("reduce", *tuned, folder=tmp_path)
    assert outcome.code == 1 and "add +task=NAME" in outcome.err
    outcome = jobs.run("reduce", *tuned, "+task=digits", folder=tmp_path)
    assert outcome.code == 1 and "recipe=NAME" in outcome.err
    outcome = jobs.run("reduce", "checkpoint=zoo:digits_s5", "recipe=digits_s5", folder=tmp_path)
    assert outcome.code == 1 and "has the recipe of its own training" in outcome.err


@pytest.mark.slow
def test_a_converted_network_is_evaluated_on_a_task(checkpoint: Path, tmp_path: Path) -> None:
    outcome = jobs.run("evaluate", f"checkpoint={checkpoint}", "+task=digits", folder=tmp_path)
    assert outcome.code == 0 and outcome.value is not None and 0 <= outcome.value <= 1


@pytest.mark.slow
def test_a_converted_network_is_trained_on(checkpoint: Path, tmp_path: Path) -> None:
    outcome = jobs.run(
        "reduce", f"checkpoint={checkpoint}", "reduction=last", "reduction.finetune.epochs=1", "+task=digits",
        "recipe=digits_fast", folder=tmp_path,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err


# ---- metadata


@pytest.mark.parametrize("key", SCHEMA)
def test_a_missing_key_of_the_metadata_is_a_message(key: str, tmp_path: Path) -> None:
    found = conversion.convert(HERE / "pixel_unidirectional.msgpack")
    facts = {name: value for name, value in found.facts.items() if name != key}
    portable.write(tmp_path / "mine", found.converted.weights, facts)
    with pytest.raises(UserError, match=f"lack '{key}'"):
        _ = s5c.load(tmp_path / "mine").facts[key]
    with contextlib.suppress(UserError):  # no KeyError; what does without the key may do without it
        restored = restore({"checkpoint": tmp_path / "mine"}, which="best")
        common(restored, EvaluationKeys(), "mine", environment())
        assert key in ("source", "data", "selected_on", "vocabulary", "recipe", "step_rescale")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "s5"),
        ("state_dims", 8),
        ("state_dims", ["8"]),
        ("input_spec", [1, 10]),
        ("recipe", [1]),
        ("task", "x"),
    ],
)
def test_metadata_of_another_type_are_a_message(key: str, value: Any, tmp_path: Path) -> None:
    found = conversion.convert(HERE / "pixel_unidirectional.msgpack")
    portable.write(tmp_path / "mine", found.converted.weights, {**found.facts, key: value})
    with pytest.raises(UserError, match=f"say {key}="):
        s5c.load(tmp_path / "mine")


def test_a_model_with_keys_of_another_version_is_a_message(tmp_path: Path) -> None:
    found = conversion.convert(HERE / "pixel_unidirectional.msgpack")
    for change, said in (({"surplus": 1}, "surplus"), ({"name": "s6"}, "s6")):
        facts = {**found.facts, "model": {**found.facts["model"], **change}}
        portable.write(tmp_path / "mine", found.converted.weights, facts)
        with pytest.raises(UserError, match=said):
            s5c.load(tmp_path / "mine")
