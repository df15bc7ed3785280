"""S4D and DSS networks of state-spaces/s4, as its example puts them together: PyTorch state dicts.

    encoder.{weight, bias}                             (h, in), (h,); without a bias, an embedding (ids, h)
    s4_layers.i.D                                      (h,), or (1, h)
    s4_layers.i.kernel.{log_dt, log_A_real, A_imag, C} (h,), (h, p), (h, p), (h, p, 2): the minimal S4D
    s4_layers.i.layer.kernel.{inv_dt, A_real, A_imag, B, C}, s4_layers.i.layer.D
                                                       (h, 1), (s, p), (s, p), (1, s, p, 2), (directions, h, p, 2):
                                                       S4Block with mode=diag, s systems that h channels share in turn
    s4_layers.i.output_linear.0.{weight, bias}         (2h, h) or (2h, h, 1), (2h,): values, then gates of a GLU
    norms.i.{weight, bias}                             (h,); with running_mean and running_var, batch normalisation
    decoder.{weight, bias}                             (classes, h), (classes,)

The names of the lists may be others, and may stand behind a common beginning. gelu is exact and 1e-5 is added to
variances, as in PyTorch. Poles of the block are -f(A_real) - i g(A_imag), those of the minimal S4D
-exp(log_A_real) + i A_imag.

The backward kernel of a bidirectional block starts looking ahead at the next step, that of a layer here at the current
one: with C / a in the place of C it is the same but for the current step, which the feedthrough takes back,

    sum_{j >= 0} k_j u_{t+1+j} = sum_{j >= 0} k'_j u_{t+j} - k'_0 u_t,    k_j = 2 Re(C a^j b),    k'_j = 2 Re(C/a a^j b)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from s5c.errors import UserError
from s5c.model.config import ModelConfig
from s5c.model.family import dss, s4d
from s5c.model.inputs import InputSpec
from s5c.upstream.network import Arrays, Choice, Converted, complexes, pairs, single
from s5c.upstream.torch_names import encoder_of, linear, norm_of, shared_root

TITLE = "S4D and DSS networks of state-spaces/s4"
FAMILIES = ("s4d", "dss")

OPTIONS = (
    *(
        "n_layers",
        "d_model",
        "state_size",
        "stored_states",
        "in_dim",
        "n_out",
        "length",
        "tokens",
        "activation",
        "gelu",
    ),
    *("discretisation", "bidirectional", "prenorm", "norm", "layer_eps", "pooling", "dt_min", "dt_max", "dropout"),
    *("step_rescale", "real_transform", "imag_transform", "dt_transform", "bn_momentum", "clip_eigs"),
)

LAYER = re.compile(r"^(?P<list>.*?)(?P<number>\d+)\.(?P<inside>(?:layer\.)?)kernel\.(?P<pole>log_A_real|A_real)$")

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "none": lambda x: x,
    "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.maximum(x, 0) + 1e-4,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def fits(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether names are those of diagonal kernels."""
    return any(LAYER.match(name) for name in arrays)


