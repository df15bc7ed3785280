"""Taking states out of a network, and counting what is left."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from networks import LENGTH, PAIRS, PIXELS, TOKENS, batch_for, network, weights_of
from systems import simulate

from s5c.evaluation.cost import size
from s5c.model import surgery
from s5c.model.classifier import Classifier, InputSpec, resized
from s5c.model.family.s5 import C_INITS, Config, Layer, macs_per_step
from s5c.model.network import layer_names
from s5c.training.optimiser import held
from s5c.training.steps import Inputs, init_state, make_train_step

KEEP = [np.array([True, False, True, True]), np.array([False, False, True, False])]
ALL = [np.ones(4, bool)] * 2


@pytest.mark.parametrize(
    ("activation", "norm", "bidirectional", "spec"),
    [
        ("gelu", "layer", False, PIXELS),
        ("half_glu1", "batch", True, TOKENS),
        ("half_glu2", "layer", True, PAIRS),
        ("full_glu", "batch", False, PIXELS),
    ],
)
def test_silencing_equals_removing(
    activation: str, norm: str, bidirectional: bool, spec: InputSpec, rng: np.random.Generator
) -> None:
    model = network(spec, activation=activation, norm=norm, bidirectional=bidirectional)
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(spec, rng)
    masked = {**weights, "params": surgery.mask(weights["params"], KEEP, model.config)}
    shrunk = {**weights, "params": surgery.take(weights["params"], KEEP, model.config)[0]}
    assert surgery.state_dims(shrunk["params"], model.config) == (3, 1)
    full, small = jax.jit(model.apply), jax.jit(resized(model, [3, 1]).apply)
    expected = full(masked, inputs, lengths)
    np.testing.assert_allclose(small(shrunk, inputs, lengths), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(full(weights, inputs, lengths) - expected).max() > 1e-3  # removing these states does matter


def assert_identical(ours: Any, original: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(original)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(original), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_taking_all_states_changes_no_bit(bidirectional: bool, rng: np.random.Generator) -> None:
    model = network(bidirectional=bidirectional)
    params = weights_of(model, rng)["params"]
    assert_identical(surgery.take(params, ALL, model.config)[0], params)
    assert_identical(surgery.mask(params, ALL, model.config), params)


def test_taking_gathers_and_leaves_the_rest_alone(rng: np.random.Generator) -> None:
    model = network(bidirectional=True)
    params = weights_of(model, rng)["params"]
    taken, _ = surgery.take(params, KEEP, model.config)
    for layer, mask in zip(layer_names(model.config), KEEP, strict=True):
        old, new = params["encoder"][layer]["seq"], taken["encoder"][layer]["seq"]
        for name in ("Lambda_re", "Lambda_im", "log_step", "B"):
            np.testing.assert_array_equal(new[name], old[name][mask])
        for name in ("C1", "C2"):
            np.testing.assert_array_equal(new[name], old[name][:, mask])
        np.testing.assert_array_equal(new["D"], old["D"])
        assert_identical(taken["encoder"][layer]["out2"], params["encoder"][layer]["out2"])
    assert_identical(taken["decoder"], params["decoder"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["s4d", "dss"])
def test_a_training_leaves_the_slots_that_fill_channels_up_at_zero(family: str, rng: np.random.Generator) -> None:
    """Their inputs are not zero, so that their outputs have gradients: the removed states would come back."""
    model = network(family=family)
    weights, (inputs, _) = weights_of(model, rng), batch_for(PIXELS, rng)
    keep = np.arange(4) < rng.integers(1, 4, (6, 1))
    keep[0] = True
    params, config = surgery.take(weights["params"], [keep, keep], model.config)
    model = model.clone(config=config)
    marks = surgery.silent(params, config)
    batch = Inputs(inputs, jnp.zeros(len(inputs), jnp.int32), None, jnp.ones(len(inputs)))

    def adam(_: Any) -> optax.GradientTransformation:
        return optax.adam(0.1)

    for frozen, expected in ((marks, keep), (None, np.ones_like(keep))):
        make = adam if frozen is None else partial(held, adam, frozen)
        state, transform = init_state(model, make, batch, jax.random.key(0), {**weights, "params": params})
        trained, _ = make_train_step(model, transform)(state, batch, jax.random.key(0))
        new = trained.params["encoder"]["layers_0"]["seq"]
        np.testing.assert_array_equal(np.any(new["C"] != 0, axis=-1), expected)


def test_flax_refuses_weights_of_another_size(rng: np.random.Generator) -> None:
    model = network()
    weights, (inputs, lengths) = weights_of(model, rng), batch_for(PIXELS, rng)
    with pytest.raises(flax.errors.ScopeParamShapeError):
        jax.eval_shape(resized(model, [4, 3]).apply, weights, inputs, lengths)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"discretisation": "bilinear"}])
def test_systems_come_out_in_double_precision_and_go_back(options: dict[str, Any], rng: np.random.Generator) -> None:
    model = network(**options)
    params = weights_of(model, rng)["params"]
    systems = surgery.systems(params, model.config)
    for system in systems:
        assert system.Lambda.dtype == np.complex128
        assert system.Delta.dtype == np.float64
        assert system.discretisation == model.config.discretisation
        assert (system.C_backward is not None) is model.config.bidirectional
    seq = params["encoder"]["layers_1"]["seq"]
    np.testing.assert_allclose(systems[1].Delta, np.exp(np.float64(seq["log_step"][:, 0])), rtol=1e-12)
    np.testing.assert_array_equal(systems[1].B, seq["B"][..., 0] + 1j * np.float64(seq["B"][..., 1]))
    back, config = surgery.with_systems(params, systems, model.config)
    assert config == model.config
    assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, params)
    for ours, original in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, original, rtol=1e-6)
    assert not jax.config.jax_enable_x64


def test_a_systems_response_is_the_layers(rng: np.random.Generator) -> None:
    """The extracted system, run by hand, is what the layer computes."""
    model = network(bidirectional=True)
    params = weights_of(model, rng)["params"]
    u = rng.normal(size=(2, LENGTH, 6)).astype(np.float32)
    system = surgery.systems(params, model.config)[0]
    with jax.enable_x64(True):
        a, B = system.discretise()
    expected = simulate(u, a, B, system.C, system.C_backward) + np.asarray(system.D) * u
    ours = jax.jit(Layer(model.config, 4).apply)({"params": params["encoder"]["layers_0"]["seq"]}, jnp.asarray(u))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


# ---- counting

IMAGE, PATH = InputSpec(1, 10), InputSpec(1, 2)
RECIPES = {  # layers, features, states, blocks, C_init, activation, input; published count, of which states
    "listops": (8, 128, 16, 8, "lecun_normal", "half_glu2", InputSpec(20, 10, tokens=True), 188_490, 49_344),
    "text": (6, 256, 192, 12, "lecun_normal", "half_glu2", InputSpec(135, 2, tokens=True), 1_321_154, 886_464),
    "retrieval": (6, 128, 256, 16, C_INITS[0], "half_glu1", InputSpec(98, 2, True, True), 772_098, 592_128),
    "image": (6, 512, 384, 3, "lecun_normal", "half_glu1", IMAGE, 5_133_706, 3_542_400),
    "pathfinder": (6, 192, 256, 8, C_INITS[0], "half_glu1", PATH, 1_113_602, 887_040),
    "pathx": (6, 128, 256, 16, "complex_normal", "half_glu1", PATH, 694_018, 592_128),
    "speech35": (6, 96, 128, 16, "lecun_normal", "half_glu1", InputSpec(1, 35), 283_523, 222_336),
}


@pytest.mark.parametrize("name", RECIPES)
def test_published_recipes_have_their_published_size(name: str) -> None:
    layers, h, n, blocks, C_init, activation, spec, params, state_params = RECIPES[name]
    config = Config(
        n_layers=layers,
        d_model=h,
        state_size=n,
        blocks=blocks,
        C_init=C_init,
        activation=activation,
        bidirectional=True,
    )
    model = Classifier(config, spec, (n // 2,) * layers)
    inputs = jnp.zeros((2, 4), jnp.int32) if spec.tokens else jnp.zeros((2, 4, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    counted = size(model, shapes, length=1)
    assert (counted.states, counted.params, counted.state_params) == (layers * n // 2, params, state_params)


def macs(jaxpr: Jaxpr, *, products: bool) -> int:
    """Counts the multiplications of a traced program, those of matrix products and, unless excluded, the others."""
    total = 0
    for eqn in jaxpr.eqns:
        out = eqn.outvars[0].aval
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            total += out.size * int(np.prod([eqn.invars[0].aval.shape[axis] for axis in contracted]))
        elif eqn.primitive.name == "mul" and not products and jnp.issubdtype(out.dtype, jnp.floating):
            total += out.size
        inner = [p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in eqn.params.values()]
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += repeats * sum(macs(p, products=products) for p in inner if isinstance(p, Jaxpr))
    return total


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_formula_for_a_layer_counts_its_multiplications(bidirectional: bool) -> None:
    config = network(bidirectional=bidirectional, backend="sequential").config
    layer = Layer(config, 3)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, 6)))

    def counted(length: int) -> int:
        return macs(jax.make_jaxpr(layer.apply)(params, jnp.zeros((1, length, 6))).jaxpr, products=False)

    # What does not grow with the length, such as the discretisation, is paid once and not counted.
    assert counted(12) - counted(11) == macs_per_step(config, 3)


@pytest.mark.parametrize("activation", ["gelu", "half_glu1", "full_glu"])
@pytest.mark.parametrize("spec", [PIXELS, TOKENS, PAIRS])
def test_the_size_of_a_network_counts_its_matrix_products(spec: InputSpec, activation: str) -> None:
    model = resized(network(spec, activation=activation, bidirectional=True), [3, 1])
    inputs = jnp.zeros((2 if spec.pairs else 1, LENGTH), jnp.int32)
    inputs = inputs if spec.tokens else jnp.zeros((1, LENGTH, spec.features))
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    products = macs(jax.make_jaxpr(model.apply)(variables, inputs).jaxpr, products=True)
    recurrences_and_feedthrough = (2 * 4 * 3 + 6) + (2 * 4 * 1 + 6)
    elementwise = len(inputs) * LENGTH * recurrences_and_feedthrough
    assert size(model, variables["params"], LENGTH).macs == products + elementwise
