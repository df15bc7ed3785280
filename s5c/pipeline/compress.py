"""From a trained model to reduced ones: reduce at every target, evaluate, measure, save, log; nothing twice."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from s5c import config as settings
from s5c.atomic import save_arrays
from s5c.data.part import scored
from s5c.evaluation.metrics import check_answers, predict, restored, unanswered
from s5c.evaluation.unasked import unasked
from s5c.keys import EvaluationKeys
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.pipeline.latency import measure
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.parts import FULL, LATENCY, PARTS, RANKING, REDUCED, Part, Parts
from s5c.pipeline.provenance import environment, read_json, shown, write_json
from s5c.pipeline.question import of_part
from s5c.pipeline.row import accuracies, as_it_is, as_reduced, common, name_of, reduced_facts, single_file
from s5c.pipeline.search import Memory, Search, largest_ratio, reductions
from s5c.pipeline.spectra import full_arrays, reduced_arrays
from s5c.pipeline.trained import TrainedModel, batches, from_checkpoint, predictions
from s5c.pipeline.zoo import PREFIX, names
from s5c.reduction.contract import Masking
from s5c.reduction.layer import check_finite
from s5c.reduction.stage import Selected
from s5c.reduction.target import Target
from s5c.report.collect import ROWS_FILE
from s5c.report.row import Row, as_row, value
from s5c.report.rowfile import latest_beside, write_rows
from s5c.tracking.run import Run
from s5c.training.checkpoint import load
from s5c.training.interrupt import Interrupted, last_words

log = logging.getLogger(__name__)

SPECTRA, REPORT, MARKER = "spectra.npz", "report.md", "finished.json"
FINETUNED = "finetuned"
"""Trainings after reductions."""


Key = Target | str
"""A part of the answer: a target, or `full`, `ranking`, `latency`."""


class Compression:
    """A model, what is asked of it, and the parts of the answer that are there already.

    Args:
        trained: the model to reduce.
        reduction: the preset with its targets; None evaluates the model as it is.
        evaluation: what to measure.
        folder: folder of the run, whose lock the caller holds; rows.jsonl, spectra.npz and models go there.
        question: what `s5c.pipeline.question.ask` returned.
    """

    def __init__(
        self,
        trained: TrainedModel,
        reduction: settings.ReductionJob | None,
        evaluation: EvaluationKeys,
        *,
        folder: Path,
        question: Mapping[str, Any],
    ) -> None:
        self.trained = _on_part(trained, evaluation.test_examples, evaluation.test_skip)
        self.reduction = None if reduction is None or reduction.keys.method == "none" else reduction
        if evaluation.latency and trained.length is None:
            log.info("No latency is measured: it is not known how long the sequences of this network are.")
            evaluation = dataclasses.replace(evaluation, latency=False)
        self.evaluation, self.folder = evaluation, folder
        self.targets: list[Target] = [] if self.reduction is None else list(self.reduction.targets)
        self.parts = Parts(folder, of_part(question, self.trained))
        self.base = common(self.trained, evaluation, str(question["name"]), environment())
        self._said = partial(predictions, self.trained, evaluation.batch_size)

    def finished(self, record: str) -> list[Row] | None:
        """Returns the rows if nothing is left to compute, to measure, to draw or to record.

        Args:
            record: mode of the record that is asked for: online | offline | disabled.
        """
        marker = read_json(self.folder / MARKER)
        recorded = record in ("disabled", *marker.get("records", []))
        if marker.get("identity") != self.parts.identity(MARKER) or not recorded:
            return None
        asked = self.targets
        if self.reduction is not None and self.reduction.of(Search).max_drop is not None:
            self.targets = _marked(marker)
        timed = self._timed() or not self.evaluation.latency
        there = (self.folder / REPORT).is_file() and self._found(FULL) is not None and not self._missing()
        if not (there and timed) or (self.reduction is not None and not self.targets):
            self.targets = asked
            return None
        self._share()
        return self._publish()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """While active, whoever stops the job is told what is kept.

        Raises:
            Interrupted: on any interruption.
        """
        try:
            with last_words(self._kept):
                yield
        except KeyboardInterrupt as stop:
            raise Interrupted(f"{str(stop) or 'Interrupted.'} {self._kept()}") from stop

    def run(self, record: Run) -> list[Row]:
        """Computes what is missing; every part is kept as soon as it is whole.

        Args:
            record: record of the run.

        Returns:
            One row for the model as it is and one per target, as `rows.jsonl` has them.

        Raises:
            UserError: the data does not fit, the disk is full, or a parameter of the model, or an answer of it, is not
                a finite number.
        """
        trained = self.trained
        if self._found(FULL) is None:
            check_finite(surgery.layers(trained.weights, trained.model.config))
            selection, test = self._said(trained.model, trained.weights)
            check_answers(f"The model {name_of(trained)}", selection=selection, test=test)
            row: Row = {**self.base, **as_it_is(trained), **accuracies(trained.metric, selection, test, reference=test)}
            self._keep(FULL, row, {**test.stored(), **test.single})
        if self.reduction is not None:
            self._reduce(self.reduction, record)
        if self.evaluation.latency and not self._timed():
            self._measure()
        rows = self._publish()
        _report_to(record, trained, rows)
        return rows

    def done(self, record: str) -> None:
        """Notes that figures and record are there too; networks that were kept for their times alone go.

        Args:
            record: mode of the record that was written.
        """
        asked = [[target.kind, target.value] for target in self.targets]
        records = sorted({record, *read_json(self.folder / MARKER).get("records", [])})
        facts = {"identity": self.parts.identity(MARKER), "targets": asked, "records": records}
        write_json(self.folder / MARKER, facts)
        self.parts.drop_models()

    # ---- parts

    @functools.cached_property
    def _latest(self) -> float:
        """The latest time of a row beside this run."""
        return latest_beside(self.folder / ROWS_FILE)

    @property
    def _single(self) -> str:
        """The array of a part that paired errors are computed from."""
        return "correct" if self.trained.dataset.targets is None else "sums"

    @property
    def _rows_of(self) -> list[Key]:
        return [FULL, *self.targets]

    def _name(self, part: Key) -> str:
        if isinstance(part, str):
            return part
        assert self.reduction is not None, "there are no targets without one"
        return f"{self.reduction.keys.name}-{part.label}"

    def _place(self, part: Key) -> Path:
        saved = isinstance(part, Target) and self.reduction is not None and self.reduction.keys.save
        return self.parts.place(self._name(part), saved=saved)

    def _found(self, part: Key) -> Part | None:
        return self.parts.find(self._place(part), _asked(part))

    def _missing(self) -> list[Target]:
        """Returns the targets that have no part, or no network where its time is still to be measured."""
        timed = not self.evaluation.latency or self._timed()

        def there(part: Part | None) -> bool:
            return part is not None and (timed or part.row["masked_only"] or part.model is not None)

        return [target for target in self.targets if not there(self._found(target))]

    def _keep(self, part: Key, row: Row, arrays: Mapping[str, Any], network: Any = None) -> None:
        """Keeps a part; no row names a network while it is replaced."""
        if self._place(part).exists():
            self._publish(without=part)
        self.parts.keep(self._place(part), _asked(part), row, arrays, network)
        self._publish()

    def _publish(self, without: Key | None = None) -> list[Row]:
        """Writes rows and answers of all parts that are there; returns the rows."""
        places = {part: self._place(part) for part in self._rows_of if part != without}
        found = {part: kept for part, place in places.items() if (kept := self.parts.read(place)) is not None}
        rows = [self._row(part, kept) for part, kept in found.items()]
        path = self.folder / ROWS_FILE
        if self.reduction is None or len(rows) > 1 or path.exists():
            if self.reduction is not None:
                single = {_label(part): kept.arrays[self._single] for part, kept in found.items()}
                save_arrays(self.folder / single_file(self.trained), single)
            write_rows(path, rows, self._latest)
        return rows

    def _share(self) -> None:
        """Writes what the figures of all networks are drawn from."""
        if (shared := self._found(RANKING)) is not None:
            parts = [part for target in self.targets if (part := self._found(target)) is not None]
            own = {name: array for part in parts for name, array in part.arrays.items() if name != self._single}
            save_arrays(self.folder / SPECTRA, {**shared.arrays, **own})

    def _row(self, part: Key, kept: Part) -> Row:
        """Returns the row of a part, with its times, and with paths that have changed since as they are now."""
        now: Row = {}
        if kept.identity == self.parts.identity(_asked(part)) and not _leads(kept.row["parent"]):
            now = {"parent": self.base["parent"], "checkpoint_bytes_full": self.base["checkpoint_bytes_full"]}
            if part == FULL:
                now |= {"checkpoint": now["parent"], "checkpoint_bytes": now["checkpoint_bytes_full"]}
        if kept.place.parent.name == REDUCED:
            now |= {"checkpoint": shown(kept.place), "checkpoint_bytes": kept.row["safetensors_bytes"]}
        times = self._times().get("parts", {}).get(self._name(part), {})
        return as_row({**kept.row, **now, **(times["values"] if times.get("identity") == kept.identity else {})})

    def _times(self) -> dict[str, Any]:
        """Returns the times of all networks by part, which parts those were, and what they were measured with."""
        found = self.parts.read(self._place(LATENCY))
        return {} if found is None else found.row

    def _timed(self) -> bool:
        """Returns whether all networks that are there were timed together, on this device, with as many rounds."""
        times = self._times()
        if (times.get("device"), times.get("rounds")) != (self.base["device"], self.evaluation.rounds):
            return False
        parts = {self._name(part): self._found(part) for part in self._rows_of}
        timed = {name: part for name, part in parts.items() if part is None or not part.row["masked_only"]}
        wanted = {name: None if part is None else part.identity for name, part in timed.items()}
        return wanted == {name: one["identity"] for name, one in times["parts"].items()}

    def _kept(self) -> str:
        """Returns what an interrupted run leaves, in words."""
        if self.reduction is None:
            return f"The evaluation is kept in {self.folder}." if self._found(FULL) else "Nothing was finished yet."
        done = [self._name(target) for target in self.targets if self._found(target) is not None]
        if not done:
            return f"No reduction is finished yet; what was found on the way is kept in {self.folder}."
        return f"{len(done)} of {len(self.targets)} reductions are kept in {self.folder}: {', '.join(done)}."

    # ---- what is computed

    def _reduce(self, reduction: settings.ReductionJob, record: Run) -> None:
        """Reduces the network at every target that is missing, and keeps what all targets share."""
        trained, place = self.trained, self.folder / FINETUNED
        validate = partial(_validated, trained, self.evaluation)
        if reduction.of(Search).max_drop is not None:
            memory = Memory(self.folder / PARTS / "search.json", self.parts.identity("search"))
            self.targets = [largest_ratio(trained, reduction, place, validate, memory)]
        missing = self._missing()
        ranked = isinstance(reduction.method, Masking) or self._found(RANKING) is not None
        if there := len(self.targets) - len(missing):
            log.info("%d of %d reductions are there already.", there, len(self.targets))
        if missing or not ranked:
            made, ranking = reductions(trained, reduction, missing, folder=place, validate=validate)
            if ranking is not None and not ranked:
                self.parts.keep(self._place(RANKING), RANKING, {}, full_arrays(trained, ranking))
            self._cut(reduction, made, len(missing), record)
        self._share()

    def _cut(self, reduction: settings.ReductionJob, made: Iterable[ReducedNetwork], count: int, record: Run) -> None:
        """Evaluates and keeps networks as they are made."""
        full = self._found(FULL)
        assert full is not None, "evaluated before"
        reference = restored(full.arrays)
        reference = reference if len(reference.labels) else unasked(self.base["classes"])
        title, hidden = f"{reduction.keys.name}: evaluating", not sys.stderr.isatty()
        for network in track(made, total=count, description=title, transient=True, disable=hidden):
            found = self._said(network.model, network.weights)
            row: Row = {**self.base, **as_reduced(self.trained, reduction, network)}
            row |= accuracies(self.trained.metric, *found, reference=reference)
            for note in unanswered(selection=found[0], test=found[1]):
                log.warning("%s at %s: %s", reduction.keys.name, network.target.label, note)
                row["notes"].append(f"at {network.target.label}: {note}")
            arrays = {**found[1].single, **reduced_arrays(network)}
            stored = reduction.keys.save or self.evaluation.latency
            saved = (network.weights, _metadata(self.trained, reduction, network, row)) if stored else None
            self._keep(network.target, row, arrays, saved)
            record.log(_scalars(row), event="reduced")

    def _measure(self) -> None:
        """Times all networks together; those whose parameters are only silenced take as long as the full one."""
        parts = {part: kept for part in self._rows_of if (kept := self._found(part)) is not None}
        rows: list[Row] = [{"device": self.base["device"]} for _ in parts]
        measure(
            rows, self.trained, [self._read_back(target, parts[target]) for target in self.targets], self.evaluation
        )
        times = {
            self._name(part): {"identity": kept.identity, "values": {k: v for k, v in row.items() if k != "device"}}
            for (part, kept), row in zip(parts.items(), rows, strict=True)
            if not kept.row["masked_only"]
        }
        with_what = {"device": self.base["device"], "rounds": self.evaluation.rounds}
        self.parts.keep(self._place(LATENCY), LATENCY, {**with_what, "parts": times}, {})

    def _read_back(self, target: Target, kept: Part) -> ReducedNetwork:
        """Returns a network that was made before, as far as its time depends on it."""
        network, selected, row = self.trained, None, kept.row
        if not row["masked_only"]:
            assert kept.model is not None, "stored with the part"
            network = from_checkpoint(load(kept.model), self.trained.dataset, self.trained.splits)
            layers = range(len(row["orders"]))
            selected = Selected([kept.arrays[f"keep_{target.label}_layer{i}"] for i in layers])
        size = row["ratio_achieved"], row["orders"]
        return ReducedNetwork(target, network.model, network.weights, selected, *size)


def _on_part(trained: TrainedModel, examples: int | None, skip: int) -> TrainedModel:
    """Returns the model with the part of its test split that is scored."""
    test = trained.splits.test
    if not len(test) or (places := scored(len(test), examples, skip)) is None:
        return trained
    part = test.take(places)
    selection = part if trained.splits.selection is test else trained.splits.selection
    return dataclasses.replace(trained, splits=dataclasses.replace(trained.splits, test=part, selection=selection))


def _validated(
    trained: TrainedModel, evaluation: EvaluationKeys, model: Classifier, weights: Mapping[str, Any]
) -> float | None:
    split = batches(trained.splits.selection, evaluation.batch_size)()
    return predict(model, weights, split, step_rescale=trained.step_rescale).metrics[trained.metric.name]


def _asked(part: Key) -> Any:
    """Returns what a part answers, in JSON values."""
    return part if isinstance(part, str) else [part.kind, part.value]


def _label(part: Key) -> str:
    """Returns the name of a part's answers in `correct.npz`."""
    return part if isinstance(part, str) else part.label


