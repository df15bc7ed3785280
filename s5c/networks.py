"""A network in one's hands, with all that is known about it: asked, measured, described, fed step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.data.base import Split
from s5c.errors import UserError
from s5c.evaluation import cost
from s5c.evaluation.metrics import Said, check_answers, predict
from s5c.given import TRAINED, as_split, by_step, padded_batches, padding_of, whole
from s5c.locations import given_path
from s5c.metric import REGRESSION
from s5c.model import stream, surgery
from s5c.model.classifier import Classifier
from s5c.model.stream import StreamState
from s5c.pipeline.network import ReducedNetwork
from s5c.pipeline.packing import stored_form
from s5c.pipeline.untasked import origin
from s5c.scored import Evaluation, Regression, scored
from s5c.ssm.system import DiagonalSSM

BATCH = 64


@dataclasses.dataclass(eq=False)
class Model:
    """A network with its weights and all that is known about it.

    Attributes:
        name: printed in comparisons.
        network: the Flax module.
        weights: `{"params": ..., "batch_stats": ...}`, float32.
        facts: where it comes from: task, recipe, source of the data, reductions before.
        reduced: what the reduction said that made it (bounds, errors, notes, seconds); None of a network as it was.
        evaluated: the last evaluation; None before the first.
    """

    name: str
    network: Classifier
    weights: dict[str, Any]
    facts: dict[str, Any]
    reduced: ReducedNetwork | None = None
    evaluated: Evaluation | Regression | None = None
    answers: Said | None = None

    def __post_init__(self) -> None:
        # On the device at once: a step, whose own work is small, would copy them every time.
        self.weights = jax.tree.map(jnp.asarray, self.weights)

    def predict(self, x: Any, *, lengths: Any = None, batch_size: int = BATCH, pad: Any = TRAINED) -> np.ndarray:
        """Returns log-probabilities, or targets in their unit.

        A network with two directions sees padding, and answers otherwise as it changes: it is asked with the padding it
        was trained with, whatever the given array has. One that was trained without any, runs one way or masks padding
        takes sequences as they are.

        Args:
            x: real inputs (n, l, features), (n, l) for one feature; ids (n, l), or (n, 2, l) for pairs of documents.
            lengths: valid steps of every sequence, (n,), or (n, 2) for pairs; None if nothing is padded.
            batch_size: sequences at a time.
            pad: "trained" | "given" (as they are) | steps, or several numbers of steps, each sequence being padded to
                the least that holds it.

        Returns:
            Shape (n, classes), float64; of targets (n, k), or (n, l, k) where there is one for every step, NaN after
            the valid ones.

        Raises:
            UserError: the inputs do not fit the network.
        """
        split = self._split(x, lengths)
        said = self._answer(split, batch_size, pad)
        return said.outputs if split.targets is None else by_step(said, split)

    def evaluate(
        self, x: Any, y: Any, *, lengths: Any = None, batch_size: int = BATCH, pad: Any = TRAINED
    ) -> Evaluation | Regression:
        """Returns accuracy and loss, or what measures targets, which are kept for comparisons.

        Args:
            x: as for `predict`.
            y: class of every sequence, (n,); or its targets, (n, k) or, for every step, (n, l, k), or (n,) and (n, l)
                of a single target.
            lengths: as for `predict`.
            batch_size: sequences at a time.
            pad: as for `predict`.

        Raises:
            UserError: the inputs do not fit the network, or an answer is not a finite number.
        """
        if y is None:
            raise UserError(
                "evaluate compares answers with what is right: give y, one class for each sequence, or its targets; "
                "predict needs none."
            )
        said = self._answer(self._split(x, lengths, y), batch_size, pad)
        check_answers(self.name, given=said)
        self.answers, self.evaluated = said, scored(said)
        return self.evaluated

    def systems(self) -> list[DiagonalSSM]:
        """Returns the system of every layer, double precision; with a leading axis where a layer has channels."""
        return surgery.systems(self.weights["params"], self.network.config)

    @property
    def orders(self) -> list[int]:
        """Stored states of every layer, all channels together."""
        return [layer.slots for layer in surgery.layers(self.weights, self.network.config)]

    @property
    def states(self) -> int:
        """Stored states of the whole network."""
        return sum(self.orders)

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole network."""
        return cost.size(self.network, self.weights["params"], 1).params

    def summary(self) -> str:
        """Returns what the network is, in a few lines."""
        config, facts = self.network.config, self.facts
        stored = cost.stored(stored_form(self.weights, self.facts))
        lines = [
            f"{self.name}: {config.family} of {config.n_layers} layers, {config.d_model} features, "
            f"{'both directions' if getattr(config, 'bidirectional', False) else 'one direction'}, norm {config.norm}",
            f"  trained on   {origin(facts)}",
            f"  states       {self.states:,} ({' + '.join(map(str, self.orders))})",
            f"  parameters   {self.parameters:,}, {stored.safetensors:,} bytes as safetensors",
        ]
        if modes := sum(surgery.unstable_modes(self.weights["params"], config)):
            lines.append(f"  unstable     {modes} modes with |Lambda_bar| >= 1")
        if history := facts.get("reductions"):
            lines.append(f"  reduced by   {', then '.join(history)}")
        if isinstance(found := self.evaluated, Evaluation):
            lines.append(
                f"  accuracy     {100 * found.accuracy:.2f} % of {found.examples:,}, loss {found.loss:.4f} nat"
            )
        elif found is not None:
            told = ", ".join(metric.told(one) for metric in REGRESSION.values() if (one := getattr(found, metric.name)))
            lines.append(f"  answers      {told}, of {found.examples:,}")
        if self.reduced is not None:
            lines += [f"  note         {note}" for note in self.reduced.notes]
        return "\n".join(lines)

    def export(
        self, folder: str | Path, format: str, *, bits: int | None = None, lengths: Any = None, symbol: str = "model"
    ) -> str:
        """Writes the network as files that run without s5c.

        Args:
            folder: their place; an earlier export there is replaced once the new one is whole.
            format: "c" | "onnx" (one step) | "stablehlo" (whole sequences) | "safetensors" (a checkpoint).
            bits: 32, 8, 6 or 4 of the weights, for c, onnx and safetensors; poles, biases and norms stay float32. As
                many as a reduction has rounded them to if None.
            lengths: steps of the sequences, one number or several, for stablehlo; those of the training if None.
            symbol: name of the functions and files, for c.

        Returns:
            The command that compares the files with stored answers, to be run in the folder.

        Raises:
            UserError: the format does not take this network, a package is missing, or something else is in the folder.
        """
        from s5c.export import writing
        from s5c.export.exported import Exported

        known = lengths
        if lengths is None and format == "stablehlo":
            known = (self.facts.get("padding") or {}).get("lengths") or self.facts.get("steps")
        steps = () if known is None else tuple(whole(n, "lengths", "lengths=[784]") for n in np.atleast_1d(known))
        facts, rescale = {**self.facts, "name": self.name}, self.facts["step_rescale"]
        if self.evaluated is not None:
            facts["evaluated"] = self.evaluated._asdict()
        if bits is None:
            bits = (facts.get("stored") or {}).get("bits", 32) if format in writing.ROUNDING else 32
        made = Exported(symbol, self.network, self.weights, facts, rescale, whole(bits, "bits", "bits=8"), steps)
        return writing.export(made, format, given_path(folder, "folder="))

    # ---- step by step

    def init_state(self, batch: int = 1) -> StreamState:
        """Returns the state before the first step, for `prefill` and `step`.

        Args:
            batch: sequences side by side.

        Raises:
            UserError: the network is bidirectional: no step can be answered before the last one is there.
        """
        return stream.initial_state(self.network, whole(batch, "batch", "batch=1"))

    def prefill(self, state: StreamState, x: Any) -> tuple[StreamState, np.ndarray]:
        """Runs some steps at once and returns the state after them and the answer to all steps so far.

        Args:
            state: the state before them.
            x: real inputs (batch, l, features), (batch, l) for one feature; ids (batch, l), or (batch, 2, l).

        Returns:
            The state, and log-probabilities (batch, classes) or targets (batch, k); where there is a target for every
            step those of the given steps, (batch, l, k).

        Raises:
            UserError: the inputs do not fit the network, or not the state.
        """
        split = self._split(x)
        assert isinstance(split.inputs, np.ndarray)
        inputs = split.inputs
        if self.network.spec.pairs:
            inputs = np.concatenate([inputs[:, 0], inputs[:, 1]])
        if len(inputs) != len(state.features):
            raise UserError(
                f"{len(inputs)} rows of inputs do not fit a state of {len(state.features)}: see init_state(batch)."
            )
        ready = jnp.asarray(inputs, jnp.int32 if self.network.spec.tokens else jnp.float32)
        after, said = stream.advance(self.network, self.weights, state, ready, self.facts["step_rescale"])
        return after, np.asarray(said)

    def step(self, state: StreamState, u: Any) -> tuple[StreamState, np.ndarray]:
        """Runs one step: `prefill` of inputs without the axis of time.

        Args:
            state: the state before it.
            u: real inputs (batch, features), ids (batch,), or (batch, 2) for pairs.
        """
        given = np.asarray(u)
        after, said = self.prefill(state, given[..., None] if self.network.spec.tokens else given[:, None])
        return after, said[:, 0] if said.ndim == 3 else said

    def __repr__(self) -> str:
        return f"<s5c.Model {self.name}: {self.states} states, {self.parameters:,} parameters>"

    def _answer(self, split: Split, batch_size: int, pad: Any) -> Said:
        size = min(whole(batch_size, "batch_size", f"batch_size={BATCH}"), len(split))
        padding = padding_of(self.network.config, self.facts, pad)
        ready = padded_batches(split, padding, size, pairs=self.network.spec.pairs)
        return predict(self.network, self.weights, ready, step_rescale=self.facts["step_rescale"])

    def _split(self, x: Any, lengths: Any = None, y: Any = None) -> Split:
        return as_split(self.network.spec, x, lengths, y)
