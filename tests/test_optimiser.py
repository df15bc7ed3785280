"""Parameter groups and learning rates against the tables of the published code."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import PIXELS, network, weights_of

from s5c.errors import UserError
from s5c.model.config import families
from s5c.model.roles import ROLES, Parameter, parameters_of
from s5c.training.loop import Recipe
from s5c.training.optimiser import GROUPINGS, groups, optimiser, schedule

# S5's `opt_config`: the group of each state-space parameter; everything else is regular.
TABLE = {
    "standard": {"B": "ssm", "C": "regular", "D": "regular", "Lambda": "ssm", "log_step": "ssm"},
    "BandCdecay": {"B": "ssm_decay", "C": "regular", "D": "regular", "Lambda": "ssm", "log_step": "ssm"},
    "BfastandCdecay": {"B": "regular", "C": "regular", "D": "regular", "Lambda": "ssm", "log_step": "ssm"},
    "noBCdecay": {"B": "ssm", "C": "ssm", "D": "ssm", "Lambda": "ssm", "log_step": "ssm"},
    "noCdecay": {"B": "ssm", "C": "ssm", "D": "regular", "Lambda": "ssm", "log_step": "ssm"},  # DSS's, not S5's
}
ALIASES = {"C1": "C", "C2": "C", **dict.fromkeys(("Lambda_re", "Lambda_im", "Lambda_log_neg_re"), "Lambda")}


def expected_group(name: str, grouping: str, dt_global: bool) -> str:
    if name == "log_step" and dt_global:
        return "regular"
    return TABLE[grouping].get(ALIASES.get(name, name), "regular")


@pytest.mark.parametrize("dt_global", [False, True])
@pytest.mark.parametrize("grouping", TABLE)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_parameter_has_its_group(
    bidirectional: bool, grouping: str, dt_global: bool, rng: np.random.Generator
) -> None:
    params = weights_of(network(PIXELS, bidirectional=bidirectional), rng)["params"]
    assigned = groups(params, grouping=grouping, dt_global=dt_global)
    assert jax.tree.structure(assigned) == jax.tree.structure(params)
    seen = set()
    for path, group in jax.tree_util.tree_leaves_with_path(assigned):
        seen.add(path[-1].key)
        assert group == expected_group(path[-1].key, grouping, dt_global), path
    outputs = {"C1", "C2"} if bidirectional else {"C"}
    assert seen == {"Lambda_re", "Lambda_im", "B", "D", "log_step", "kernel", "bias", "scale"} | outputs


@pytest.mark.parametrize(
    ("family", "options", "own"),
    [
        ("s4d", {"B": "free", "bidirectional": True}, {"Lambda_log_neg_re", "B", "C1", "C2"}),
        ("dss", {}, {"Lambda_log_neg_re", "C"}),
        ("dss", {"variant": "softmax"}, {"Lambda_re", "C"}),
    ],
)
def test_other_families_are_grouped_alike(
    family: str, options: dict[str, Any], own: set[str], rng: np.random.Generator
) -> None:
    model = network(PIXELS, family, **options)
    params, declared = weights_of(model, rng)["params"]["encoder"]["layers_0"]["seq"], parameters_of(model.config)
    assert set(params) == {"Lambda_im", "log_step", "D"} | own
    for apart in (False, True):
        assigned = groups(params, grouping="noCdecay", dt_global=False, dt_apart=apart, declared=declared)
        assert assigned.pop("log_step") == ("dt" if apart else "ssm")
        assert assigned == {name: expected_group(name, "noCdecay", False) for name in assigned}


def test_a_parameter_that_no_family_declares_is_refused() -> None:
    """And not trained at some rate: the LRU's poles are exp(-exp(nu_log)), and would have been decayed as a weight."""
    params = {"encoder": {"layers_0": {"seq": {"nu_log": jnp.zeros(3), "B": jnp.zeros(3)}, "norm": {"scale": 0.0}}}}
    with pytest.raises(UserError, match=r"parameter of a sequence layer 'nu_log'"):
        groups(params, grouping="standard", dt_global=False)
    declared = {"nu_log": Parameter("pole", 0), "B": Parameter("input", 0)}
    assigned = groups(params, grouping="standard", dt_global=False, declared=declared)
    assert assigned["encoder"]["layers_0"] == {"seq": {"nu_log": "ssm", "B": "ssm"}, "norm": {"scale": "regular"}}


@pytest.mark.parametrize("family", families())
def test_every_family_declares_the_parameters_that_its_layers_have(family: str, rng: np.random.Generator) -> None:
    model = network(PIXELS, family)
    declared = parameters_of(model.config)
    for name, value in weights_of(model, rng)["params"]["encoder"]["layers_0"]["seq"].items():
        assert declared[name].role in ROLES
        axis = declared[name].axis
        assert axis is None or value.shape[axis] == model.state_dims[0], name


