"""What a file of weights does not say about its network, in s5c's words and in those of the codes it comes from."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from s5c.errors import UserError, nearest_first, unknown


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        meaning: for messages and help.
        read: makes a value of what was given, or raises `ValueError`.
        others: names of it in other codes, each with what its values are called here.
        values: the values there are, where there are few.
    """

    meaning: str
    read: Callable[[Any], Any]
    others: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)
    values: tuple[Any, ...] = ()


def _whole(given: Any) -> int:
    if isinstance(given, bool) or int(given) != float(given) or int(given) < 1:
        raise ValueError("a whole number of at least 1")
    return int(given)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not 0 < float(given) < float("inf"):
        raise ValueError("a positive number")
    return float(given)


def _share(given: Any) -> float:
    if isinstance(given, bool) or not 0 <= float(given) <= 1:
        raise ValueError("a number from 0 to 1")
    return float(given)


def _yes(given: Any) -> bool:
    """Reads a yes or no as upstream's argument parser does."""
    word = str(given).strip().lower()
    if word not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
        raise ValueError("true or false")
    return word in ("yes", "true", "t", "y", "1")


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError("text")
    return given


SAME: Mapping[Any, Any] = {}


def _one(read: Callable[[Any], Any], meaning: str, *others: str, values: tuple[Any, ...] = ()) -> Option:
    """Returns an option whose values are called the same in other codes."""
    return Option(meaning, read, dict.fromkeys(others, SAME), values)


STATE_SIZE = ("P", "ssm_size_base", "d_state", "N", "state_width", "state_dim")
C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")
TRANSFORMS = ("exp", "none", "softplus", "relu", "sigmoid")

OPTIONS: dict[str, Option] = {
    "n_layers": _one(_whole, "number of blocks"),
    "d_model": _one(_whole, "features H", "H"),
    "state_size": _one(_whole, "real states P of a layer, or N of a channel", *STATE_SIZE),
    "stored_states": _one(_whole, "stored complex states of a layer"),
    "blocks": _one(_whole, "HiPPO blocks J, which initial values alone depend on", "J", "block_count"),
    "in_dim": _one(_whole, "channels of an input, or number of token ids", "d_input", "features"),
    "n_out": _one(_whole, "classes", "d_output", "classes", "n_classes"),
    "length": _one(_whole, "steps of the sequences it was trained on, padding included", "L", "seq_len", "l_max"),
    "tokens": _one(_yes, "inputs are token ids, not real channels", "padded", values=(False, True)),
    "pairs": _one(_yes, "two documents are compared", "retrieval", values=(False, True)),
    "C_init": _one(_text, "initial values of C, which answers do not depend on", values=C_INITS),
    "activation": _one(
        _text,
        "the gate behind a layer",
        "activation_fn",
        values=("half_glu1", "half_glu2", "full_glu", "gelu", "geglu"),
    ),
    "gelu": _one(_text, "Flax's formula for gelu, or gelu itself, as in PyTorch", values=("tanh", "exact")),
    "discretisation": _one(
        _text, "how steps are made of a continuous system", "discretization", "disc", values=("zoh", "bilinear", "dss")
    ),
    "bidirectional": _one(_yes, "both directions", "bidir", values=(False, True)),
    "conj_sym": _one(_yes, "one of each conjugate pair is stored", values=(True, False)),
    "clip_eigs": _one(_yes, "real parts of poles are clipped to at most -1e-4", values=(False, True)),
    "prenorm": _one(_yes, "normalised before the layer, not behind it", values=(True, False)),
    "norm": Option("normalisation", _text, {"batchnorm": {True: "batch", False: "layer"}}, ("batch", "layer")),
    "layer_eps": _one(_number, "added to the variance by layer normalisation"),
    "bn_momentum": _one(_share, "weight of the old statistics, which training alone depends on"),
    "pooling": Option("what is made of all steps", _text, {"mode": {"pool": "mean", "last": "last"}}, ("mean", "last")),
    "dt_min": _one(_number, "least initial step, which answers do not depend on"),
    "dt_max": _one(_number, "largest initial step, which answers do not depend on"),
    "dropout": _one(_share, "rate, which training alone depends on", "p_dropout"),
    "step_rescale": _one(_number, "factor on all steps"),
    "real_transform": _one(_text, "how real parts of poles are stored", values=TRANSFORMS),
    "imag_transform": _one(_text, "how imaginary parts of poles are stored", values=TRANSFORMS),
    "dt_transform": _one(_text, "how steps are stored", values=("exp", "softplus")),
}