def convert(arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Converted:
    """Returns the network.

    Args:
        arrays: by name.
        given: options (`s5c.upstream.options.read`), as far as they are known.

    Raises:
        UserError: an array or an option does not fit.
    """
    matches = [m for name in arrays if (m := LAYER.match(name))]
    lists = {m["list"] for m in matches}
    if len(lists) > 1:
        raise UserError(
            f"The file has several lists of layers, {', '.join(sorted(lists))}: give the weights of one network."
        )
    numbers = sorted(int(m["number"]) for m in matches)
    if numbers != list(range(len(numbers))):
        raise UserError(f"The file has the layers {', '.join(map(str, numbers))}: one is missing, or there twice.")
    layers, root = lists.pop(), shared_root(matches[0]["list"])
    minimal = matches[0]["pole"] == "log_A_real"
    found, choice = Arrays(arrays, TITLE), Choice(given, OPTIONS, TITLE)
    choice.found("n_layers", len(numbers), "its layers")
    encoder, spec_in, h = encoder_of(found, choice, root)
    norms = f"{root}norms."
    kind = "batch" if f"{norms}0.running_mean" in found else "layer"
    choice.found("norm", kind, "its norms")
    rescale = float(choice.taken("step_rescale", 1.0, (2.0, 0.5)))
    softmax = choice.given.get("discretisation") == "dss"
    if softmax and minimal:
        raise UserError("discretisation=dss does not fit the file: the minimal S4D has no other rule than zoh.")
    blocks: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    dims = []
    for i in numbers:
        at = f"{layers}{i}."
        seq, p = _minimal(found, at, h) if minimal else _block(found, choice, at, h, softmax=softmax)
        dims.append(p)
        seq["log_step"] = seq["log_step"] + np.log(rescale)
        out = _gate(found, f"{at}output_linear.", h)
        norm, statistics = norm_of(found, f"{norms}{i}.", h)
        blocks[f"layers_{i}"] = {"seq": seq, "norm": norm, **out}
        if statistics:
            stats[f"layers_{i}"] = {"norm": statistics}
    decoder, classes = linear(found, f"{root}decoder.", h)
    choice.found("n_out", classes, "the shapes of the decoder")
    found.done()
    config = _config(choice, h, dims, kind, minimal=minimal, softmax=softmax)
    weights: dict[str, Any] = {"params": single({"encoder": {"encoder": encoder, **blocks}, "decoder": decoder})}
    if stats:
        weights["batch_stats"] = single({"encoder": stats})
    spec = InputSpec(spec_in, classes, bool(choice.read["tokens"]))
    return Converted(weights, config, spec, tuple(dims), choice.read, choice.assumed, choice.open)


def _minimal(found: Arrays, at: str, h: int) -> tuple[dict[str, np.ndarray], int]:
    kernel = f"{at}kernel."
    p = _states(found, f"{kernel}log_A_real")
    seq = {
        "Lambda_log_neg_re": found.take(f"{kernel}log_A_real", h, p),
        "Lambda_im": found.take(f"{kernel}A_imag", h, p),
        "log_step": found.take(f"{kernel}log_dt", h),
        "C": found.take(f"{kernel}C", h, p, 2),
        "D": found.take(f"{at}D", h),
    }
    return seq, p


def _states(found: Arrays, name: str) -> int:
    shape = found.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{name} has shape {shape}: two axes are expected, systems and states.")
    return shape[1]


def _block(found: Arrays, choice: Choice, at: str, h: int, *, softmax: bool) -> tuple[dict[str, np.ndarray], int]:
    """Returns the parameters of one layer of an S4Block, with B multiplied into C."""
    kernel = f"{at}layer.kernel."
    p, systems = _states(found, f"{kernel}A_real"), found.shape(f"{kernel}A_real")[0]
    directions = found.shape(f"{kernel}C")[0] if len(found.shape(f"{kernel}C")) == 4 else 1
    both = choice.found("bidirectional", directions == 2, "the output matrices")
    if h % systems:
        raise UserError(f"{kernel}A_real has {systems} systems, which {h} channels cannot share evenly.")

    def shared(values: np.ndarray) -> np.ndarray:
        return np.tile(values, (h // systems, *(1,) * (values.ndim - 1)))

    real = choice.taken("real_transform", "none" if softmax else "exp", ("none", "softplus", "relu"))
    imaginary = choice.taken("imag_transform", "none", ("exp",))
    with np.errstate(all="ignore"):  # what is no number is named below
        decay = TRANSFORMS[real](found.take(f"{kernel}A_real", systems, p))
        frequency = TRANSFORMS[imaginary](found.take(f"{kernel}A_imag", systems, p))
        steps = TRANSFORMS[choice.taken("dt_transform", "exp", ("softplus",))](found.take(f"{kernel}inv_dt", h, 1))[
            :, 0
        ]
    Lambda = shared(-decay - 1j * frequency)
    B = shared(complexes(found.take(f"{kernel}B", 1, systems, p, 2)[0]))
    C = complexes(found.take(f"{kernel}C", directions, h, p, 2)) * B
    D = found.take(f"{at}layer.D", 1, h)[0]
    if (steps <= 0).any() or (not softmax and (Lambda.real > 0).any()):
        raise UserError(
            f"With real_transform={real} and dt_transform={choice.given.get('dt_transform', 'exp')} layer {at[:-1]} "
            "has steps or decay rates that are not positive: its transforms are others."
        )
    outputs = {"C": pairs(C[0])}
    if both:
        backward, D = _from_the_current_step(Lambda, steps, C[1], D, choice)
        outputs = {"C1": pairs(C[0]), "C2": pairs(backward)}
    poles = {"Lambda_re": Lambda.real} if softmax else {"Lambda_log_neg_re": np.log(np.maximum(-Lambda.real, 1e-30))}
    return {**poles, "Lambda_im": Lambda.imag, "log_step": np.log(steps), "D": D, **outputs}, p


def _from_the_current_step(
    Lambda: np.ndarray, steps: np.ndarray, C: np.ndarray, D: np.ndarray, choice: Choice
) -> tuple[np.ndarray, np.ndarray]:
    z = Lambda * steps[:, None]
    rule = choice.given.get("discretisation", "zoh")
    if rule == "dss":
        raise UserError("A bidirectional DSS network, whose kernels depend on the length of the input, cannot be read.")
    if rule == "bilinear":
        a, b = (1 + z / 2) / (1 - z / 2), steps[:, None] / (1 - z / 2)
    else:
        a, b = np.exp(z), np.expm1(z) / Lambda
    shifted = C / a
    if not np.isfinite(shifted).all() or np.abs(shifted).max() > 1e6 * max(np.abs(C).max(), 1e-30):
        raise UserError(
            "A backward kernel decays within a step: what it sees of the next step cannot be written as what it sees "
            "from the current step on, which is what a bidirectional layer of s5c does."
        )
    return shifted, D - 2 * (shifted * b).real.sum(axis=1)


def _gate(found: Arrays, at: str, h: int) -> dict[str, Any]:
    """Returns values and gates of a GLU behind a convolution of one step, or a linear map."""
    inside = "0." if f"{at}0.weight" in found else ""
    axes = len(found.shape(f"{at}{inside}weight"))
    weight = found.take(f"{at}{inside}weight", 2 * h, h, *([1] * (axes - 2))).reshape(2, h, h)
    bias = found.take(f"{at}{inside}bias", 2 * h).reshape(2, h)
    return {f"out{i + 1}": {"kernel": weight[i].T, "bias": bias[i]} for i in range(2)}


def _config(choice: Choice, h: int, dims: list[int], norm: str, *, minimal: bool, softmax: bool) -> ModelConfig:
    """Returns the configuration; a DSS network is one whose kernels are normalised by the softmax over their taps."""
    stored = max(dims)
    size = choice.given.get("state_size", 2 * stored)
    if size != 2 * stored:
        raise UserError(f"state_size={size} does not fit the file: its channels store {stored} states, N={2 * stored}.")
    choice.found("d_model", h, "the shapes")
    if len(set(dims)) == 1:
        choice.found("stored_states", stored, "the shapes")
    choice.found("activation", "full_glu", "the blocks")
    choice.found("gelu", "exact", "the blocks")
    shared: dict[str, Any] = {
        "n_layers": len(dims),
        "d_model": h,
        "activation": "full_glu",
        "gelu": "exact",
        "prenorm": choice.taken("prenorm", False, (True,)),
        "norm": norm,
        "layer_eps": choice.given.get("layer_eps", 1e-5),
        "bn_momentum": choice.given.get("bn_momentum", 0.9),
        "dropout": choice.given.get("dropout", 0.0),
        "pooling": choice.taken("pooling", "mean", ("last",)),
        "bidirectional": choice.read.get("bidirectional", False),
        "dt_min": choice.given.get("dt_min", 1e-3),
        "dt_max": choice.given.get("dt_max", 1e-1),
    }
    if softmax:
        return dss.Config(
            state_size=stored, variant="softmax", shared_poles=False, length=choice.given.get("length"), **shared
        )
    others = ("bilinear",) if choice.read.get("bidirectional") else ("bilinear", "dss")
    rule = (
        choice.found("discretisation", "zoh", "the names") if minimal else choice.taken("discretisation", "zoh", others)
    )
    return s4d.Config(state_size=2 * stored, discretisation=rule, init="lin", **shared)
