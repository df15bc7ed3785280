"""Networks of lindermanlab/S5, and of LAST and AIRE-Prune, which add no parameters to them.

    params/encoder/encoder/{kernel, bias}                             (in, h), (h,)
    params/encoder/layers_i/norm/{scale, bias}                        (h,)
    params/encoder/layers_i/{out1, out2}/{kernel, bias}               (h, h), (h,): half_glu* have out2, full_glu both
    params/encoder/layers_i/seq/{Lambda_re, Lambda_im, D, log_step}   (p,), (p,), (h,), (p, 1)
    params/encoder/layers_i/seq/B, C or C1 and C2                     (p, h, 2), (h, p, 2); C (h, 2p, 2) where
                                                                      complex_normal has both directions
    params/decoder/{kernel, bias}                                     or layer1 and layer2 of a network of pairs
    batch_stats/encoder/layers_i/norm/{mean, var}                     (h,), with batch normalisation

A TrainState has optimiser and step besides, which are left out. Without conjugate symmetry y = Re(C x): with C / 2 that
is y = 2 Re(C x), which is what a layer here computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from s5c.errors import UserError
from s5c.model.family.s5 import Config
from s5c.model.inputs import InputSpec
from s5c.upstream.network import Arrays, Choice, Converted, single
from s5c.upstream.options import OPTIONS as KNOWN

TITLE = "S5 networks (lindermanlab/S5, LAST, AIRE-Prune)"
FAMILIES = ("s5",)

OPTIONS = (
    *("n_layers", "d_model", "state_size", "stored_states", "blocks", "in_dim", "n_out", "length", "tokens", "pairs"),
    *("C_init", "activation", "gelu", "discretisation", "bidirectional", "conj_sym", "clip_eigs", "prenorm", "norm"),
    *("layer_eps", "bn_momentum", "pooling", "dt_min", "dt_max", "dropout", "step_rescale"),
)

LAYER = re.compile(r"params/encoder/layers_(\d+)/seq/Lambda_re$")
FEW_CHANNELS = 3
"""Inputs of so many numbers a step are taken for real channels: no vocabulary is as small."""


def fits(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether names are those of an S5 network, alone or inside of a TrainState."""
    return any(LAYER.search(name) for name in arrays)


