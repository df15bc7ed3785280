"""Optimiser groups and learning-rate schedule of the published S5 and LAST code, quirks included.

Every parameter belongs to one of three groups. Those of a sequence layer are chosen by the role that their family
declares (`s5c.model.roles`); one that is not declared is refused. The names are S5's:

    ssm         Adam, learning rate ssm_lr, no weight decay
    ssm_decay   AdamW at ssm_lr (the published code calls it "none")
    regular     AdamW at lr

    grouping          B           C, C1, C2   D         Lambda, log_step
    standard          ssm         regular     regular   ssm
    BandCdecay        ssm_decay   regular     regular   ssm
    BfastandCdecay    regular     regular     regular   ssm
    noBCdecay         ssm         ssm         ssm       ssm

Quirks kept: `dt_global` moves log_step to `regular`, where it is decayed towards Delta = 1; norm scales and all biases
are decayed too (the published list names "norm", but leaves are called scale and bias). There is no gradient clipping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from s5c.errors import unknown
from s5c.model.family.s5 import PARAMETERS as S5
from s5c.model.roles import Parameter
from s5c.types import Array, Params

GROUPINGS: dict[str, dict[str, str]] = {
    "standard": {"input": "ssm"},
    "BandCdecay": {"input": "ssm_decay"},
    "BfastandCdecay": {},
    "noBCdecay": dict.fromkeys(("input", "output", "feedthrough"), "ssm"),
    "noCdecay": dict.fromkeys(("input", "output"), "ssm"),
}
"""Groups by role; poles and steps are `ssm` in all of them, what is not listed is `regular`."""


def groups(
    params: Params,
    *,
    grouping: str,
    dt_global: bool,
    dt_apart: bool = False,
    declared: Mapping[str, Parameter] = S5,
) -> Params:
    """Returns a tree like `params` with the group of every leaf.

    Args:
        params: gives the tree's structure.
        grouping: a key of `GROUPINGS`.
        dt_global: log_step belongs to `regular`.
        dt_apart: log_step belongs to `dt`.
        declared: parameters of the sequence layers (`s5c.model.roles`), S5's if not given.

    Raises:
        UserError: unknown grouping, or a sequence layer has a parameter that its family does not declare.
    """
    if grouping not in GROUPINGS:
        raise unknown("value for train.grouping", grouping, GROUPINGS)
    by_role = {"pole": "ssm", "step": "ssm", **GROUPINGS[grouping]}
    if dt_global:
        by_role["step"] = "regular"
    elif dt_apart:
        by_role["step"] = "dt"

    def group(path: Any, _: Any) -> str:
        name = path[-1].key
        if name in declared:
            return by_role.get(declared[name].role, "regular")
        if len(path) > 1 and path[-2].key == "seq":
            raise unknown("parameter of a sequence layer", name, declared)
        return "regular"

    return jax.tree_util.tree_map_with_path(group, params)


def schedule(
    base: float, *, warmup_steps: int, total_steps: int, minimum: float = 0.0
) -> Callable[[int | Array], Array]:
    """Linear warm-up, then a cosine; returns the rate of step k = 0, 1, ...

        value(k) = base (k+1) / warmup_steps                                        for k < warmup_steps
        value(k) = minimum + (base - minimum) (1 + cos(pi min(k, E) / E)) / 2,  E = total_steps - warmup_steps, after
        rate(0) = base,  rate(k) = value(k-1)

    Quirks kept: the cosine is entered at phase warmup_steps/E instead of 0 and ends warmup_steps early, so the last
    ones train at `minimum`; the rate is written after each update, so step k uses the value of step k-1 and the very
    first step the full base rate.

    Args:
        base: the full rate.
        warmup_steps: W, may be 0.
        total_steps: all steps of the training.
        minimum: rate at the end of the cosine.
    """
    end = max(total_steps - warmup_steps, 1)

    def rate(step: int | Array) -> Array:
        k = jnp.asarray(step) - 1
        warm = base * (k + 1) / max(warmup_steps, 1)
        cosine = minimum + 0.5 * (base - minimum) * (1 + jnp.cos(math.pi * jnp.minimum(k, end) / end))
        return jnp.where(k < 0, base, jnp.where(k < warmup_steps, warm, cosine))

    return rate


def optimiser(
    params: Params,
    *,
    lr: Callable[[int | Array], Array],
    ssm_lr: Callable[[int | Array], Array],
    weight_decay: float,
    grouping: str,
    dt_global: bool,
    dt_lr: Callable[[int | Array], Array] | None = None,
    declared: Mapping[str, Parameter] = S5,
) -> optax.GradientTransformation:
    """Returns Adam/AdamW per parameter group (see the module's table).

    Args:
        params: gives the tree's structure.
        lr: schedule of the `regular` group.
        ssm_lr: schedule of the state-space groups.
        weight_decay: decoupled decay, multiplied by the group's rate.
        grouping: a key of `GROUPINGS`.
        dt_global: move log_step to `regular`.
        dt_lr: schedule of log_step, if it has one of its own.
        declared: parameters of the sequence layers (`s5c.model.roles`), S5's if not given.
    """
    transforms = {
        "ssm": optax.adam(ssm_lr),
        "ssm_decay": optax.adamw(ssm_lr, weight_decay=weight_decay),
        "regular": optax.adamw(lr, weight_decay=weight_decay),
    }
    if dt_lr is not None:
        transforms["dt"] = optax.adam(dt_lr)
    apart = dt_lr is not None
    assigned = groups(params, grouping=grouping, dt_global=dt_global, dt_apart=apart, declared=declared)
    return optax.multi_transform(transforms, assigned)


def held(
    make: Callable[[Params], optax.GradientTransformation], frozen: Params, params: Params
) -> optax.GradientTransformation:
    """Returns an optimiser that leaves some entries of the parameters as they are.

    Args:
        make: gives the optimiser of all parameters.
        frozen: which entries stay, broadcastable to the parameters.
        params: gives the tree's structure.
    """

    def hold(updates: Params, _: Params) -> Params:
        return jax.tree.map(lambda update, mark: jnp.where(mark, 0, update), updates, frozen)

    return optax.chain(make(params), optax.stateless(hold))
