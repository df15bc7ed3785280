"""The network piece by piece: encoder, block, pooling, heads, training-mode behaviour, configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import LENGTH, PAIRS, PIXELS, ROWS, TOKENS, batch_for, network, weights_of

from s5c.errors import UserError
from s5c.model import layerwise, surgery
from s5c.model.block import Block
from s5c.model.classifier import InputSpec, PairHead, TokenEncoder, pool
from s5c.model.config import families, from_dict, load_family
from s5c.model.family.s5 import C_INITS, Config, Layer

# ---- encoder, pooling, heads


def test_the_token_encoder_is_a_dense_layer_on_one_hot_vectors(rng: np.random.Generator) -> None:
    ids = jnp.asarray(rng.integers(0, 7, (2, 5)), jnp.int32)
    params = {"kernel": jnp.asarray(rng.normal(size=(7, 4)), jnp.float32), "bias": jnp.arange(4.0)}
    weight = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)

    def value_and_gradient(module: nn.Module, inputs: Any) -> Any:
        def loss(params: Any) -> Any:
            y = module.apply({"params": params}, inputs)
            return jnp.sum(weight * y), y

        gradient, y = jax.grad(loss, has_aux=True)(params)
        return y, gradient

    ours = value_and_gradient(TokenEncoder(7, 4), ids)
    expected = value_and_gradient(nn.Dense(4), jax.nn.one_hot(ids, 7))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, expected)


def test_pooling_looks_at_valid_steps_only(rng: np.random.Generator) -> None:
    x, lengths = rng.normal(size=(3, 5, 2)).astype(np.float32), np.array([1, 3, 5], np.int32)
    mean = np.stack([x[i, :n].mean(0) for i, n in enumerate(lengths)])
    last = np.stack([x[i, n - 1] for i, n in enumerate(lengths)])
    x, lengths = jnp.asarray(x), jnp.asarray(lengths)
    np.testing.assert_allclose(pool(x, lengths, "mean"), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pool(x, lengths, "last"), last)
    np.testing.assert_allclose(pool(x, None, "mean"), np.mean(x, axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pool(x, None, "last"), x[:, -1])


def test_the_pair_head_joins_row_i_with_row_b_plus_i(rng: np.random.Generator) -> None:
    pooled = rng.normal(size=(6, 4)).astype(np.float32)
    head = PairHead(4, 2)
    params = weights_of(network(PAIRS, d_model=4), rng)["params"]["decoder"]
    for i, logits in enumerate(head.apply({"params": params}, jnp.asarray(pooled))):
        e1, e2 = pooled[i], pooled[3 + i]
        joined = np.concatenate([e1, e2, e1 - e2, e1 * e2])
        hidden = nn.gelu(joined @ params["layer1"]["kernel"] + params["layer1"]["bias"])
        expected = hidden @ params["layer2"]["kernel"] + params["layer2"]["bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_a_changed_second_document_changes_its_own_pair_alone(rng: np.random.Generator) -> None:
    model = network(PAIRS)
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(PAIRS, rng)
    apply = jax.jit(model.apply)
    before = apply(weights, inputs, lengths)
    after = apply(weights, inputs.at[3].set(6 - inputs[3]), lengths)
    assert before.shape == (ROWS // 2, 2)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-6


# ---- the block


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "half_glu1", "half_glu2", "full_glu"])
def test_the_block_is_its_formula(activation: str, prenorm: bool, rng: np.random.Generator) -> None:
    model = network(activation=activation, prenorm=prenorm, norm="layer")
    config = model.config
    params = weights_of(model, rng)["params"]["encoder"]["layers_1"]
    x = jnp.asarray(rng.normal(size=(2, LENGTH, config.d_model)), jnp.float32)

    def norm(z: Any) -> Any:
        scaled = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + 1e-6)
        return scaled * params["norm"]["scale"] + params["norm"]["bias"]

    def dense(name: str, z: Any) -> Any:
        return z @ params[name]["kernel"] + params[name]["bias"]

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + jnp.exp(-z))

    @jax.jit
    def ours_and_expected(x: Any) -> Any:
        y = Layer(config, 4).apply({"params": params["seq"]}, norm(x) if prenorm else x)
        g = 0.5 * y * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        if activation == "half_glu1":
            g = g * sigmoid(dense("out2", g))
        elif activation == "half_glu2":
            g = y * sigmoid(dense("out2", g))
        elif activation == "full_glu":
            g = dense("out1", g) * sigmoid(dense("out2", g))
        return Block(config, 4).apply({"params": params}, x), x + g if prenorm else norm(x + g)

    ours, expected = ours_and_expected(x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_one_dropout_mask_serves_all_steps(rng: np.random.Generator) -> None:
    model = network(activation="gelu", norm="layer", dropout=0.5)
    block = Block(model.config, 4)
    variables = {"params": weights_of(model, rng)["params"]["encoder"]["layers_0"]}
    x = jnp.asarray(rng.normal(size=(16, LENGTH, 6)), jnp.float32)
    train = partial(block.apply, training=True, rngs={"dropout": jax.random.key(1)})
    branch, dropped = (np.asarray(jax.jit(apply)(variables, x) - x) for apply in (block.apply, train))
    mask = (dropped != 0).any(axis=1, keepdims=True)
    assert 0.2 < mask.mean() < 0.8
    assert len(np.unique(mask[:, 0], axis=0)) > 10  # each example has its own
    np.testing.assert_allclose(dropped, 2 * branch * mask, atol=1e-5)


def test_batch_statistics_include_the_padding(rng: np.random.Generator) -> None:
    model = network(TOKENS, bn_momentum=0.9)
    weights, (inputs, _) = weights_of(model, rng), batch_for(TOKENS, rng)
    lengths = jnp.full(ROWS, 2, jnp.int32)
    train = jax.jit(lambda w, x: model.apply(w, x, lengths, training=True, mutable=["batch_stats"]))
    _, updated = train(weights, inputs)
    encoder = weights["params"]["encoder"]["encoder"]
    features = np.asarray(encoder["kernel"])[np.asarray(inputs)] + np.asarray(encoder["bias"])
    old, new = (stats["batch_stats"]["encoder"]["layers_0"]["norm"] for stats in (weights, updated))
    for name, statistic in (("mean", features.mean((0, 1))), ("var", features.var((0, 1)))):
        np.testing.assert_allclose(new[name], 0.9 * old[name] + 0.1 * statistic, rtol=1e-5, atol=1e-6)


# ---- the sequence layer


def test_step_rescale_multiplies_every_step(rng: np.random.Generator) -> None:
    model = network(bidirectional=True)
    layer, u = Layer(model.config, 4), jnp.asarray(rng.normal(size=(2, LENGTH, 6)), jnp.float32)
    params = weights_of(model, rng)["params"]["encoder"]["layers_0"]["seq"]
    slower = {**params, "log_step": params["log_step"] + np.log(2.0)}
    apply = jax.jit(layer.apply, static_argnums=2)
    expected = apply({"params": slower}, u)
    np.testing.assert_allclose(apply({"params": params}, u, 2.0), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(apply({"params": params}, u) - expected).max() > 0.1


@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_half_the_sample_rate_needs_twice_the_step(discretisation: str, rng: np.random.Generator) -> None:
    """An input held for two steps of the fine network gives every second output of it, to the order of the step."""
    model = network(discretisation=discretisation)
    apply = jax.jit(Layer(model.config, 4).apply, static_argnums=2)
    u = jnp.asarray(rng.normal(size=(1, 32, 6)), jnp.float32)
    params = weights_of(model, rng)["params"]["encoder"]["layers_0"]["seq"]
    params = {**params, "D": jnp.zeros(6), "log_step": params["log_step"] - 4}
    fine = apply({"params": params}, jnp.repeat(u, 2, axis=1))[:, 1::2]
    np.testing.assert_allclose(apply({"params": params}, u, 2.0), fine, atol=2e-2 * np.abs(fine).max())


def test_clipping_keeps_modes_stable_and_leaves_the_parameter_alone() -> None:
    family = load_family("s5")
    model = network(clip_eigs=True)
    params = dict(weights_of(model, np.random.default_rng(0))["params"]["encoder"]["layers_0"]["seq"])
    params["Lambda_re"] = jnp.array([0.5, 0.0, -1e-5, -3.0])
    clipped = family.to_system(params, model.config)
    np.testing.assert_allclose(clipped.Lambda.real, [-1e-4, -1e-4, -1e-4, -3.0], rtol=1e-6)
    unclipped = family.to_system(params, dataclasses.replace(model.config, clip_eigs=False))
    np.testing.assert_array_equal(unclipped.Lambda.real, params["Lambda_re"])


@pytest.fixture(scope="module", params=C_INITS)
def initialised(request: pytest.FixtureRequest) -> tuple[Config, dict[str, jax.Array]]:
    """Returns a layer of 64 features and 64 stored states as its initialisers leave it."""
    config = Config(n_layers=1, d_model=64, state_size=128, blocks=4, C_init=request.param, bidirectional=True)
    return config, jax.jit(Layer(config, 64).init)(jax.random.key(0), jnp.zeros((1, 1, 64)))["params"]


def test_initial_sizes(initialised: tuple[Config, dict[str, jax.Array]]) -> None:
    """Mean squares of the parameters, known from the definitions of the initialisers; each of 4,096 complex numbers."""
    config, params = initialised
    h, n = config.d_model, config.state_size
    # V is an isometry: a row of n independent numbers keeps its variance per entry.
    per_entry = {"trunc_standard_normal": 2 / n, "lecun_normal": 2 / (h * n), "complex_normal": 1.0}[config.C_init]
    for name in ("C1", "C2"):
        assert np.mean(np.sum(params[name] ** 2, -1)) == pytest.approx(per_entry, rel=0.08)
    assert np.abs(params["C1"] - params["C2"]).max() > 0
    assert np.mean(np.sum(params["B"] ** 2, -1)) == pytest.approx(1 / n, rel=0.08)
    step = np.exp(params["log_step"])
    assert 1e-3 <= step.min() < 2e-3
    assert 0.05 < step.max() <= 0.1


def test_silencing_equals_removing_as_initialised(
    initialised: tuple[Config, dict[str, jax.Array]], rng: np.random.Generator
) -> None:
    config, layer = initialised
    keep, u = [rng.permutation(64) < 20], jnp.asarray(rng.normal(size=(2, LENGTH, 64)), jnp.float32)

    def output(change: Callable[..., Any]) -> np.ndarray:
        changed = change({"encoder": {"layers_0": {"seq": layer}}}, keep, config)
        seq = changed["encoder"]["layers_0"]["seq"]
        return np.asarray(jax.jit(Layer(config, len(seq["B"])).apply)({"params": seq}, u))

    masked = output(surgery.mask)
    gathered = output(lambda *arguments: surgery.take(*arguments)[0])
    np.testing.assert_allclose(gathered, masked, rtol=0, atol=1e-5 * np.abs(masked).max())


# ---- the whole network


@pytest.mark.slow  # to the precision of programs that are optimised
@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (PIXELS, {"pooling": "last", "norm": "layer", "activation": "full_glu"}),
        (TOKENS, {"bidirectional": True, "activation": "half_glu2"}),
        (PAIRS, {"prenorm": False, "discretisation": "bilinear"}),
    ],
)
def test_block_by_block_equals_the_whole(spec: InputSpec, options: dict[str, Any], rng: np.random.Generator) -> None:
    model = network(spec, **options)
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(spec, rng)
    expected = jax.jit(model.apply)(weights, inputs, lengths)
    np.testing.assert_allclose(np.exp(expected).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(layerwise.log_probs(model, weights, inputs, lengths), expected, atol=2e-6)


# ---- precision, and memory for time


def outcome_of_training(spec: InputSpec = PIXELS, **options: Any) -> tuple[Any, Any, Any]:
    """Returns log-probabilities, batch statistics and gradients of a training step, on data fixed by a seed."""
    rng = np.random.default_rng(7)
    model = network(spec, bidirectional=True, activation="full_glu", dropout=0.3, **options)
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(spec, rng)

    def loss(params: Any) -> Any:
        variables, rngs = {**weights, "params": params}, {"dropout": jax.random.key(2)}
        log_probs, updated = model.apply(variables, inputs, lengths, training=True, mutable=["batch_stats"], rngs=rngs)
        return -jnp.sum(log_probs[:, 0]), (log_probs, updated)

    gradient, (log_probs, updated) = jax.jit(jax.grad(loss, has_aux=True))(weights["params"])
    return log_probs, updated, gradient


@pytest.fixture(scope="module")
def exact() -> Any:
    return outcome_of_training(precision="float32")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have ten-bit products")
def test_a_cpu_computes_tf32_in_float32(exact: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, outcome_of_training(precision="tf32"), exact)


def test_bfloat16_rounds_products_and_nothing_else(exact: Any) -> None:
    rounded = outcome_of_training(precision="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(rounded)} == {"float32"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(rounded))
    error = np.abs(rounded[0] - exact[0]).max() / np.abs(exact[0]).max()
    assert 1e-4 < error < 5e-2
    for ours, expected in zip(jax.tree.leaves(rounded[2]), jax.tree.leaves(exact[2]), strict=True):
        assert np.linalg.norm(ours - expected) < 0.2 * np.linalg.norm(expected) + 1e-3


def equations(jaxpr: Any) -> Any:
    """Yields every equation of a jaxpr, those within its equations too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("backend", ["sequential", "blocked"])
