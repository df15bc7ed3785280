"""s5c from Python: load a network, reduce it, ask it, compare, save. The commands do the same on tasks and sweeps.

    model = s5c.load("zoo:smnist_short_s5")
    small = s5c.reduce(model, "calibrated", ratio=0.8, data=inputs)
    small.evaluate(x, y)
    print(s5c.compare([model, small]))
    s5c.save(small, "folder")

Neither Hydra nor W&B nor TensorFlow Datasets is imported.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s5c import axes, presets
from s5c import config as settings
from s5c.comparison import Comparison
from s5c.data.base import Dataset, Split, Splits
from s5c.errors import UserError, unknown
from s5c.evaluation.metrics import predict
from s5c.given import (
    TRAINED,
    array,
    as_split,
    check_finite,
    native,
    padded_alike,
    padding_of,
    whole,
)
from s5c.locations import given_path
from s5c.metric import ACCURACY
from s5c.model.classifier import Classifier, InputSpec
from s5c.model.config import from_dict
from s5c.networks import BATCH, Model
from s5c.pipeline import conversion, portable, zoo
from s5c.pipeline.row import as_found, reduced_facts
from s5c.pipeline.search import Memory, Search, largest_ratio, reductions, validates
from s5c.pipeline.stage import train
from s5c.pipeline.targets import check
from s5c.pipeline.trained import TrainedModel, batches
from s5c.pipeline.untasked import NAME
from s5c.training.checkpoint import Checkpoint
from s5c.training.checkpoint import load as load_checkpoint
from s5c.training.facts import checked

CHECKPOINTS = ("best", "latest")

OF_COMMANDS = ("save", "weights", "name")
"""Keys of a preset that say where a command reads and writes, and what a table calls it."""


def load(
    source: str | Path,
    *,
    weights: str = "best",
    recipe: Any = None,
    check: str | Path | None = None,
    **options: Any,
) -> Model:
    """Returns a network, of s5c or of other code (`python -m s5c.convert --help` says of which).

    Args:
        source: `zoo:NAME`, the folder of a training or of a reduced model, or a folder that `save` or `s5c.convert`
            wrote; or a file, or an Orbax folder, of other code.
        weights: best | latest, of a training.
        recipe: of a file of other code, what it does not say itself: a name in conf/experiment, a yaml file of options,
            a mapping of them, or upstream's argument line.
        check: `.npz` with `inputs`, `lengths` if some are padded, and `log_probs` of the original network; without,
            nobody knows whether what is assumed is right.
        options: single options of a file of other code, over those of the recipe: `activation="half_glu2"`.

    Raises:
        UserError: there is no intact network, an option does not fit it, or the answers differ.
    """
    path, text = given_path(source, "source="), str(source)
    if recipe is not None or check is not None or options or conversion.is_foreign(path):
        answers = None if check is None else given_path(check, "check=")
        return _model(path.stem, conversion.loaded(path, recipe, options, answers))
    if weights not in CHECKPOINTS:
        raise unknown("checkpoint", weights, CHECKPOINTS)
    if text.startswith(zoo.PREFIX):
        found, name = zoo.load(text.removeprefix(zoo.PREFIX)), text.removeprefix(zoo.PREFIX)
    else:
        found = portable.read(path) if portable.is_portable(path) else load_checkpoint(path, which=weights)
        name = str(found.metadata.get("name") or path.name)
        if found.metadata.get("parent") and (done := found.metadata.get("reductions")):  # reduced by a command
            name = f"{name} {done[-1]}"
    return _model(name, found)


def save(model: Model, folder: str | Path) -> Path:
    """Writes a network as safetensors with a card; `load` and `checkpoint=FOLDER` read it.

    Args:
        model: the network.
        folder: its place; a network that is there already is replaced once the new one is whole.

    Returns:
        The folder.

    Raises:
        UserError: something else is there.
    """
    _check_models([model], "s5c.save")
    path = given_path(folder, "folder=").absolute()
    portable.check_free(path)
    of_storage = ("schema", "checksum", "empty_arrays", "data_dir")
    facts = {key: value for key, value in model.facts.items() if key not in of_storage}
    if model.evaluated is not None:
        facts["evaluated"] = model.evaluated._asdict()
    try:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        portable.write(path, model.weights, settings.jsonable({"step": 0, **facts, "name": model.name}))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): give another folder.") from error
    return path


def reduce(
    model: Model,
    preset: str = "last",
    *,
    data: Any = None,
    lengths: Any = None,
    validation: tuple[Any, Any] | None = None,
    length: int | None = None,
    **options: Any,
) -> Model:
    """Returns a smaller network; the given one stays as it is.

    Args:
        model: the network.
        preset: file name in conf/reduction, such as "last", "bt_tolerance" or "calibrated".
        data: unlabelled sequences, as for `Model.predict`, for presets that look at some. All of them are used, unless
            `calibration={"sequences": n}` says how many.
        lengths: valid steps of these.
        validation: sequences and classes, for `max_drop`.
        length: steps of the sequences it runs on, for methods with horizon="sequence"; that of `data` if None.
        options: any key of the preset: `ratio=0.8`, `order=8`, `tolerance=0.05`, `max_drop=0.5`, `refit="h2"`,
            `allocation="global"`, ... One target alone.

    Returns:
        The network; `reduced` holds what the reduction said.

    Raises:
        UserError: unknown preset or key, a value out of range, a setting that would change nothing, or missing data.
    """
    _check_models([model], "s5c.reduce")
    check_finite(model.name, model.weights)
    usual = presets.read(preset)
    if idle := [key for key in OF_COMMANDS if key in options]:
        raise UserError(
            f"{idle[0]}= changes nothing here: it is of commands, which read and write folders. Leave it out."
        )
    job = settings.reduction_job(_with(usual, options, None), (preset, usual))
    if data is not None and not axes.looks_at_data(job):
        raise UserError(
            f"data= changes nothing: {axes.name(job)} looks at no sequences. Leave it out; how long "
            "they are, for methods that ask for it, is length=."
        )
    job = settings.reduction_job(_with(usual, options, data), (preset, usual))
    if job.keys.method == "none":
        raise UserError("reduction=none leaves the network as it is: choose another preset.")
    if job.of(train.Stage).epochs:
        raise UserError(f"{preset} trains afterwards, which needs a task: python -m s5c.reduce reduction={preset} ...")
    if len(job.targets) > 1:
        raise UserError("Give one target; for several call s5c.reduce several times.")
    if axes.looks_at_data(job) and data is None:
        raise UserError(f"{axes.name(job)} looks at sequences: give data=, unlabelled ones will do.")
    if lengths is not None and data is None:
        raise UserError("lengths= are those of data=: give both, or neither.")
    if validation is not None and not validates(job):
        raise UserError(
            "validation= is looked at for max_drop=, and for bytes= without bits=: give it with one of these."
        )
    trained = _with_data(model, data, lengths, validation, length)
    if validates(job) and validation is None:
        what = "max_drop= is" if job.kind == "max_drop" else "bytes= without bits= chooses by answers, which are"
        raise UserError(f"{what} measured on labelled sequences: give validation=(x, y), not the test data.")
    check(
        job,
        model.network.config,
        model.network.state_dims,
        trained.splits,
        lambda: model.weights["params"],
        model.network.spec,
    )
    with tempfile.TemporaryDirectory() as place:
        targets = job.targets
        if job.of(Search).max_drop is not None:
            memory = Memory(Path(place) / "search.json", "")
            targets = (largest_ratio(trained, job, Path(place), partial(_validated, trained), memory),)
        validate = partial(_validated, trained)
        made, _ = reductions(trained, job, targets, folder=Path(place), validate=validate)
        found = next(made)
    facts = settings.jsonable(reduced_facts(trained, job, found))
    name = f"{model.name} {axes.name(as_found(job, found))} {found.target.label}"
    return Model(name, found.model, found.weights, facts, found)


def compare(models: Sequence[Model]) -> Comparison:
    """Returns sizes, accuracies and poles of networks side by side.

    Accuracy and agreement are those of the last `evaluate`, which all of them should have seen with the same sequences.

    Args:
        models: the first one is what the others are compared with.

    Raises:
        UserError: there are none.
    """
    if isinstance(models, Model) or (models and not isinstance(models, Iterable)):
        raise UserError("s5c.compare takes a list: s5c.compare([model, small]).")
    found = list(models or ())
    if not found:
        raise UserError("There is nothing to compare: give at least one model.")
    _check_models(found, "s5c.compare")
    return Comparison.of(found)


def _model(name: str, found: Checkpoint) -> Model:
    facts = checked(found.metadata)
    config = from_dict(facts["model"])
    network = Classifier(config, InputSpec(*facts["input_spec"]), config.check_state_dims(facts["state_dims"]))
    return Model(name, network, found.weights, facts)


def _with(usual: Mapping[str, Any], options: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Returns the keys of a preset with others in their place; groups of keys are merged."""
    values = copy.deepcopy(dict(usual))
    if data is not None:
        values["calibration"]["sequences"] = len(np.atleast_1d(array(data, "The sequences")))
    for key, value in native(options).items():
        merged = isinstance(value, Mapping) and isinstance(values.get(key), dict)
        values[key] = {**values[key], **value} if merged else value
    return values


