"""A network in few bits, front to back on calibration sequences: every part makes up for what was rounded before it.

For every block, on what the rounded blocks before it put out:

    1. B is rounded by the second moments of its inputs (`s5c.model.rounding.with_feedback`).
    2. C, D and a constant are solved again for the states that the rounded B makes, against what the layer puts out
       where nothing is rounded (`s5c.reduction.regression`). C is rounded by the moments of the states; D and the
       constant, which stay float32, are solved once more.
    3. The matrices of the gate are rounded by the moments of what they multiply; their biases take in the shift.

The readout comes last. The encoder is rounded to the nearest. Labels are not looked at.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.model import network, surgery
from s5c.model.classifier import Classifier
from s5c.model.products import Products, folded_gain, products, with_products
from s5c.model.readout import LAST, feature_moments, logits, refitted
from s5c.model.rounding import rounded, with_feedback
from s5c.model.signals import Stream, blocks, into_gate, moments
from s5c.pipeline.calibration import Batches, Sum
from s5c.reduction.moments import Moments
from s5c.reduction.refit.calibrated import Refit
from s5c.reduction.regression import settled
from s5c.ssm.system import DiagonalSSM
from s5c.types import Features


def to_nearest(
    model: Classifier, weights: Mapping[str, Any], bits: int, *, step_rescale: float = 1.0
) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network with every product rounded to the nearest numbers of few bits, float32.

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        bits: 8 | 6 | 4.
        step_rescale: multiplies every Delta.
    """
    found = products(model, weights, step_rescale)
    return with_products(
        model, weights, {name: rounded(one, bits).dense() for name, one in found.items()}, step_rescale
    )


