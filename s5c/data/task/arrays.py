"""`arrays`: your own sequences, from files that NumPy, spreadsheets or the UCR, UEA and TSER archives leave.

Real channels and, for every sequence, a class or targets, or targets for every step. Which files, and what they hold:
`s5c.data.source.arrayfile`, `s5c.data.source.tables`, `s5c.data.source.ucr`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from s5c.data import padding
from s5c.data.base import Dataset, Split
from s5c.data.cache import Entry, Writer
from s5c.data.carve import carved
from s5c.data.origin import Located, Origin
from s5c.data.ragged import Ragged
from s5c.data.schema import CLASSES, STEPS, VALUES, Schema
from s5c.data.source import arrayfile, tables, ucr
from s5c.data.source.sequences import SPLITS, Sequences, check_alike
from s5c.data.statistics import SCALES, Moments, scale_of
from s5c.errors import UserError, bounded, unknown
from s5c.units import Scale, Targets

log = logging.getLogger(__name__)

VERSION = 1
CHUNK = 1024
"""Sequences that are written at a time."""
AUTO = "auto"
ANSWERS = (AUTO, CLASSES, VALUES)
TITLE = (
    "your sequences: train.npz and test.npz (or one npz, or npy files) with inputs and labels or targets, a folder of "
    "csv, npy or parquet files with labels.csv, or NAME_TRAIN.ts, .arff or .tsv"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Located):
    """Sequences of your own.

    Attributes:
        answers: auto | classes | values: what `y`, or labels that are whole numbers, are.
        metric: what networks are compared by; auto: accuracy, or rmse for targets.
        scale: standard | minmax | none, of channels and targets, by the training split alone.
        max_length: steps; longer sequences are cut. None: none is.
        pad: full | bucket | a list of lengths | how many to choose (`s5c.data.padding`).
        test_fraction: share of the examples that becomes the test split, where the data has none.
        split_seed: seeds what is carved.
        validation_fraction, validation_seed: of the training split, where the data has no validation split.
    """

    licence: ClassVar[str] = "Your own data, under the terms of its source."
    answers: str = AUTO
    metric: str = AUTO
    scale: str = "standard"
    max_length: int | None = bounded(None, least=1)
    pad: Any = padding.FULL
    test_fraction: float = bounded(0.2, above=0, most=0.9)
    split_seed: int = 0
    validation_fraction: float = bounded(0.1, above=0, most=0.9)
    validation_seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in (("answers", ANSWERS), ("scale", SCALES)):
            if (given := getattr(self, key)) not in allowed:
                raise unknown(f"value for task.{key}", given, allowed)
        padding.check(self.pad, self.max_length or 2**31)

    def load(self) -> Dataset:
        """Returns the data, padded with what a network sees as 0: the shift of each channel."""
        if self.data_dir is None:
            raise UserError("task=arrays is data of your own: say where it lies, task.data_dir=FOLDER or a file.")
        files = Origin("files", TITLE, self._from_files, _find, names=_names)
        options = {"answers": self.answers, "max_length": self.max_length}
        entry = self.obtain("arrays", ("arrays", VERSION, options), [files])
        facts = entry.facts
        splits = self._splits(entry)
        longest = max(split.inputs.length for split in splits.values() if isinstance(split.inputs, Ragged))
        moments = Moments.of(splits["train"])
        scale, outputs = scale_of(self.scale, moments.inputs), scale_of(self.scale, moments.targets)
        lengths = np.concatenate([split.stored_lengths() for split in splits.values()])
        fill = None if scale is None else np.asarray(scale.shift, np.float32)
        uneven = bool(lengths.min() < longest)
        splits = {name: _filled(split, longest, fill, uneven) for name, split in splits.items()}
        splits = padding.padded(splits, self.pad, longest)
        schema = Schema(
            channels=facts["channels"],
            shortest=int(lengths.min()),
            longest=longest,
            padded=_padded(splits["train"]),
            answers=facts["answers"],
            classes=tuple(facts["classes"]),
            outputs=tuple(facts["output_names"]),
            channel_names=tuple(facts["channel_names"]),
            scale=self.scale,
            shift=() if scale is None else scale.shift,
            size=() if scale is None else scale.size,
            output_shift=() if outputs is None else outputs.shift,
            output_size=() if outputs is None else outputs.size,
        )
        for line in schema.lines():
            log.info("arrays: %s", line)
        return Dataset(
            name="arrays",
            source=padding.named(entry.source, self.pad, splits["train"]),
            train=splits["train"],
            validation=splits["validation"],
            test=splits["test"],
            features=facts["channels"],
            classes=len(facts["classes"]) or facts["outputs"],
            checksum=entry.checksum,
            targets=_targets(schema, outputs),
            scale=scale,
            metric=_metric(self.metric, facts["answers"]),
            schema=schema,
            place=str(Path(self.data_dir).expanduser().absolute()),
        )

    def _splits(self, entry: Entry) -> dict[str, Split]:
        """Returns the splits that there are, and carves the others."""
        splits = {name: _split(entry, name) for name in SPLITS if f"{name}.lengths" in entry}
        wanted = (
            ("test", self.test_fraction, self.split_seed),
            ("validation", self.validation_fraction, self.validation_seed),
        )
        for name, fraction, seed in wanted:
            if name not in splits:
                splits["train"], splits[name] = carved(splits["train"], name, fraction, seed)
        return {name: splits[name] for name in SPLITS}

    # ---- preparation

    def _from_files(self, place: Path, writer: Writer) -> str:
        parts, kind = _read(place, self.answers)
        check_alike(list(parts.items()))
        first = parts["train"]
        if first.targets is None:
            classes = _classes(parts)
            answers, outputs = CLASSES, 0
        else:
            classes, outputs = [], first.targets[0].shape[-1]
            answers = STEPS if first.targets[0].ndim == 2 else VALUES
        names = first.outputs or tuple(f"target_{i + 1}" for i in range(outputs)) if outputs != 1 else ("target",)
        writer.facts = {
            "answers": answers,
            "classes": classes,
            "channels": first.values[0].shape[1],
            "outputs": outputs,
            "output_names": first.outputs or names,
            "channel_names": first.channels,
        }
        for name, part in parts.items():
            self._write(writer, name, part, {one: i for i, one in enumerate(classes)})
        return f"{kind} ({writer.raw.hexdigest()[:8]})"  # not its place: data that has moved is the same data

    def _write(self, writer: Writer, name: str, part: Sequences, classes: Mapping[str, int]) -> None:
        for start in range(0, len(part), CHUNK):
            cut = [value[: self.max_length] for value in part.values[start : start + CHUNK]]
            for value in cut:
                writer.raw.update(np.ascontiguousarray(value).data)
            writer.sequences(name, np.concatenate(cut), np.array([len(value) for value in cut]))
        if part.targets is None:
            labels = np.array([classes[label] for label in part.labels or ()], np.int32)
        elif part.targets[0].ndim == 1:
            labels = np.stack(part.targets).astype(np.float32)
        else:
            labels = np.zeros(len(part), np.int32)
            steps = [target[: self.max_length].astype(np.float32) for target in part.targets]
            writer.add(f"{name}.targets", np.concatenate(steps))
        writer.raw.update(np.ascontiguousarray(labels).data)
        writer.add(f"{name}.labels", labels)


def _find(place: Path) -> Path | None:
    return place if any(reader.find(place) for reader in (ucr, arrayfile, tables)) else None


def _names(place: Path) -> tuple[str, ...]:
    """Returns the files that tell whether the data has changed; none for all."""
    return tuple(str(path.absolute()) for path in ucr.find(place).values())


def _read(place: Path, answers: str) -> tuple[dict[str, Sequences], str]:
    """Returns the splits as they are stored, and what the set is called."""
    if files := ucr.find(place):
        found, kind = {name: ucr.read(path) for name, path in files.items()}, ucr.title(files)
    elif arrays := arrayfile.find(place):
        found, kind = {name: arrayfile.read(held, answers) for name, held in arrays.items()}, "own arrays"
    else:
        found, kind = {name: tables.read(path) for name, path in tables.find(place).items()}, "own tables"
    whole = found.pop("", None)
    if whole is not None and "train" in found:
        raise UserError(f"{whole.where[0]} is of no split, and {place} has a training split: give every one a split.")
    if whole is not None:
        found |= _apart(whole)
    if "train" not in found:
        raise UserError(
            f"{place} has {' and '.join(found)}; expected a training split. Files and arrays belong to the split that "
            "their name says (train, val or validation, test); a set in one file has none of these in its name."
        )
    for part in found.values():
        _reinterpret(part, answers)
    return {name: found[name] for name in SPLITS if name in found}, kind


def _apart(whole: Sequences) -> dict[str, Sequences]:
    """Returns examples by the splits that a file of labels names; all for training if it names none."""
    if whole.splits is None:
        return {"train": whole}

    def taken(values: Any, split: str) -> Any:
        assert whole.splits is not None
        return None if values is None else [one for one, own in zip(values, whole.splits, strict=True) if own == split]

    return {
        split: dataclasses.replace(
            whole, values=taken(whole.values, split), where=taken(whole.where, split), splits=None,
            labels=taken(whole.labels, split), targets=taken(whole.targets, split),
        )
        for split in dict.fromkeys(whole.splits)
    }  # fmt: skip


def _reinterpret(part: Sequences, answers: str) -> None:
    """Makes classes of whole-numbered targets, or targets of classes that are numbers, where that is asked for."""
    if answers == VALUES and part.labels is not None:
        try:
            part.targets = [np.array([float(label)]) for label in part.labels]
        except ValueError:
            wrong = next(i for i, label in enumerate(part.labels) if not _is_number(label))
            raise UserError(
                f"{part.where[wrong]}: the label is {part.labels[wrong][:40]!r}; task.answers=values expected a number."
            ) from None
        part.labels, part.declared = None, ()
    if answers == CLASSES and part.targets is not None:
        for target, where in zip(part.targets, part.where, strict=True):
            if target.shape != (1,) or target[0] != np.rint(target[0]):
                raise UserError(
                    f"{where}: target {target.ravel()[:3]}; task.answers=classes expected one whole number."
                )
        part.labels, part.targets = [f"{target[0]:.0f}" for target in part.targets], None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(parts: Mapping[str, Sequences]) -> list[str]:
    """Returns the names of the classes: as declared, else whole numbers by value, else text by letter."""
    train = parts["train"]
    seen = set(train.labels or ())
    for part in parts.values():
        for label, where in zip(part.labels or (), part.where, strict=True):
            if label not in seen:
                known = ", ".join(sorted(seen)[:12])
                raise UserError(f"{where}: no training example is of class {label[:40]!r}; expected one of {known}.")
    if len(seen) < 2:
        raise UserError(
            f"{train.where[0]} and all others are of class {next(iter(seen))!r}; expected two classes at least."
        )
    if seen <= set(train.declared):
        return [name for name in train.declared if name in seen]
    try:
        return sorted(seen, key=int)
    except ValueError:
        return sorted(seen)


def _split(entry: Entry, name: str) -> Split:
    lengths = np.asarray(entry.array(f"{name}.lengths"), np.int64)
    inputs = entry.ragged(name, int(lengths.max()))
    targets = None
    if f"{name}.targets" in entry:
        targets = Ragged(entry.array(f"{name}.targets"), inputs.offsets, inputs.length)
    return Split(inputs, np.asarray(entry.array(f"{name}.labels")), inputs.lengths, targets=targets)


def _filled(split: Split, longest: int, fill: np.ndarray | None, uneven: bool) -> Split:
    """Returns a split whose padding is the shift of each channel, with lengths where there is any."""
    assert isinstance(split.inputs, Ragged)
    return dataclasses.replace(
        split,
        inputs=dataclasses.replace(split.inputs, length=longest, fill=fill),
        lengths=split.stored_lengths() if uneven else None,
        targets=dataclasses.replace(split.targets, length=longest) if isinstance(split.targets, Ragged) else None,
    )


def _targets(schema: Schema, scale: Scale | None) -> Targets | None:
    if schema.answers == CLASSES:
        return None
    count = len(schema.outputs)
    return Targets(*(scale or ((0.0,) * count, (1.0,) * count)), per_step=schema.answers == STEPS)


def _padded(split: Split) -> int:
    assert isinstance(split.inputs, Ragged)
    return split.inputs.length


def _metric(given: str, answers: str) -> str:
    if given != AUTO:
        return given
    return "accuracy" if answers == CLASSES else "rmse"