def _marked(marker: Mapping[str, Any]) -> list[Target]:
    """Returns the targets that a finished run has noted; none if what it has noted is damaged."""
    try:
        return [Target(kind, tuple(v) if isinstance(v, list) else v) for kind, v in marker["targets"]]
    except (KeyError, TypeError, ValueError):
        return []


# ---- what is said and recorded


def _leads(name: str) -> bool:
    """Returns whether a model's name in results still leads to one, from the working directory."""
    return name.removeprefix(PREFIX) in names() if name.startswith(PREFIX) else Path(name).exists()


def _metadata(
    trained: TrainedModel, reduction: settings.ReductionJob, network: ReducedNetwork, row: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what is stored with a reduced network."""
    return {
        **reduced_facts(trained, reduction, network),
        "parent": str(trained.path),
        "metrics": {key: value(row, key) for key in trained.metric.columns},
    }


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _report_to(run: Run, trained: TrainedModel, rows: Sequence[Row]) -> None:
    """Records the table, the last row's figures and every saved model, with the model it was made from."""
    run.table("rows", rows)
    run.summary({f"final_{key}": value for key, value in _scalars(rows[-1]).items()})
    parent = (f"{trained.dataset.name}-{trained.model.config.family}-{trained.id}", trained.weights_path)
    for row in rows[1:]:
        if row["checkpoint"]:
            path = Path(row["checkpoint"])
            test = f"test_{trained.metric.name}"
            facts = {key: value(row, key) for key in ("reduction", "ratio", "orders", test, "trained_id")}
            run.artifact(f"{parent[0]}-{path.name}", path / "weights", metadata=facts, parent=parent)