def _with_data(
    model: Model, data: Any, lengths: Any, validation: tuple[Any, Any] | None, length: int | None
) -> TrainedModel:
    """Returns a network with arrays in the place of its task's data."""
    spec = model.network.spec
    steps = None if length is None else whole(length, "length", "length=784")
    nothing = Split(np.zeros((0, *([2] * spec.pairs), steps or 0)), np.zeros(0, np.int32))
    padding = padding_of(model.network.config, model.facts, TRAINED)
    train = nothing if data is None else padded_alike(as_split(spec, data, lengths), padding, pairs=spec.pairs)
    selection = nothing
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2 or validation[1] is None:
            raise UserError("validation= takes two things, sequences and their classes: validation=(x, y).")
        selection = padded_alike(as_split(spec, validation[0], None, validation[1]), padding, pairs=spec.pairs)
    dataset = Dataset(
        str((model.facts["task"] or {"name": NAME})["name"]), "arrays given in Python",
        train, selection, spec.features, spec.classes,
        tokens=spec.tokens, pairs=spec.pairs, step_rescale=model.facts["step_rescale"], steps=steps,
        targets=spec.targets, scale=spec.scale, metric=model.facts.get("metric", ACCURACY.name),
    )  # fmt: skip
    splits = Splits(train, selection, selection, "validation")
    facts = {**model.facts}
    return TrainedModel(model.network, model.weights, facts, Path(model.name), facts["trained_id"], dataset, splits)


def _validated(trained: TrainedModel, network: Classifier, weights: Mapping[str, Any]) -> float | None:
    split = batches(trained.splits.selection, BATCH)()
    return predict(network, weights, split, step_rescale=trained.step_rescale).metrics[trained.metric.name]


def _check_models(models: Sequence[Any], function: str) -> None:
    for model in models:
        if not isinstance(model, Model):
            raise UserError(f"{function} takes networks that s5c.load or s5c.reduce returned, not {model!r:.80}.")