def test_states_are_float32_where_products_are_bfloat16(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As traced for a GPU; a CPU rounds to bfloat16 values without the type."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = list(equations(jax.make_jaxpr(lambda: outcome_of_training(precision="bfloat16", backend=backend))().jaxpr))
    factors = {str(v.aval.dtype) for e in found if e.primitive.name == "dot_general" for v in e.invars}
    assert "bfloat16" in factors
    scans = [equation for equation in found if equation.primitive.name == "scan"]
    first, number = "num_consts", "num_carry"
    carried = [v for e in scans for v in e.invars[e.params[first] :][: e.params[number]]]
    assert {str(v.aval.dtype) for v in carried} - {"int32"} == {"float32"}


def test_every_dense_layer_obeys_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for spec in (PIXELS, PAIRS):
        model = network(spec, precision="bfloat16", activation="full_glu", backend="sequential")
        weights, batch = weights_of(model, np.random.default_rng(0)), batch_for(spec, np.random.default_rng(0))
        products = [
            e for e in equations(jax.make_jaxpr(model.apply)(weights, *batch).jaxpr) if "dot_gen" in str(e.primitive)
        ]
        assert len(products) >= 7
        assert all(v.aval.dtype == jnp.bfloat16 for e in products for v in e.invars)


@pytest.mark.slow
def test_rematerialisation_changes_no_number(exact: Any) -> None:
    ours = outcome_of_training(precision="float32", remat=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, exact)


# ---- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_min": 0.1, "dt_max": 0.01}, "model.dt_min=0.1, model.dt_max=0.01: 0 < dt_min < dt_max"),
        ({"dt_min": 0.0}, "model.dt_min=0.0"),
        ({"state_size": 10, "blocks": 4}, "model.state_size=10 is not divisible by 2 .*=8.*a multiple of 8"),
        ({"blocks": 0}, "model.blocks=0.*at least one"),
        ({"activation": "half_glu"}, "model.activation 'half_glu'.*half_glu1, half_glu2.*gelu"),
        ({"C_init": "lecun"}, "model.C_init 'lecun'.*lecun_normal.*complex_normal"),
        ({"discretisation": "euler"}, "model.discretisation 'euler'.*(zoh|bilinear)"),
        ({"norm": "none"}, "model.norm 'none'.*(batch|layer)"),
        ({"pooling": "max"}, "model.pooling 'max'.*mean.*last|last.*mean"),
        ({"precision": "float16"}, "model.precision 'float16'.*(bfloat16|float32)"),
        ({"n_layers": 0}, "model.n_layers=0: it must be at least 1"),
        ({"d_model": -1}, "model.d_model=-1"),
        ({"dropout": 1.0}, "model.dropout=1.0: it must lie in \\[0, 1\\)"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        network(**options)


@pytest.mark.parametrize("dims", [(4,), (4, 4, 4), (4, 0), (5, 4)])
def test_state_dims_that_do_not_fit_are_refused(dims: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"2 layers.*between 1 and 4"):
        network().config.check_state_dims(dims)


def test_state_dims_that_fit_are_accepted() -> None:
    assert network().config.check_state_dims([1, 4]) == (1, 4)


def test_a_configuration_survives_json() -> None:
    config = network(activation="full_glu", bidirectional=True, dt_min=1e-4, C_init="complex_normal").config
    description = json.loads(json.dumps(config.to_dict()))
    assert description["name"] == "s5"
    assert from_dict(description) == config
    assert "name" in description  # the caller keeps the dictionary as it was


def test_an_unknown_family_is_an_error_that_names_the_others() -> None:
    with pytest.raises(UserError, match=f"(?s)Unknown model 's6'.*{families()[0]}"):
        load_family("s6")
