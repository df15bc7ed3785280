"""Sequence classifier: encoder, blocks, pooling, head. Parameter names are those of the published S5 code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from s5c.model.block import Block, dense
from s5c.model.config import ModelConfig
from s5c.model.inputs import InputSpec
from s5c.types import Array, Bool, Features, Float, Int, Num, Params
from s5c.units import Scale


class TokenEncoder(nn.Module):
    """Embedding lookup plus bias: equals a dense layer on one-hot vectors, without making them."""

    vocabulary: int
    d_model: int

    @nn.compact
    def __call__(self, ids: Int[Array, "b l"]) -> Features:
        """Maps ids to features (b, l, h)."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.vocabulary, self.d_model))
        bias = self.param("bias", nn.initializers.zeros, (self.d_model,))
        return jnp.take(kernel, ids, axis=0) + bias


class PairHead(nn.Module):
    """Document matching: dense-gelu-dense on [e1, e2, e1 - e2, e1 e2]."""

    d_model: int
    classes: int
    precision: str = "tf32"

    @nn.compact
    def __call__(self, pooled: Float[Array, "twob h"]) -> Float[Array, "b c"]:
        """Maps the pooled features of 2b rows to b logits."""
        e1, e2 = jnp.split(pooled, 2)
        joined = jnp.concatenate([e1, e2, e1 - e2, e1 * e2], axis=-1)
        hidden = nn.gelu(dense(self.d_model, self.precision, name="layer1")(joined))
        return dense(self.classes, self.precision, name="layer2")(hidden)


class Encoder(nn.Module):
    """Input encoder and the stack of blocks; there is no norm after the last one."""

    config: ModelConfig
    spec: InputSpec
    state_dims: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        inputs: Num[Array, "b l *features"],
        training: bool,
        step_rescale: float,
        lengths: Int[Array, "b"] | None = None,
    ) -> Features:
        """Maps raw inputs to features (b, l, h)."""
        valid = told_apart(self.config, lengths, inputs.shape[1])
        x = input_encoder(self.config, self.spec, name="encoder")(inputs)
        # A Python loop, not a scan over layers: after a reduction the layers differ in size.
        block = nn.remat(Block, static_argnums=(2, 3)) if self.config.remat and training else Block
        for i, p in enumerate(self.state_dims):
            x = block(self.config, p, name=f"layers_{i}")(x, training, step_rescale, valid)
        return x


class ScaledEncoder(nn.Module):
    """A dense layer on scaled channels, W (x - shift) / size + b; its parameters are those of the dense layer."""

    d_model: int
    scale: Scale
    precision: str = "tf32"

    @nn.compact
    def __call__(self, inputs: Num[Array, "b l features"]) -> Features:
        """Maps real channels to features (b, l, h)."""
        shift, size = (jnp.asarray(one, jnp.float32) for one in self.scale)
        inner = dense(self.d_model, self.precision)
        nn.share_scope(self, inner)  # kernel and bias stand where those of a dense layer would
        found: Features = inner((inputs - shift) / size)
        return found


def input_encoder(config: ModelConfig, spec: InputSpec, name: str | None = None) -> nn.Module:
    """Returns the module that maps raw inputs to features."""
    if spec.tokens:
        return TokenEncoder(spec.features, config.d_model, name=name)
    if spec.scale is not None:
        return ScaledEncoder(config.d_model, spec.scale, config.precision, name=name)
    return dense(config.d_model, config.precision, name=name)


def output_head(config: ModelConfig, spec: InputSpec, name: str | None = None) -> nn.Module:
    """Returns the module that maps pooled features, or those of every step, to logits or unscaled targets."""
    if spec.pairs:
        return PairHead(config.d_model, spec.classes, config.precision, name=name)
    return dense(spec.classes, config.precision, name=name)


def pool(x: Features, lengths: Int[Array, "b"] | None, how: str) -> Float[Array, "b h"]:
    """Reduces the time axis: mean over the first `lengths` steps, or the last step.

    Args:
        x: features.
        lengths: valid steps per row; None if nothing is padded.
        how: "mean" | "last". `last` takes step `lengths - 1`, or the final one.
    """
    if how == "last":
        last = x.shape[1] - 1 if lengths is None else (lengths - 1)[:, None, None]
        return x[:, last] if lengths is None else jnp.take_along_axis(x, last, axis=1)[:, 0]
    if lengths is None:
        return jnp.mean(x, axis=1)
    valid = valid_steps(lengths, x.shape[1])
    return jnp.sum(x * valid[..., None], axis=1) / lengths[:, None]


def valid_steps(lengths: Int[Array, "b"], steps: int) -> Bool[Array, "b l"]:
    """Returns which of so many steps are no padding."""
    return jnp.arange(steps) < lengths[:, None]


def told_apart(config: ModelConfig, lengths: Int[Array, "b"] | None, steps: int) -> Bool[Array, "b l"] | None:
    """Returns which steps are no padding, for a model whose blocks mask it; None where nothing is to be masked."""
    return valid_steps(lengths, steps) if config.mask_padding and lengths is not None else None


def answers(spec: InputSpec, outputs: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Returns what a network says by the outputs of its head: log-probabilities, or targets in their own units."""
    if spec.targets is None:
        return jax.nn.log_softmax(outputs)
    shift, size = (jnp.asarray(one, jnp.float32) for one in spec.targets[:2])
    return shift + size * outputs


def per_step(spec: InputSpec) -> bool:
    """Says whether there is an answer for every step, and nothing is pooled."""
    return spec.targets is not None and spec.targets.per_step


class Classifier(nn.Module):
    """The whole network; `state_dims` (stored states per layer) is static, so wrong shapes are refused at `apply`."""

    config: ModelConfig
    spec: InputSpec
    state_dims: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        inputs: Num[Array, "rows l *features"],
        lengths: Int[Array, "rows"] | None = None,
        training: bool = False,
        step_rescale: float = 1.0,
    ) -> Float[Array, "b c"] | Float[Array, "b l c"]:
        """Returns log-probabilities (b, c), or targets (b, c) or, for every step, (b, l, c).

        Args:
            inputs: token ids (rows, l) or real channels (rows, l, features); rows = b, or 2b for pairs.
            lengths: valid steps per row, for pooling and for blocks that mask padding; None if nothing is padded.
            training: use batch statistics and dropout (needs the `dropout` stream, updates `batch_stats`).
            step_rescale: multiplies every Delta; 2 evaluates at half the sample rate.
        """
        x = Encoder(self.config, self.spec, self.state_dims, name="encoder")(inputs, training, step_rescale, lengths)
        features = x if per_step(self.spec) else pool(x, lengths, self.config.pooling)
        return answers(self.spec, output_head(self.config, self.spec, name="decoder")(features))


def shapes(model: Classifier) -> Params:
    """Returns the shapes of a network's parameters; nothing is computed for them."""
    spec, rows = model.spec, 2  # of one pair
    inputs = jnp.zeros((rows, 1), jnp.int32) if spec.tokens else jnp.zeros((rows, 1, spec.features))
    lengths = jnp.ones(rows, jnp.int32) if spec.tokens else None
    found: Params = jax.eval_shape(model.init, jax.random.key(0), inputs, lengths)["params"]
    return found


def with_backend(model: Classifier, backend: str) -> Classifier:
    """Returns the same network with another operator implementation."""
    return model.clone(config=dataclasses.replace(model.config, backend=backend))


def resized(model: Classifier, state_dims: Sequence[int]) -> Classifier:
    """Returns the same network with other numbers of states."""
    return model.clone(state_dims=tuple(state_dims))
