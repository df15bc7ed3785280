"""What state dicts of PyTorch have in common: linear maps, norms and embeddings under their usual names."""

from __future__ import annotations

import numpy as np

from s5c.errors import UserError
from s5c.upstream.network import Arrays, Choice


def shared_root(layers: str) -> str:
    """Returns what stands before the name of a list of layers: `net.blocks.` is behind `net.`."""
    return "".join(part + "." for part in layers.split(".")[:-2])


def linear(found: Arrays, at: str, inputs: int) -> tuple[dict[str, np.ndarray], int]:
    """Returns a linear map as a dense layer, and the number of its outputs."""
    shape = found.shape(f"{at}weight")
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{at}weight has shape {shape}: two axes are expected, outputs and inputs.")
    outputs = shape[0]
    weight = found.take(f"{at}weight", outputs, inputs)
    return {"kernel": weight.T, "bias": found.take(f"{at}bias", outputs)}, outputs


def encoder_of(found: Arrays, choice: Choice, root: str) -> tuple[dict[str, np.ndarray], int, int]:
    """Returns the map of the inputs, how many numbers or ids there are, and the features.

    A linear map has a bias, an embedding has none.
    """
    shape = found.shape(f"{root}encoder.weight")
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{root}encoder.weight has shape {shape}: two axes are expected, features and inputs.")
    tokens = choice.found(
        "tokens", f"{root}encoder.bias" not in found, "the encoder, an embedding where it has no bias,"
    )
    if tokens:
        ids, h = shape
        encoder = {"kernel": found.take(f"{root}encoder.weight", ids, h), "bias": np.zeros(h)}
    else:
        h, ids = shape
        encoder, _ = linear(found, f"{root}encoder.", ids)
    choice.found("in_dim", ids, "the shapes of the encoder")
    return encoder, ids, h


def norm_of(found: Arrays, at: str, h: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns scale and bias of a normalisation, and its statistics if it has some."""
    norm = {"scale": found.take(f"{at}weight", h), "bias": found.take(f"{at}bias", h)}
    if f"{at}running_mean" not in found:
        return norm, {}
    found.ignore(f"{at}num_batches_tracked")
    return norm, {"mean": found.take(f"{at}running_mean", h), "var": found.take(f"{at}running_var", h, least=0)}
