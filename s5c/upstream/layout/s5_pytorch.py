"""Networks of s5-pytorch's blocks between two linear maps: PyTorch state dicts.

    encoder.{weight, bias}                          (h, in), (h,); without a bias, an embedding (ids, h)
    blocks.i.s5.seq.{Lambda, B, C}                  (p,) complex, (p, h, 2), (h, p) or (h, 2p) complex
    blocks.i.s5.seq.{D, log_step}                   (h,), (p,) or (p, 1)
    blocks.i.{attn_norm, ff_norm}.{weight, bias}    (h,)
    blocks.i.{ff_enc, ff_dec}.weight                (2m, h), (h, m): values, then gates
    decoder.{weight, bias}                          (classes, h), (classes,)

The name of the list may be another, and all may stand behind a common beginning. Encoder, decoder and the mean over the
steps between them are what most people put around the blocks; the package has none of its own. It stores both of each
conjugate pair, y = Re(C x), and C / 2 takes its place. gelu is exact, and 1e-5 is added to variances.

A file of single layers or blocks has no network around them: `systems` returns what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError
from s5c.model.family.s5 import Config
from s5c.model.inputs import InputSpec
from s5c.model.parameters import from_pairs
from s5c.ssm.system import DiagonalSSM
from s5c.upstream.network import Arrays, Choice, Converted, pairs, single
from s5c.upstream.torch_names import encoder_of, linear, shared_root

TITLE = "networks of s5-pytorch"
FAMILIES = ("s5",)

OPTIONS = (
    *("n_layers", "d_model", "state_size", "stored_states", "blocks", "in_dim", "n_out", "length", "tokens", "gelu"),
    *("activation", "discretisation", "bidirectional", "conj_sym", "prenorm", "norm", "layer_eps", "pooling", "dt_min"),
    *("dt_max", "dropout", "step_rescale", "bn_momentum"),
)

LAYER = re.compile(r"^(?P<at>(?P<block>.*?)(?:s5\.)?)seq\.Lambda$")
BLOCK = re.compile(r"^(?P<list>.*?)(?P<number>\d+)\.s5\.seq\.Lambda$")


def fits(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether names are those of its layers."""
    return any(LAYER.match(name) for name in arrays)