DATASETS = {"imdb-classification": True, "listops-classification": True, "aan-classification": True}
"""Upstream's data sets of token ids; the others are real channels."""

OF_TRAINING = frozenset(
    {
        *("name", "B", "bsz", "epochs", "early_stop_patience", "ssm_lr_base", "ssm_lr", "lr", "lr_factor", "lr_min"),
        *("dt_global", "cosine_anneal", "warmup_end", "lr_patience", "reduce_factor", "weight_decay", "opt_config"),
        *("jax_seed", "steps", "warmup_steps", "total_steps", "USE_WANDB", "wandb_project", "wandb_entity"),
        *("dir_name", "pruning", "pruning_ratio", "pruning_method", "pruning_epoch", "liquid", "degree", "ff_dropout"),
        *("attn_dropout", "bcInit", "batch_size", "seed", "lr_decay", "grayscale", "resume", "init"),
    }
)
"""Keys of upstream's argument lines and configurations that no answer depends on."""


def read(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options in s5c's words; what no answer depends on is left out.

    Args:
        given: options by s5c's names or those of the codes they come from; None counts as not given.

    Raises:
        UserError: an unknown name, a value out of range, or one option given twice with two values.
    """
    names = {other: (name, words) for name, one in OPTIONS.items() for other, words in one.others.items()}
    found: dict[str, Any] = {}
    for key, value in given.items():
        if value is None or key in OF_TRAINING:
            continue
        if key == "dataset":
            meant = {"tokens": DATASETS.get(str(value), False), "pairs": str(value) == "aan-classification"}
        else:
            name, words = names.get(key, (key, SAME))
            if name not in OPTIONS:
                raise unknown("option", key, [*OPTIONS, *names])
            meant = {name: _value(key, name, value, words)}
        for name, one in meant.items():
            if found.setdefault(name, one) != one:
                raise UserError(f"The options say {name}={found[name]} and, as {key}, {name}={one}: leave one out.")
    return found


def _value(key: str, name: str, value: Any, words: Mapping[Any, Any]) -> Any:
    option = OPTIONS[name]
    try:
        if words and all(isinstance(word, bool) for word in words):
            return words[_yes(value)]
        if words:
            if value in words.values():
                return value
            if value not in words:
                raise ValueError(f"one of {', '.join(map(str, words))}")
            return words[value]
        found = option.read(value)
    except (TypeError, ValueError, OverflowError) as error:
        said = str(error) if isinstance(error, ValueError) and error.args and "one of" in str(error) else ""
        wanted = said or _wanted(option)
        raise UserError(f"{key}={value!r} ({option.meaning}): give {wanted}.") from error
    if option.read is _text and option.values and found not in option.values:
        raise unknown(f"value for {key}", found, [str(one) for one in option.values])
    return found


def _wanted(option: Option) -> str:
    kinds: dict[Any, str] = {
        **{_whole: "a whole number of at least 1", _number: "a positive number", _share: "a number from 0 to 1"},
    }
    usual = "true or false" if option.read is _yes else f"one of {', '.join(map(str, option.values))}"
    return kinds.get(option.read, usual)


def is_line(text: str) -> bool:
    """Returns whether a text is a command line of options rather than yaml."""
    return re.search(r"(^|\s)--\w", text) is not None


def of_line(text: str) -> dict[str, Any]:
    """Returns the options of a pasted command line, `--d_model 256 --clip_eigs=True`, whatever stands before them.

    Raises:
        UserError: an option without a value.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise UserError(f"The options cannot be read ({error}): {nearest_first('', [text[:80]])[0]}") from error
    found: dict[str, Any] = {}
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, sign, value = word[2:].partition("=")
        if not sign:
            following = words[place + 1] if place + 1 < len(words) else "--"
            if following.startswith("--"):
                raise UserError(f"--{key} has no value: write --{key} VALUE or --{key}=VALUE.")
            value = following
        found[key.replace("-", "_")] = None if value == "None" else value
    return found