def convert(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Converted:
    """Returns the network.

    Args:
        arrays: by name.
        given: options (`s5c.upstream.options.read`), as far as they are known.

    Raises:
        UserError: an array or an option does not fit, or it cannot be told whether inputs are token ids.
    """
    roots = {name[: m.start()] for name in arrays if (m := LAYER.search(name))}
    root = min(roots, key=len)
    own = {
        name.removeprefix(root): value
        for name, value in arrays.items()
        if name.startswith((f"{root}params/", f"{root}batch_stats/"))
    }
    found, choice = Arrays(own, TITLE), Choice(given, OPTIONS, TITLE)
    layers = _count(own, choice)
    features, h = _sizes(found, "params/encoder/encoder/kernel", 2)
    choice.found("d_model", h, "the shapes")
    choice.found("in_dim", features, "the shapes of the encoder")
    stats: dict[str, Any] = {}
    encoder: dict[str, Any] = {"encoder": _dense(found, "params/encoder/encoder", features, h)}
    outs = _outs(own, layers)
    batch = any(name.startswith("batch_stats/") for name in own)
    norm = choice.found("norm", "batch" if batch else "layer", "its statistics" if batch else "the lack of statistics")
    rescale = float(choice.taken("step_rescale", 1.0, (2.0, 0.5)))
    dims, sequences = _sequences(found, choice, layers, h)
    for i in range(layers):
        at = f"params/encoder/layers_{i}"
        sequences[i]["log_step"] = sequences[i]["log_step"] + np.log(rescale)
        block = {"seq": sequences[i], "norm": {key: found.take(f"{at}/norm/{key}", h) for key in ("scale", "bias")}}
        block |= {name: _dense(found, f"{at}/{name}", h, h) for name in outs}
        encoder[f"layers_{i}"] = block
        if batch:
            place = f"batch_stats/encoder/layers_{i}/norm"
            stats[f"layers_{i}"] = {
                "norm": {"mean": found.take(f"{place}/mean", h), "var": found.take(f"{place}/var", h, least=0)}
            }
    paired = choice.found("pairs", "params/decoder/layer1/kernel" in found, "the shapes of the decoder")
    if paired:
        classes = _sizes(found, "params/decoder/layer2/kernel", 2)[1]
        decoder: dict[str, Any] = {
            "layer1": _dense(found, "params/decoder/layer1", 4 * h, h),
            "layer2": _dense(found, "params/decoder/layer2", h, classes),
        }
    else:
        classes = _sizes(found, "params/decoder/kernel", 2)[1]
        decoder = _dense(found, "params/decoder", h, classes)
    choice.found("n_out", classes, "the shapes of the decoder")
    found.done()
    config = _config(choice, layers, h, max(dims), outs, norm)
    weights: dict[str, Any] = {"params": single({"encoder": encoder, "decoder": decoder})}
    if stats:
        weights["batch_stats"] = single({"encoder": stats})
    spec = InputSpec(features, classes, _tokens(choice, features, paired), paired)
    return Converted(weights, config, spec, tuple(dims), choice.read, choice.assumed, choice.open)


def _count(own: Mapping[str, np.ndarray], choice: Choice) -> int:
    numbers = sorted(int(m[1]) for name in own if (m := LAYER.match(name)))
    if numbers != list(range(len(numbers))):
        raise UserError(f"The file has the layers {', '.join(map(str, numbers))}: one is missing between them.")
    return int(choice.found("n_layers", len(numbers), "its layers"))


def _sizes(found: Arrays, name: str, axes: int) -> tuple[int, ...]:
    shape = found.shape(name)
    if len(shape) != axes or 0 in shape:
        raise UserError(f"{name} has shape {shape}: {axes} axes are expected, none of them empty.")
    return shape


def _dense(found: Arrays, at: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
    return {"kernel": found.take(f"{at}/kernel", inputs, outputs), "bias": found.take(f"{at}/bias", outputs)}


def _outs(own: Mapping[str, np.ndarray], layers: int) -> tuple[str, ...]:
    """Returns the dense layers of the gates, those that any block has: one that lacks them is a fault."""
    every = {
        name for i in range(layers) for name in ("out1", "out2") if f"params/encoder/layers_{i}/{name}/kernel" in own
    }
    return tuple(sorted(every))


def _sequences(found: Arrays, choice: Choice, layers: int, h: int) -> tuple[list[int], list[dict[str, np.ndarray]]]:
    """Returns the stored states of every layer, and the parameters of the sequence layers."""
    places = [f"params/encoder/layers_{i}/seq" for i in range(layers)]
    dims = [_sizes(found, f"{at}/Lambda_re", 1)[0] for at in places]
    if len(set(dims)) == 1:
        choice.found("stored_states", dims[0], "the shapes")
    single_C = [f"{at}/C" in found for at in places]
    widths = [_sizes(found, f"{at}/C", 3)[1] if one else 0 for at, one in zip(places, single_C, strict=True)]
    joint = all(one and width == 2 * p for one, width, p in zip(single_C, widths, dims, strict=True))
    both = choice.found("bidirectional", joint or not any(single_C), "the output matrices")
    if joint:
        choice.found("C_init", "complex_normal", "the output matrices")
    sequences = []
    for at, p in zip(places, dims, strict=True):
        seq = {name: found.take(f"{at}/{name}", p) for name in ("Lambda_re", "Lambda_im")}
        seq |= {"B": found.take(f"{at}/B", p, h, 2), "D": found.take(f"{at}/D", h)}
        seq["log_step"] = found.take(f"{at}/log_step", p, 1)
        if joint:
            seq["C1"], seq["C2"] = np.split(found.take(f"{at}/C", h, 2 * p, 2), 2, axis=1)
        else:
            seq |= {name: found.take(f"{at}/{name}", h, p, 2) for name in (("C1", "C2") if both else ("C",))}
        sequences.append(seq)
    if not _conjugates(choice, max(dims), sequences):
        for seq in sequences:
            seq |= {name: seq[name] / 2 for name in seq.keys() & {"C", "C1", "C2"}}
    return dims, sequences


def _conjugates(choice: Choice, stored: int, sequences: list[dict[str, np.ndarray]]) -> bool:
    """Returns whether only one of each conjugate pair is stored: P says so, else the signs of the imaginary parts."""
    size = choice.given.get("state_size")
    if size in (stored, 2 * stored):
        return bool(choice.found("conj_sym", size == 2 * stored, f"{stored} stored states of state_size={size}"))
    if size is not None:
        raise UserError(
            f"state_size={size} does not fit the file: its layers store {stored} states, which is state_size="
            f"{2 * stored} with conjugate symmetry and {stored} without."
        )
    signs = np.concatenate([np.sign(seq["Lambda_im"]) for seq in sequences])
    both = min(np.mean(signs > 0), np.mean(signs < 0)) > 0.25
    return bool(choice.taken("conj_sym", not both, (both,)))


def _tokens(choice: Choice, features: int, paired: bool) -> bool:
    if "tokens" not in choice.given and not paired and features > FEW_CHANNELS:
        raise UserError(
            f"The file does not say whether an input of {features} numbers a step is a token id of {features} or so "
            f"many real channels ({KNOWN['tokens'].meaning}): give tokens=true or tokens=false, upstream's padded."
        )
    return bool(choice.taken("tokens", paired))


def _config(choice: Choice, layers: int, h: int, stored: int, outs: tuple[str, ...], norm: str) -> Config:
    gates = {(): ("gelu",), ("out2",): ("half_glu1", "half_glu2"), ("out1", "out2"): ("full_glu",)}
    if outs not in gates:
        raise UserError(f"The blocks have {' and '.join(outs)} behind their layers, which no activation has.")
    possible = gates[outs]
    if choice.given.get("activation", possible[0]) not in possible:
        said = " and ".join(outs) or "neither out1 nor out2"
        raise UserError(
            f"activation={choice.given['activation']} does not fit the file: its blocks have {said}, which is "
            f"{' or '.join(possible)}."
        )
    if len(possible) == 1:
        activation = choice.found("activation", possible[0], "the blocks")
    else:
        activation = choice.taken("activation", possible[0], possible[1:])
    blocks = choice.given.get("blocks", 1)
    return Config(
        n_layers=layers,
        d_model=h,
        state_size=2 * stored,
        blocks=blocks if stored % blocks == 0 else 1,
        activation=activation,
        gelu=choice.given.get("gelu", "tanh"),
        prenorm=choice.taken("prenorm", True, (False,)),
        norm=norm,
        layer_eps=choice.given.get("layer_eps", 1e-6),
        bn_momentum=choice.given.get("bn_momentum", 0.95),
        dropout=choice.given.get("dropout", 0.0),
        pooling=choice.taken("pooling", "mean", ("last",)),
        C_init=choice.read.get("C_init", choice.given.get("C_init", "trunc_standard_normal")),
        discretisation=choice.taken("discretisation", "zoh", ("bilinear",)),
        dt_min=choice.given.get("dt_min", 1e-3),
        dt_max=choice.given.get("dt_max", 1e-1),
        clip_eigs=choice.taken("clip_eigs", False, (True,)),
        bidirectional=choice.read["bidirectional"],
    )