def test_a_step_size_may_have_a_rate_of_its_own() -> None:
    """And only then is there a fourth group: checkpoints of trainings without one stay what they are."""
    params = {name: jnp.full((), 2.0) for name in ("log_step", "Lambda_im", "D")}
    rates: dict[str, Any] = {"lr": lambda _: 0.1, "ssm_lr": lambda _: 0.01}
    for apart, length in (({"dt_lr": lambda _: 0.2}, 0.2), ({}, 0.01)):
        transform = optimiser(params, **rates, **apart, weight_decay=0.5, grouping="standard", dt_global=False)
        state = transform.init(params)
        assert set(state.inner_states) == {"ssm", "ssm_decay", "regular"} | ({"dt"} if apart else set())
        updates, _ = transform.update(jax.tree.map(jnp.ones_like, params), state, params)
        assert float(updates["log_step"]) == pytest.approx(-length, rel=1e-5)
        assert float(updates["Lambda_im"]) == pytest.approx(-0.01, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"dt_lr": 0.0}, {"dt_lr": 0.01, "dt_global": True}])
def test_a_rate_that_contradicts_another_key_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"train\.dt_lr=0.*dt_lr=null"):
        Recipe(epochs=2, batch_size=1, **wrong)


def test_all_groupings_are_in_the_table() -> None:
    assert set(GROUPINGS) == set(TABLE)


def test_an_unknown_grouping_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UserError, match=r"(?s)train.grouping 'BandC'.*BandCdecay.*noBCdecay"):
        groups({"B": jnp.zeros(1)}, grouping="BandC", dt_global=False)


# ---- what a step does


def step(grouping: str, dt_global: bool, gradient: float) -> dict[str, float]:
    """Returns what one step with lr=0.1, ssm_lr=0.01 and decay 0.5 makes of parameters that are 2."""
    names = ("Lambda_re", "B", "C1", "D", "log_step", "kernel", "bias", "scale")
    params = {name: jnp.full((), 2.0) for name in names}
    rates: dict[str, Any] = {"lr": lambda _: 0.1, "ssm_lr": lambda _: 0.01}
    transform = optimiser(params, **rates, weight_decay=0.5, grouping=grouping, dt_global=dt_global)

    @jax.jit
    def after(params: dict[str, Any]) -> dict[str, Any]:
        gradients = jax.tree.map(lambda v: jnp.full_like(v, gradient), params)
        updates, _ = transform.update(gradients, transform.init(params), params)
        return optax.apply_updates(params, updates)

    return {name: float(value) for name, value in after(params).items()}


@pytest.mark.parametrize(("grouping", "dt_global"), [("standard", True), ("BandCdecay", False), ("noBCdecay", False)])
def test_rates_and_decay_of_the_groups(grouping: str, dt_global: bool) -> None:
    """Without a gradient only decay is left, of norms and biases too; Adam's first step is as long as the rate."""
    decayed = {"ssm": 2.0, "ssm_decay": 2 * (1 - 0.01 * 0.5), "regular": 2 * (1 - 0.1 * 0.5)}
    length = {"ssm": 0.01, "ssm_decay": 0.01, "regular": 0.1}
    resting, moving = step(grouping, dt_global, 0.0), step(grouping, dt_global, 1.0)
    for name, value in resting.items():
        group = expected_group(name, grouping, dt_global)
        assert value == pytest.approx(decayed[group], rel=1e-6), name
        assert moving[name] == pytest.approx(decayed[group] - length[group], rel=1e-5), name


# ---- schedule


def published_rates(base: float, minimum: float, epochs: int, warmup_epochs: int, per_epoch: int) -> list[float]:
    """The loop of the published code: rates are written after each update and used by the next one."""
    used, current, k = [], base, 0
    for epoch in range(epochs):
        for _ in range(per_epoch):
            used.append(current)
            if epoch < warmup_epochs:
                current = base * (k + 1) / (per_epoch * warmup_epochs)
            else:
                end = per_epoch * (epochs - warmup_epochs)
                count = min(k, end)
                current = (base - minimum) * 0.5 * (1 + math.cos(math.pi * count / end)) + minimum
            k += 1
    return used


@pytest.mark.parametrize("minimum", [0.0, 1e-4])
@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(6, 1), (5, 0), (7, 3)])
def test_rates_are_those_of_the_published_loop(epochs: int, warmup_epochs: int, minimum: float) -> None:
    expected = published_rates(4e-3, minimum, epochs, warmup_epochs, per_epoch=7)
    rate = schedule(4e-3, warmup_steps=7 * warmup_epochs, total_steps=7 * epochs, minimum=minimum)
    ours = jax.jit(jax.vmap(rate))(jnp.arange(7 * epochs))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)


def test_the_quirks_of_the_schedule() -> None:
    warmup, total = 10, 60
    rate = schedule(1.0, warmup_steps=warmup, total_steps=total)
    rates = np.array([float(rate(k)) for k in range(total)])
    assert rates[0] == 1  # the very first step is taken at the full rate,
    np.testing.assert_allclose(rates[1 : warmup + 1], np.arange(1, 11) / 10, rtol=1e-6)  # then the warm-up begins;
    assert rates[warmup + 1] == pytest.approx((1 + math.cos(math.pi / 5)) / 2)  # the cosine is entered at W / E
    assert (rates[-(warmup - 1) :] == 0).all()  # and ends early
    assert rates[-warmup] > 0
