"""A network of fewer features between its layers, front to back on calibration sequences.

The features that stay are chosen in the full network (`s5c.reduction.features`). Then for every block, on what the
narrow blocks before it put out:

    1. B takes in what the features that stay tell of the others: u ~ E v, B := B E, with u the inputs of the full
       layer and v those of the narrow one.
    2. C, D and a constant are solved again for the states that this makes, against what the full layer puts out
       (`s5c.reduction.regression`).
    3. The matrices of the gate are solved again, against what they make in the full network.

The readout comes last, against the full network's answers. Labels are not looked at.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import network, surgery
from s5c.model.classifier import Classifier
from s5c.model.config import ModelConfig
from s5c.model.readout import feature_moments, logits, refitted
from s5c.model.signals import BlockAt, Stream, blocks, into_gate, moments
from s5c.pipeline.calibration import Batches, Sum, check_sums
from s5c.pipeline.rounded import Second
from s5c.reduction.features import RIDGE, Reader, eliminate
from s5c.reduction.refit.calibrated import Refit
from s5c.ssm.system import DiagonalSSM
from s5c.types import Bool, Features


class Narrow(NamedTuple):
    """A narrow network.

    Attributes:
        model: the module.
        weights: its weights.
        kept: which features of the full one it has.
    """

    model: Classifier
    weights: dict[str, Any]
    kept: Bool[np.ndarray, "h"]


def narrowed(
    model: Classifier, weights: Mapping[str, Any], count: int, batches: Batches, *, step_rescale: float = 1.0
) -> Narrow:
    """Returns a network of some of the features of another (see the module).

    Args:
        model: the network, of one input sequence per example.
        weights: `{"params": ..., "batch_stats": ...}`.
        count: features that stay.
        batches: starts the calibration batches.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: states that are not finite.
    """
    every = readers(model, weights, batches, step_rescale=step_rescale)
    energy = feature_moments(model, weights, batches(), step_rescale=step_rescale)
    kept = eliminate([*every, _readout(model, weights, energy)], count)
    work = _Narrowing(model, weights, kept, step_rescale)
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        full = Stream(model, weights, batches(), Path(folder, "full"))
        narrow = Stream(work.model, work.weights, batches(), Path(folder, "narrow"))
        for i in range(len(model.state_dims)):
            work.inputs(i, full, narrow)
            work.outputs(i, full, narrow, Path(folder))
            work.gate(i, narrow, Path(folder))
            for _ in narrow.advance(work.block(i)):
                pass
    wanted = logits(model, weights, batches(), step_rescale=step_rescale)
    start = _told_to_readout(work.weights, network.readout(weights), energy, kept)
    return Narrow(work.model, refitted(wanted, work.model, start, batches(), step_rescale=step_rescale), kept)


def readers(
    model: Classifier, weights: Mapping[str, Any], batches: Batches, *, step_rescale: float = 1.0
) -> list[Reader]:
    """Returns what reads the features inside of a network: layers with one system, and gates.

    The states of a layer count by what they put out for white input, |c|^2 / (1 - |a|^2) with c their column of C.
    """
    config, found = model.config, list[Reader]()
    systems = surgery.systems(weights["params"], config)
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        stream = Stream(model, weights, batches(), Path(folder))
        for i, block in enumerate(blocks(model, weights, step_rescale)):
            inputs, gated = Second(), Second()
            for number, (u, y, _) in stream.advance(block):
                valid = stream.valid(number, u.shape[1])
                inputs.add(u, valid)
                gated.add(into_gate(config, y), valid)
            check_sums(i, (inputs.about_zero, gated.about_zero))
            if not config.per_channel:
                found.append(Reader(inputs.about_zero, _weight_of_inputs(systems[i], step_rescale)))
            if kernels := [np.asarray(one["kernel"], np.float64) for one in _matrices(weights, config, i).values()]:
                found.append(Reader(gated.about_mean, np.sum([W @ W.T for W in kernels], axis=0)))
    return found


def _readout(model: Classifier, weights: Mapping[str, Any], energy: np.ndarray) -> Reader:
    kernel = np.asarray(network.readout(weights)["kernel"], np.float64)
    if model.spec.targets is None:  # what is common to all classes decides nothing
        kernel = kernel - kernel.mean(1, keepdims=True)
    return Reader(_about_mean(energy), kernel @ kernel.T)


def _told_to_readout(
    weights: dict[str, Any], full: Mapping[str, Any], energy: np.ndarray, kept: Bool[np.ndarray, "h"]
) -> dict[str, Any]:
    """Returns the weights with what the features that stay tell the readout of all, where its fit starts."""
    kernel, mean, S = np.asarray(full["kernel"], np.float64), energy[:-1, -1] / energy[-1, -1], _about_mean(energy)
    pull = np.diag(RIDGE * np.diag(S)[kept] + np.finfo(float).tiny)
    found = np.linalg.solve(S[np.ix_(kept, kept)] + pull, S[kept] @ kernel)
    bias = np.asarray(full["bias"], np.float64) + mean @ kernel - mean[kept] @ found
    return network.with_readout(
        weights, {"kernel": jnp.asarray(found, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    )


def _about_mean(energy: np.ndarray) -> np.ndarray:
    """Returns the covariance times the count, from the sum of [f, 1] [f, 1]^T."""
    return energy[:-1, :-1] - np.outer(energy[:-1, -1], energy[-1, :-1]) / energy[-1, -1]


class _Narrowing:
    """A narrow network of which more and more is solved.

    Args:
        model: the full network.
        weights: its weights.
        kept: features that stay.
        rescale: multiplies every Delta.
    """

    def __init__(
        self, model: Classifier, weights: Mapping[str, Any], kept: Bool[np.ndarray, "h"], rescale: float
    ) -> None:
        self.full, self.of_full, self.kept, self.rescale = model, weights, kept, rescale
        self.originals = blocks(model, weights, rescale)
        self.systems = surgery.systems(weights["params"], model.config)
        config = dataclasses.replace(model.config, d_model=int(kept.sum()))
        self.model, self.weights = model.clone(config=config), network.of_features(weights, config, kept)
        self._write([_of_features(system, kept) for system in self.systems])

    def block(self, i: int) -> BlockAt:
        """Returns a block as it is now."""
        return blocks(self.model, self.weights, self.rescale)[i]

    def inputs(self, i: int, full: Stream, narrow: Stream) -> None:
        """Solves B for what the features that stay tell of all."""
        if self.model.config.per_channel:  # every channel reads its own feature alone
            return
        block, told = self.block(i), Told()
        for number in range(len(full)):
            valid = full.valid(number, full[number].shape[1])
            u = self.originals[i].layer_input(full[number], valid)
            told.add(block.layer_input(narrow[number], valid), u, valid)
        E, _ = told.solved(constant=False)
        with jax.enable_x64(True):
            system = dataclasses.replace(self._now()[i], B=self.systems[i].B @ jnp.asarray(E.T))
        self._put(i, system)

    def outputs(self, i: int, full: Stream, narrow: Stream, folder: Path) -> None:
        """Solves C, D and a constant; the full network moves on, and what its layer puts out is kept in a folder."""
        block, system, sums = self.block(i), self._now()[i], Sum()
        for number, (_, y, _) in full.advance(self.originals[i]):
            np.save(_file(folder, number), np.asarray(y))
            valid = full.valid(number, y.shape[1])
            u = block.layer_input(narrow[number], valid)
            sums.add(moments(system, u, y[..., self.kept], valid, self.rescale))
        layer = surgery.layers(self.weights, self.model.config)[i]
        self._put(i, Refit()(dataclasses.replace(layer, moments=sums.checked(i)), system))

    def gate(self, i: int, narrow: Stream, folder: Path) -> None:
        """Solves the matrices of a gate."""
        config, wanted = self.model.config, _matrices(self.of_full, self.model.config, i)
        if not wanted:
            return
        block, told = self.block(i), {name: Told() for name in wanted}
        for number in range(len(narrow)):
            valid = narrow.valid(number, narrow[number].shape[1])
            z = into_gate(config, block(narrow[number], valid).y)
            of_full = np.asarray(into_gate(config, jnp.asarray(np.load(_file(folder, number)))), np.float64)
            for name, one in wanted.items():
                made = of_full @ np.asarray(one["kernel"], np.float64)[:, self.kept]
                told[name].add(z, made, valid)
        params = jax.tree.map(lambda leaf: leaf, dict(self.weights["params"]))  # new dictionaries, the same arrays
        places = network.dense_layers(params, config)
        for name, one in wanted.items():
            kernel, constant = told[name].solved(constant="bias" in one)
            places[name]["kernel"] = jnp.asarray(kernel, jnp.float32)
            if "bias" in one:
                bias = np.asarray(one["bias"], np.float64)[self.kept] + constant
                places[name]["bias"] = jnp.asarray(bias, jnp.float32)
        self.weights = {**self.weights, "params": params}

    def _now(self) -> list[DiagonalSSM]:
        return surgery.systems(self.weights["params"], self.model.config)

    def _put(self, i: int, system: DiagonalSSM) -> None:
        self._write([*(now := self._now())[:i], system, *now[i + 1 :]])

    def _write(self, systems: list[DiagonalSSM]) -> None:
        params, config = surgery.with_systems(self.weights["params"], systems, self.model.config)
        self.model, self.weights = self.model.clone(config=config), {**self.weights, "params": params}


class Told:
    """What some signals v tell of others, z ~ E v + constant, by least squares over the valid steps."""

    def __init__(self) -> None:
        self._energy: Any = 0.0
        self._cross: Any = 0.0

    def add(self, v: Features, z: Any, valid: np.ndarray) -> None:
        """Adds a batch."""
        given, told = (np.asarray(one)[np.asarray(valid)].astype(np.float64) for one in (v, z))
        given = np.concatenate([given, np.ones((len(given), 1))], axis=1)
        self._energy, self._cross = self._energy + given.T @ given, self._cross + given.T @ told

    def solved(self, *, constant: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Returns E^T, (features v, features z), and the constant; zeros unless there may be one."""
        energy, cross = (self._energy, self._cross) if constant else (self._energy[:-1, :-1], self._cross[:-1])
        n = len(self._energy) - 1
        pull = np.zeros(len(energy))
        pull[:n] = RIDGE * np.diag(energy)[:n]
        found = np.linalg.solve(energy + np.diag(pull + np.finfo(float).tiny), cross)
        return found[:n], found[n] if constant else np.zeros(cross.shape[1])