def convert(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Converted:
    """Returns the network.

    Args:
        arrays: by name.
        given: options (`s5c.upstream.options.read`), as far as they are known.

    Raises:
        UserError: an array or an option does not fit, or there are layers alone.
    """
    matches = [m for name in arrays if (m := BLOCK.match(name))]
    lists = {m["list"] for m in matches}
    numbers = sorted(int(m["number"]) for m in matches)
    if len(lists) != 1 or numbers != list(range(len(numbers))) or not _framed(arrays, shared_root(next(iter(lists)))):
        raise UserError(
            "The file holds layers of s5-pytorch and no network around them: a list of S5Block between linear maps "
            "called encoder and decoder is one. s5c.load_systems(FILE) returns the systems of the layers, for "
            "s5c.reduce_system."
        )
    layers, root = lists.pop(), shared_root(matches[0]["list"])
    found, choice = Arrays(arrays, TITLE), Choice(given, OPTIONS, TITLE)
    choice.found("n_layers", len(numbers), "its blocks")
    for name, value in (("norm", "layer"), ("prenorm", True), ("gelu", "exact"), ("activation", "geglu")):
        choice.found(name, value, "the blocks")
    encoder, inputs, h = encoder_of(found, choice, root)
    choice.found("d_model", h, "the shapes")
    rescale = float(choice.taken("step_rescale", 1.0, (2.0, 0.5)))
    blocks, dims = {}, []
    for i in numbers:
        at = f"{layers}{i}."
        seq, p = _layer(found, choice, f"{at}s5.", h)
        seq["log_step"] = seq["log_step"] + np.log(rescale)
        dims.append(p)
        blocks[f"layers_{i}"] = {"seq": seq, **_feedforward(found, at, h)}
    decoder, classes = linear(found, f"{root}decoder.", h)
    choice.found("n_out", classes, "the shapes of the decoder")
    found.done()
    config = Config(
        n_layers=len(numbers), d_model=h, state_size=2 * max(dims), blocks=1, activation="geglu", gelu="exact",
        norm="layer", layer_eps=choice.given.get("layer_eps", 1e-5), dropout=choice.given.get("dropout", 0.0),
        pooling=choice.taken("pooling", "mean", ("last",)),
        discretisation=choice.taken("discretisation", "zoh", ("bilinear",)),
        bidirectional=choice.read["bidirectional"],
    )  # fmt: skip
    params = {"encoder": {"encoder": encoder, **blocks}, "decoder": decoder}
    spec = InputSpec(inputs, classes, bool(choice.read["tokens"]))
    return Converted({"params": single(params)}, config, spec, tuple(dims), choice.read, choice.assumed, choice.open)


def systems(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, DiagonalSSM]:
    """Returns the system of every layer by name, double precision, whatever is around it.

    Args:
        arrays: by name.
        given: `discretisation`, and `step_rescale`.
    """
    made = {}
    for m in sorted((m for name in arrays if (m := LAYER.match(name))), key=lambda m: m["at"]):
        at = m["at"]
        own = {name: value for name, value in arrays.items() if name.startswith(f"{at}seq.")}
        found, choice = Arrays(own, TITLE), Choice(given, ("discretisation", "step_rescale"), TITLE)
        h = (found.shape(f"{at}seq.D") or (0,))[0]
        seq, _ = _layer(found, choice, at, h)
        found.done()
        both = "C2" in seq
        with jax.enable_x64(True):
            params = {name: jnp.asarray(value, jnp.float64) for name, value in seq.items()}
            made[at.rstrip(".") or "layer"] = DiagonalSSM(
                Lambda=jax.lax.complex(params["Lambda_re"], params["Lambda_im"]),
                B=from_pairs(params["B"]),
                C=from_pairs(params["C1" if both else "C"]),
                D=params["D"],
                Delta=jnp.exp(params["log_step"][:, 0]) * given.get("step_rescale", 1.0),
                C_backward=from_pairs(params["C2"]) if both else None,
                discretisation=given.get("discretisation", "zoh"),
            )
    return made


def _framed(arrays: Mapping[str, np.ndarray], root: str) -> bool:
    return f"{root}encoder.weight" in arrays and f"{root}decoder.weight" in arrays


def _layer(found: Arrays, choice: Choice, at: str, h: int) -> tuple[dict[str, np.ndarray], int]:
    """Returns the parameters of one layer, and its stored states."""
    seq = f"{at}seq."
    if f"{seq}C" not in found:
        raise UserError(f"{seq}C is missing: layers whose B and C are factorised cannot be read.")
    shape = found.shape(f"{seq}Lambda")
    p = shape[0] if len(shape) == 1 else 0
    width = (*found.shape(f"{seq}C"), 0, 0)[1]
    both = choice.found("bidirectional", width == 2 * p, "the output matrices")
    choice.found("conj_sym", False, "layers of s5-pytorch")
    Lambda = found.take(f"{seq}Lambda", p)
    C = found.take(f"{seq}C", h, 2 * p if both else p) / 2
    step = found.take(f"{seq}log_step", *((p, 1) if len(found.shape(f"{seq}log_step")) == 2 else (p,)))
    outputs = dict(zip(("C1", "C2"), np.split(C, 2, axis=1), strict=True)) if both else {"C": C}
    return {
        "Lambda_re": Lambda.real,
        "Lambda_im": Lambda.imag,
        "B": found.take(f"{seq}B", p, h, 2),
        "D": found.take(f"{seq}D", h),
        "log_step": step.reshape(p, 1),
        **{name: pairs(values.astype(np.complex128)) for name, values in outputs.items()},
    }, p


def _feedforward(found: Arrays, at: str, h: int) -> dict[str, Any]:
    width = (*found.shape(f"{at}ff_dec.weight"), 0)[1]
    return {
        "norm": {"scale": found.take(f"{at}attn_norm.weight", h), "bias": found.take(f"{at}attn_norm.bias", h)},
        "ff_norm": {"scale": found.take(f"{at}ff_norm.weight", h), "bias": found.take(f"{at}ff_norm.bias", h)},
        "ff_enc": {"kernel": found.take(f"{at}ff_enc.weight", 2 * width, h).T},
        "ff_dec": {"kernel": found.take(f"{at}ff_dec.weight", h, width).T},
    }