def on_data(
    model: Classifier, weights: Mapping[str, Any], bits: int, batches: Batches, *, step_rescale: float = 1.0
) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network rounded front to back (see the module).

    Args:
        model: the network.
        weights: `{"params": ..., "batch_stats": ...}`.
        bits: 8 | 6 | 4.
        batches: starts the calibration batches.
        step_rescale: multiplies every Delta.

    Raises:
        UserError: states that are not finite.
    """
    work = _Rounding(model, dict(weights), bits, step_rescale)
    work.round(*(name for name in products(model, weights, step_rescale) if not name.startswith(("layer", "readout"))))
    with tempfile.TemporaryDirectory(prefix="s5c-") as folder:
        full = Stream(model, weights, batches(), Path(folder, "full"))
        low = Stream(model, work.weights, batches(), Path(folder, "rounded"))
        for i in range(len(model.state_dims)):
            work.layer(i, full, low, blocks(model, weights, step_rescale)[i])
            work.gate(i, low)
            for _ in low.advance(work.block(i)):
                pass
    return work.readout(logits(model, weights, batches(), step_rescale=step_rescale), batches)


class _Rounding:
    """A network of which more and more is rounded.

    Args:
        model: the network.
        weights: its weights.
        bits: of its products.
        rescale: multiplies every Delta.
    """

    def __init__(self, model: Classifier, weights: dict[str, Any], bits: int, rescale: float) -> None:
        self.model, self.weights, self.bits, self.rescale = model, weights, bits, rescale

    def block(self, i: int) -> Any:
        """Returns a block as it is now."""
        return blocks(self.model, self.weights, self.rescale)[i]

    def round(self, *names: str, by: Mapping[str, np.ndarray] | None = None) -> None:
        """Rounds products: by second moments of what they multiply, where these are given, else to the nearest."""
        now, new = products(self.model, self.weights, self.rescale), Products()
        for name in names:
            seen = (by or {}).get(name)
            matrix = rounded(now[name], self.bits) if seen is None else with_feedback(now[name], seen, self.bits)
            new[name] = matrix.dense()
        self.model, self.weights = with_products(self.model, self.weights, new, self.rescale)

    # ---- a layer

    def layer(self, i: int, full: Stream, low: Stream, original: Any) -> None:
        """Rounds B and C; the other stream moves on to the next block."""
        block, config = self.block(i), self.model.config
        if not config.per_channel:
            inputs = Second()
            for number in range(len(low)):
                x = low[number]
                valid = low.valid(number, x.shape[1])
                inputs.add(block.layer_input(x, valid), valid)
            gain = folded_gain(config, network.blocks(self.weights, config)[i])
            scale = np.where(gain == 0, 0, 1 / np.where(gain == 0, 1, gain))
            self.round(f"layer{i}.B", by={f"layer{i}.B": inputs.about_zero * np.outer(scale, scale)})
            block = self.block(i)
        system, sums = self._system(i), Sum()
        for number, (_, y, _) in full.advance(original):
            valid = full.valid(number, y.shape[1])
            sums.add(moments(system, block.layer_input(low[number], valid), y, valid, self.rescale))
        seen = sums.checked(i)
        (layer,) = surgery.layers(self.weights, config)[i : i + 1]
        solved = Refit()(dataclasses.replace(layer, moments=seen), system)
        self._write(i, solved)
        self._round_outputs(i, seen)
        with jax.enable_x64(True):
            settle = jax.vmap(settled, in_axes=(0, 0, None)) if config.per_channel else settled
            self._write(i, settle(self._system(i), seen, Refit().ridge))

    def _round_outputs(self, i: int, seen: Moments) -> None:
        name, n = f"layer{i}.C", seen.states
        count = np.maximum(np.asarray(seen.count), 1)[..., None, None]
        zz = np.asarray(seen.zz)
        mean = zz[..., :n, -1:]
        states = zz[..., :n, :n] - mean @ np.swapaxes(mean, -1, -2) / count
        if not self.model.config.per_channel:
            return self.round(name, by={name: states})
        turn = _unit_inputs(self._system(i), self.rescale)
        states = turn @ states @ np.swapaxes(turn, -1, -2)
        rows = products(self.model, self.weights, self.rescale)[name]
        matrix = [with_feedback(row[None], S, self.bits).dense()[0] for row, S in zip(rows, states, strict=True)]
        self.model, self.weights = with_products(self.model, self.weights, {name: np.stack(matrix)}, self.rescale)
        return None

    def _system(self, i: int) -> DiagonalSSM:
        return surgery.systems(self.weights["params"], self.model.config)[i]

    def _write(self, i: int, system: DiagonalSSM) -> None:
        systems = surgery.systems(self.weights["params"], self.model.config)
        systems[i] = system
        params, config = surgery.with_systems(self.weights["params"], systems, self.model.config)
        self.model, self.weights = self.model.clone(config=config), {**self.weights, "params": params}

    # ---- what follows a layer

    def gate(self, i: int, low: Stream) -> None:
        """Rounds the matrices of a gate."""
        config = self.model.config
        names = [name for name in network.dense_layers(self.weights["params"], config) if name.startswith(f"layer{i}.")]
        if config.activation == "geglu":  # the blocks of s5-pytorch
            return self.round(*names)
        inputs, block = Second(), self.block(i)
        for number in range(len(low)):
            x = low[number]
            valid = low.valid(number, x.shape[1])
            y = block(x, valid).y
            inputs.add(into_gate(config, y), valid)
        for name in names:
            constant = "bias" in network.dense_layers(self.weights["params"], config)[name]
            before = products(self.model, self.weights, self.rescale)[name]
            self.round(name, by={name: inputs.about_mean if constant else inputs.about_zero})
            if constant:
                self._shift(name, before, inputs.mean)
        return None

    def readout(self, wanted: list[np.ndarray], batches: Batches) -> tuple[Classifier, dict[str, Any]]:
        """Solves the readout again and rounds it; returns the network."""
        found = refitted(wanted, self.model, self.weights, batches(), step_rescale=self.rescale)
        self.weights = found
        *others, last = [name for name in products(self.model, found, self.rescale) if name.startswith("readout")]
        assert not others or last.endswith(LAST), "the last one is what is solved"
        self.round(*others)
        energy = feature_moments(self.model, self.weights, batches(), step_rescale=self.rescale)
        mean = energy[:-1, -1] / energy[-1, -1]
        before = products(self.model, self.weights, self.rescale)[last]
        self.round(last, by={last: energy[:-1, :-1] - np.outer(mean, mean) * energy[-1, -1]})
        self._shift(last, before, mean)
        return self.model, self.weights

    def _shift(self, name: str, before: np.ndarray, mean: np.ndarray) -> None:
        """Adds to a bias what rounding took from the mean of a product."""
        lost = (before - products(self.model, self.weights, self.rescale)[name]) @ mean
        if name == "readout" and self.model.spec.targets is not None:
            lost = lost / np.asarray(self.model.spec.targets[1], np.float64)
        params = jax.tree.map(lambda leaf: leaf, dict(self.weights["params"]))
        place = network.dense_layers(params, self.model.config)[name]
        place["bias"] = jnp.asarray(np.asarray(place["bias"], np.float64) + lost, jnp.float32)
        self.weights = {**self.weights, "params": params}


class Second:
    """Second moments over the valid steps of some signals, double precision."""

    def __init__(self) -> None:
        self._sums: Any = 0.0

    def add(self, x: Features, valid: np.ndarray) -> None:
        """Adds a batch."""
        z = np.asarray(x)[np.asarray(valid)].astype(np.float64)
        z = np.concatenate([z, np.ones((len(z), 1))], axis=1)
        self._sums = self._sums + z.T @ z

    @property
    def mean(self) -> np.ndarray:
        """The mean, (h,)."""
        return self._sums[:-1, -1] / max(self._sums[-1, -1], 1)

    @property
    def about_zero(self) -> np.ndarray:
        """The sum of x x^T, (h, h)."""
        return self._sums[:-1, :-1]

    @property
    def about_mean(self) -> np.ndarray:
        """The same of what differs from the mean."""
        return self._sums[:-1, :-1] - np.outer(self.mean, self.mean) * self._sums[-1, -1]


def _unit_inputs(system: DiagonalSSM, rescale: float) -> np.ndarray:
    """Returns what turns the real states of channels into those that an input matrix of ones would make, (h, n, n)."""
    with jax.enable_x64(True):
        B_bar = np.asarray(dataclasses.replace(system, Delta=rescale * system.Delta).discretise()[1])[..., 0]
    inverse = np.where(B_bar == 0, 0, 1 / np.where(B_bar == 0, 1, B_bar))
    re, im = (np.apply_along_axis(np.diag, 1, part) for part in (inverse.real, inverse.imag))
    one = np.block([[re, -im], [im, re]])
    if system.C_backward is None:
        return one
    none = np.zeros_like(one)
    return np.block([[one, none], [none, one]])