def _of_features(system: DiagonalSSM, kept: Bool[np.ndarray, "h"]) -> DiagonalSSM:
    """Returns the system of some features: channels, or inputs and outputs."""
    with jax.enable_x64(True):
        if system.Lambda.ndim == 2:
            return jax.tree.map(lambda value: value[kept], system)
        rows = {
            name: value[kept]
            for name in ("C", "C_backward", "D", "bias")
            if (value := getattr(system, name)) is not None
        }
        return dataclasses.replace(system, B=system.B[:, kept], **rows)


def _weight_of_inputs(system: DiagonalSSM, rescale: float) -> np.ndarray:
    with jax.enable_x64(True):
        a, B = map(np.asarray, dataclasses.replace(system, Delta=rescale * system.Delta).discretise())
    C = [np.asarray(one) for one in (system.C, system.C_backward) if one is not None]
    energy = np.sum(np.abs(np.concatenate(C)) ** 2, axis=0) / np.maximum(1 - np.abs(a) ** 2, 1e-4)
    found: np.ndarray = ((B.conj().T * energy) @ B).real
    return found


def _matrices(weights: Mapping[str, Any], config: ModelConfig, i: int) -> dict[str, Any]:
    """Returns the dense layers of a block."""
    every = network.dense_layers(weights["params"], config)
    return {name: one for name, one in every.items() if name.startswith(f"layer{i}.")}


def _file(folder: Path, number: int) -> Path:
    return folder / f"y{number}.npy"
