"""Trained models to start from, one folder each: `weights.safetensors`, `card.json`, `answers.npz` and a README.

`checkpoint=zoo:NAME` names one wherever a checkpoint is read. A card holds all that a checkpoint's metadata holds, so
nothing else is needed to rebuild the network; the checksums in it cover the card itself and every array. The README
is made from the card; `s5c.pipeline.answers` says what the answers are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from s5c.data.base import task_class
from s5c.data.padded import KEY, Padding
from s5c.errors import UserError, nearest_first
from s5c.evaluation.metrics import check_answers
from s5c.metric import ACCURACY, METRICS
from s5c.model import surgery
from s5c.model.config import from_dict
from s5c.pipeline import answers, portable
from s5c.pipeline.provenance import write_json
from s5c.pipeline.shelf import names, zoo_dir
from s5c.pipeline.trained import WEIGHTS_FILE, TrainedModel, predictions
from s5c.training import finished
from s5c.training.checkpoint import Checkpoint
from s5c.training.exclusive import alone_in
from s5c.training.integrity import DamagedCheckpointError, seal
from s5c.training.stored import BEST

PREFIX = "zoo:"
NAME = r"\w[\w.-]*"

_OF_TRAINING = ("schema", "checksum", "empty_arrays", "epoch_sums", "metrics", "score", "parent", "epoch", BEST)
"""Metadata that a step of a training has and a zoo model has not, or has with another meaning."""


def summaries() -> dict[str, str]:
    """Returns every model in one line, or what is wrong with it, by name."""
    found = {}
    for name in names():
        try:
            found[name] = _summary(portable.read_card(zoo_dir() / name))
        except UserError as error:
            found[name] = str(error).splitlines()[0]
    return found


def load(name: str) -> Checkpoint:
    """Reads a model of the zoo; nothing in it is executed.

    Args:
        name: its folder in the zoo.

    Raises:
        UserError: there is none of that name (the message lists those that exist), or it is damaged.
    """
    folder = zoo_dir() / name
    if name not in names():
        if re.fullmatch(NAME, name) and (folder / WEIGHTS_FILE).is_file():
            raise DamagedCheckpointError(folder, f"its {portable.CARD} is gone.")
        raise UserError(_none_called(name))
    return portable.read(folder)


def export(trained: TrainedModel, name: str, *, batch_size: int = 64) -> Path:
    """Evaluates a trained model and puts it into the zoo; one of the same name is replaced once the new one is whole.

    Args:
        trained: the best epoch of a finished training.
        name: folder in the zoo.
        batch_size: batch size of the evaluation.

    Returns:
        The folder.

    Raises:
        UserError: the training is not finished, or the name cannot be one of a folder.
    """
    record = finished.read(trained.path.parents[1])
    if record is None:
        raise UserError(f"{trained.path} is not of a finished training: only those go into the zoo.")
    if not re.fullmatch(NAME, name):
        raise UserError(f"{name!r} cannot name a zoo model: use letters, digits, '_', '-' and '.'.")
    facts = _facts(trained, name, record, batch_size)
    said = answers.answers(trained)
    folder = zoo_dir() / name

    def finish(unfinished: Path, card: dict[str, Any]) -> None:
        (unfinished / "README.md").write_text(_readme(card), "utf-8")
        np.savez_compressed(unfinished / answers.FILE, **said)  # type: ignore[arg-type]

    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(folder.parent):
        portable.write(folder, trained.weights, facts, finish)
    return folder


def recount(name: str) -> list[int]:
    """Puts unstable modes and padding of a model of the zoo on its card, which may be older than both; weights stay.

    Args:
        name: its folder in the zoo.

    Returns:
        How many unstable modes each layer has.

    Raises:
        UserError: there is none of that name, or it is damaged.
    """
    model, folder = load(name), zoo_dir() / name
    modes = surgery.unstable_modes(model.weights["params"], from_dict(model.metadata["model"]))
    facts = {key: value for key, value in portable.read_card(folder).items() if key != "checksum"}
    padding = Padding.known(facts)
    facts[KEY] = None if padding is None else padding.record()
    card, _ = seal({**facts, "unstable_modes": modes}, {"weights": model.weights})
    write_json(folder / portable.CARD, card)
    (folder / "README.md").write_text(_readme(card), "utf-8")
    return modes


def _facts(trained: TrainedModel, name: str, finished: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    kept = {key: value for key, value in trained.metadata.items() if key not in _OF_TRAINING}
    selection, test = predictions(trained, batch_size, trained.model, trained.weights)
    check_answers(f"The model {trained.path}", selection=selection, test=test)
    return {
        "name": name,
        **kept,
        "best_epoch": finished["best_epoch"],
        "metrics": {
            **{f"val_{name}": value for name, value in selection.metrics.items()},
            "val_loss": selection.loss,
            **{f"test_{name}": value for name, value in test.metrics.items()},
            "test_loss": test.loss,
        },
        "examples": {"train": len(trained.splits.train), "val": len(selection.finite), "test": len(test.finite)},
        "parameters": sum(np.size(array) for array in flatten_dict(trained.weights["params"]).values()),
        "unstable_modes": surgery.unstable_modes(trained.weights["params"], trained.model.config),
        "seconds": finished["seconds"],
        "device": finished["environment"]["device"],
        "packages": finished["environment"]["packages"],
        "command": finished["environment"]["command"],
        "licence": f"Weights: Apache-2.0, as the code. Data: {_terms(kept['task']['name'])}",
    }


def _terms(task: str) -> str:
    return getattr(task_class(task), "licence", "see the terms of its source.")


def _summary(card: Mapping[str, Any]) -> str:
    """Returns a model in one line."""
    accuracy = f"{_told(card, 'test')} on test"
    return (
        f"{card['model']['name']} on {card['task']['name']}, {accuracy} (selected on {card['selected_on']}), "
        f"{len(card['state_dims'])} layers, {sum(card['state_dims'])} states{_unstable(card)}, "
        f"{card['parameters']:,} parameters"
    )


def _told(card: Mapping[str, Any], split: str) -> str:
    """Returns what a model scores on a split."""
    metric = METRICS[card.get("metric", ACCURACY.name)]
    value = card["metrics"][f"{split}_{metric.name}"]
    return f"{100 * value:.2f} %" if metric is ACCURACY else metric.told(value)


def _unstable(card: Mapping[str, Any]) -> str:
    """Returns how many of the states are unstable modes; nothing if none is, or the card is older than the count."""
    modes = sum(card.get("unstable_modes") or [])
    return f" ({modes} unstable)" if modes else ""


def _none_called(name: str) -> str:
    found = summaries()
    if not found:
        return (
            f"The zoo {zoo_dir()} is empty. S5C_ZOO=/another/folder says where another one is; "
            "`python -m s5c.studies run` trains the models that belong into it."
        )
    asked = f"There is no zoo model {name!r}." if name else f"{PREFIX} needs the name of a model."
    lines = [f"  {PREFIX}{known}  {found[known]}" for known in (nearest_first(name, found) if name else found)]
    return "\n".join([f"{asked} Those in {zoo_dir()}:", *lines])


def _counted(card: Mapping[str, Any]) -> dict[str, str]:
    modes = card.get("unstable_modes")
    return {} if modes is None else {"Unstable modes per layer (\\|Lambda_bar\\| >= 1)": ", ".join(map(str, modes))}


def _padded(card: Mapping[str, Any]) -> dict[str, str]:
    padding = card.get(KEY)
    return {} if padding is None else {"Padded to": f"{' or '.join(map(str, padding['lengths']))} steps"}


def _readme(card: Mapping[str, Any]) -> str:
    recipe = ", ".join(f"{key} {value}" for key, value in card["recipe"].items())
    model = ", ".join(f"{key} {value}" for key, value in card["model"].items() if key != "name")
    task = ", ".join(f"{key} {value}" for key, value in card["task"].items() if key != "name")
    metrics, examples = card["metrics"], card["examples"]
    rows = {
        "Data": f"{card['source']}, checksum `{card['data']}`",
        "Task": f"{card['task']['name']}: {task}",
        "Model": f"{card['model']['name']}: {model}",
        "Stored states per layer": ", ".join(map(str, card["state_dims"])),
        **_counted(card),
        **_padded(card),
        "Recipe": recipe,
        "Seed, protocol": f"{card['seed']}, `{card['protocol']}`: best epoch ({card['best_epoch']}) selected on "
        f"{card['selected_on']}",
        "Selection": f"{_told(card, 'val')} of {examples['val']:,}, loss {metrics['val_loss']:.4f}",
        "Test": f"{_told(card, 'test')} of {examples['test']:,}, loss {metrics['test_loss']:.4f}",
        "Trained": f"{card['seconds'] / 60:.3g} minutes on {card['device']}, s5c {card['s5c']} {card['git']}".rstrip(),
        "Command": f"`{card['command']}`",
        "Licence": card["licence"],
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return (
        f"# {card['name']}\n\n{_summary(card)}.\n\n```sh\n"
        f"python -m s5c.reduce checkpoint={PREFIX}{card['name']} reduction=last reduction.ratio=0.5\n```\n\n"
        f"| | |\n|---|---|\n{table}\n\nMade from `{portable.CARD}`, which has the vocabulary and the checksums too.\n"
    )
