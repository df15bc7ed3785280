"""What one step of a network computes, in arrays: the network as it is exported, and the NumPy model of the C file.

A layer of the plan, with v = D and c what a batch norm before it adds to the feedthrough and the constant:

    w = u (the norm is folded into B, D), or its norm
    x <- a x + B w + b,    y = C x + D w + c,    out = skip + gate(y)

with x the real parts of all states, then the imaginary parts; where every channel has a system of its own w goes into
the real parts as it is, and C has what B would do. Products are those of `s5c.model.products`, matrices in the sense of
`Matrix`, so that weights of few bits are those that the exported file has.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from s5c.errors import UserError
from s5c.model import network
from s5c.model.classifier import Classifier, per_step
from s5c.model.config import ModelConfig, load_family
from s5c.model.norm import EPSILON
from s5c.model.products import products
from s5c.model.rounding import Matrix, rounded
from s5c.model.stream import check_streamable
from s5c.types import Params


class Norm(NamedTuple):
    """What stands where a norm could not be folded away.

    Attributes:
        kind: none | layer (statistics of the step's features) | scale (a batch norm behind the gate).
        gain: factor per feature, (h,).
        offset: summand per feature, (h,).
        epsilon: added to the variance.
    """

    kind: str
    gain: np.ndarray
    offset: np.ndarray
    epsilon: float = 0.0


class Gate(NamedTuple):
    """What follows the system of a layer.

    Attributes:
        activation: as in `s5c.model.block`.
        exact: gelu is v Phi(v), and not the formula with the hyperbolic tangent.
        W1, b1: first product; None where the activation has none.
        W2, b2: second product, the gate; None likewise.
    """

    activation: str
    exact: bool
    W1: Matrix | None
    b1: np.ndarray | None
    W2: Matrix | None
    b2: np.ndarray | None


class LayerPlan(NamedTuple):
    """One block.

    Attributes:
        channels: every feature has a system of its own, of a state for each column of `a_re`.
        a_re, a_im: discrete poles, (p,) or (h, p).
        B: input, (2p, h); None with channels.
        b: constant input, (2p,); None with channels.
        C: output with the factor 2 of the conjugate half, (h, 2p): real parts, then minus the imaginary ones.
        D: feedthrough, (h,).
        c: constant output, (h,).
        before, after: norms.
        gate: what follows.
    """

    channels: bool
    a_re: np.ndarray
    a_im: np.ndarray
    B: Matrix | None
    b: np.ndarray | None
    C: Matrix
    D: np.ndarray
    c: np.ndarray
    before: Norm
    after: Norm
    gate: Gate


class Plan(NamedTuple):
    """The whole network.

    Attributes:
        tokens: a step is a token id.
        features: channels of a step, or number of ids.
        encoder: (h, features), or the embedding (features, h).
        encoder_bias: (h,).
        layers: the blocks.
        last: the readout gets the last step instead of the mean over all.
        classes: the outputs are logarithms of probabilities, and not targets.
        decoder: (outputs, h).
        decoder_bias: (outputs,).
        bits: of the weights in matrices.
    """

    tokens: bool
    features: int
    encoder: Matrix
    encoder_bias: np.ndarray
    layers: tuple[LayerPlan, ...]
    last: bool
    classes: bool
    decoder: Matrix
    decoder_bias: np.ndarray
    bits: int

    @property
    def d_model(self) -> int:
        """Features between the blocks."""
        return len(self.encoder_bias)

    @property
    def outputs(self) -> int:
        """Classes, or targets."""
        return len(self.decoder_bias)

    @property
    def state_bytes(self) -> int:
        """Bytes of all that is carried from step to step."""
        return 4 * (sum(2 * layer.a_re.size for layer in self.layers) + self.d_model + 1)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the answers after every step, (n, l, outputs), in single precision.

        Args:
            inputs: (n, l, features), or ids (n, l).
        """
        n = len(inputs)
        states = [np.zeros((n, *state_shape(layer)), np.float32) for layer in self.layers]
        mean, said = np.zeros((n, self.d_model), np.float32), []
        for k in range(inputs.shape[1]):
            kernel = self.encoder.dense()
            u = kernel[inputs[:, k]] if self.tokens else inputs[:, k].astype(np.float32) @ kernel.T
            u = u + self.encoder_bias
            for i, layer in enumerate(self.layers):
                states[i], u = _step(layer, states[i], u)
            mean = u if self.last else mean + (u - mean) / np.float32(k + 1)
            logits = mean @ self.decoder.dense().T + self.decoder_bias
            if self.classes:
                logits = logits - logits.max(axis=1, keepdims=True)
                logits = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            said.append(logits)
        return np.stack(said, axis=1)


def plan(model: Classifier, weights: Params, *, step_rescale: float = 1.0, bits: int = 32) -> Plan:
    """Returns what one step of a network computes.

    Args:
        model: the network, of one direction.
        weights: `{"params": ..., "batch_stats": ...}`.
        step_rescale: multiplies every Delta.
        bits: 32, 8, 6 or 4 of the weights in matrices; poles, biases and norms stay float32.

    Raises:
        UserError: the network cannot be run step by step.
    """
    check_streamable(model)
    config, spec = model.config, model.spec
    if spec.pairs:
        raise UserError("This network compares two documents: a step of it is not one sample. Export stablehlo.")
    if config.activation == "geglu":
        raise UserError("The blocks of s5-pytorch (activation=geglu) are exported whole alone: format=stablehlo.")
    matrices = {name: rounded(matrix, bits) for name, matrix in products(model, weights, step_rescale).items()}
    encoder, decoder = _arrays(network.of_inputs(weights)), _arrays(network.readout(weights))
    bias, constant = encoder["bias"], decoder["bias"]
    if spec.scale is not None:  # what the first product makes of the shift of the channels
        bias = bias - matrices["inputs"].dense() @ np.asarray(spec.scale[0], np.float32)
    if spec.targets is not None:
        shift, size = (np.asarray(one, np.float32) for one in spec.targets[:2])
        constant = shift + size * constant
    layers = tuple(
        _layer(config, block, step_rescale, _below(matrices, f"layer{i}."))
        for i, block in enumerate(network.blocks(weights, config))
    )
    return Plan(
        spec.tokens,
        spec.features,
        matrices["inputs"],
        bias,
        layers,
        config.pooling == "last" or per_step(spec),
        spec.targets is None,
        matrices["readout"],
        constant,
        bits,
    )


def _arrays(tree: Any) -> Any:
    return jax.tree.map(lambda value: np.asarray(value, np.float32), dict(tree))


def _below(matrices: dict[str, Matrix], prefix: str) -> dict[str, Matrix]:
    return {name.removeprefix(prefix): matrix for name, matrix in matrices.items() if name.startswith(prefix)}


def _layer(config: ModelConfig, block: Params, step_rescale: float, matrices: dict[str, Matrix]) -> LayerPlan:
    params, stats = _arrays(block["params"]), _arrays(block["batch_stats"])
    system = load_family(config.family).to_system(jax.tree.map(jnp.asarray, params["seq"]), config)
    system = dataclasses.replace(system, Delta=step_rescale * system.Delta)
    Lambda_bar, B_bar = (np.asarray(value) for value in system.discretise())
    h, channels, B = config.d_model, config.per_channel, matrices.get("B")
    D = np.asarray(system.D, np.float32).reshape(h)
    c = np.zeros(h, np.float32) if system.bias is None else np.asarray(system.bias, np.float32).reshape(h)

    norm, none = params["norm"], Norm("none", np.ones(h, np.float32), np.zeros(h, np.float32))
    gain, offset = norm["scale"], norm["bias"]
    if config.norm == "batch":
        gain = gain / np.sqrt(stats["norm"]["var"] + np.float32(EPSILON))
        offset = offset - stats["norm"]["mean"] * gain
    kept = Norm("layer" if config.norm == "layer" else "scale", gain, offset, config.layer_eps)
    before, after, b = none, none, None if B is None else np.zeros(len(B.values), np.float32)
    if not config.prenorm:
        after = kept
    elif config.norm == "layer" or B is None:
        before = kept
    else:  # the gain is folded into B and D, the offset into b and c
        stacked = np.concatenate([B_bar.real, B_bar.imag])
        b = np.where(gain == 0, stacked, B.dense() / np.where(gain == 0, 1, gain)) @ offset
        D, c = D * gain, c + D * offset
    return LayerPlan(
        channels, Lambda_bar.real, Lambda_bar.imag, B, b, matrices["C"], D, c, before, after,
        _gate(config, params, matrices),
    )  # fmt: skip


def _gate(config: ModelConfig, params: Params, matrices: dict[str, Matrix]) -> Gate:
    found: list[Any] = []
    for name in ("out1", "out2"):
        found += [matrices.get(name), params.get(name, {}).get("bias")]
    return Gate(config.activation, config.gelu == "exact", *found)


# ---- the NumPy model of a step


def state_shape(layer: LayerPlan) -> tuple[int, ...]:
    """Returns the shape of a layer's state for one sequence: (2p,), or (h, 2p) with channels."""
    return (*layer.a_re.shape[:-1], 2 * layer.a_re.shape[-1])


def _step(layer: LayerPlan, x: np.ndarray, skip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w, C = _normed(layer.before, skip), layer.C.dense()
    re, im = np.split(x, 2, axis=-1)
    turned = np.concatenate([layer.a_re * re - layer.a_im * im, layer.a_re * im + layer.a_im * re], axis=-1)
    if layer.B is None:
        turned[..., : re.shape[-1]] += w[..., None]
        x = turned
    else:
        x = turned + w @ layer.B.dense().T + layer.b
    y = np.sum(C * x, axis=-1) if layer.channels else x @ C.T
    y = y + layer.D * w + layer.c
    return x.astype(np.float32), _normed(layer.after, skip + _gated(layer.gate, y)).astype(np.float32)


def _normed(norm: Norm, u: np.ndarray) -> np.ndarray:
    if norm.kind == "none":
        return u
    if norm.kind == "layer":
        mean = u.mean(axis=-1, keepdims=True)
        u = (u - mean) / np.sqrt(((u - mean) ** 2).mean(axis=-1, keepdims=True) + np.float32(norm.epsilon))
    return u * norm.gain + norm.offset


def _gated(gate: Gate, y: np.ndarray) -> np.ndarray:
    if gate.activation == "lqo":
        assert gate.W1 is not None and gate.W2 is not None
        return y + (y @ gate.W1.dense().T) * (y @ gate.W2.dense().T)
    if gate.exact:
        g = 0.5 * y * (1 + erf(y * np.float32(np.sqrt(0.5))))
    else:
        g = 0.5 * y * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (y + np.float32(0.044715) * y**3)))
    if gate.activation == "gelu":
        return g
    assert gate.W2 is not None
    s = 0.5 * (1 + np.tanh(0.5 * (g @ gate.W2.dense().T + gate.b2)))  # the sigmoid, which cannot overflow so
    if gate.activation == "half_glu2":
        return y * s
    if gate.activation == "full_glu":
        assert gate.W1 is not None
        return (g @ gate.W1.dense().T + gate.b1) * s
    return g * s
