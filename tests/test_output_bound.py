"""Networks of explicit LQO blocks: what they compute, the error that LQO minimises, and the bound of their answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import pytest
from networks import LENGTH, PIXELS, network, weights_of
from scipy.linalg import solve_discrete_lyapunov

from s5c.model import surgery
from s5c.model.network import layer_names
from s5c.reduction.bound import LAYER_NORM_EPSILON, output_bound
from s5c.reduction.layer import Layer
from s5c.reduction.method.lqo import Curves, Method
from s5c.report.collect import collect, studies
from s5c.report.summary import layer_errors
from s5c.ssm.system import DiagonalSSM

OF_THE_CLASS: dict[str, Any] = {"activation": "lqo", "norm": "layer"}


def drawn(seed: int, **options: Any) -> tuple[Any, dict[str, Any]]:
    model = network(PIXELS, **{**OF_THE_CLASS, **options})
    weights = weights_of(model, np.random.default_rng(seed))
    for name in layer_names(model.config):
        block = weights["params"]["encoder"][name]
        block["seq"] |= {"B": block["seq"]["B"] / 10, "log_step": block["seq"]["log_step"] + 2}
        for gate in ("out1", "out2"):
            block[gate] |= {"kernel": block[gate]["kernel"] / 4}
    return model, weights


def in_double(model: Any, weights: dict[str, Any], systems: list[DiagonalSSM], inputs: np.ndarray) -> np.ndarray:
    """Returns the logits of one sequence by recursion in NumPy, the systems put in place of the network's own."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), weights["params"])
    z = inputs @ params["encoder"]["encoder"]["kernel"] + params["encoder"]["encoder"]["bias"]
    for name, system in zip(layer_names(model.config), systems, strict=True):
        block = params["encoder"][name]
        centred = z - z.mean(1, keepdims=True)
        u = centred / np.sqrt((centred**2).mean(1, keepdims=True) + LAYER_NORM_EPSILON)
        u = u * block["norm"]["scale"] + block["norm"]["bias"]
        v = np.asarray(system.D) * u
        for C, order in ((system.C, 1), (system.C_backward, -1)):
            if C is None:
                continue
            Lambda, B = (np.asarray(x) for x in system.discretise())
            x, states = np.zeros(len(Lambda), complex), []
            for now in u[::order]:
                x = Lambda * x + B @ now
                states.append(2 * (np.asarray(C) @ x).real)
            v = v + np.asarray(states)[::order]
        z = z + v + (v @ block["out1"]["kernel"]) * (v @ block["out2"]["kernel"])
    pooled = z.mean(0) if model.config.pooling == "mean" else z[-1]
    return pooled @ params["decoder"]["kernel"] + params["decoder"]["bias"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="mean"),
        pytest.param({"bidirectional": True, "pooling": "last"}, id="last", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_bound_of_the_logits_holds_for_what_a_network_answers(options: dict[str, Any]) -> None:
    """Against the recursion in double precision, which is the network's own answer; on inputs of every size."""
    tightest = 0.0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        model, weights = drawn(seed, **options)
        layers = surgery.layers(weights, model.config, horizon=LENGTH)
        # By a little in the last layer alone, by much in all of them.
        for size, where in ((1e-3, (1,)), (0.3, (0, 1))):
            with jax.enable_x64(True):
                reduced = [
                    dataclasses.replace(layer.system, C=layer.system.C * (1 + size * rng.normal()))
                    if i in where
                    else layer.system
                    for i, layer in enumerate(layers)
                ]
            decoder = weights["params"]["decoder"]["kernel"]
            bound = output_bound(layers, reduced, decoder, steps=LENGTH, pooling=model.config.pooling)
            assert bound is not None and np.isfinite(bound)
            for scale in (0.01, 1.0, 100.0):
                x = scale * rng.normal(size=(LENGTH, 2))
                logits = [
                    in_double(model, weights, systems, x) for systems in ([layer.system for layer in layers], reduced)
                ]
                said = model.apply(weights, jnp.asarray(x[None], jnp.float32))[0]
                np.testing.assert_allclose(said, jax.nn.log_softmax(logits[0]), rtol=2e-3, atol=2e-3)
                error = float(np.linalg.norm(logits[0] - logits[1]))
                assert error <= bound
                tightest = max(tightest, error / bound)
    assert tightest > 1e-4, "a bound that is never near would hold with a factor lost"


def test_it_is_given_for_the_class_it_holds_for_alone() -> None:
    def bound(changes: dict[str, Any], reduced: list[DiagonalSSM] | None = None) -> float | None:
        model, weights = drawn(0, **changes)
        layers = surgery.layers(weights, model.config, horizon=LENGTH)
        systems = reduced or [layer.system for layer in layers]
        return output_bound(layers, systems, weights["params"]["decoder"]["kernel"], steps=LENGTH)

    found = bound({})
    assert found is not None and found < 1e-2, "nothing has changed but rounding"
    gated = weights_of(model := network(PIXELS, norm="layer"), np.random.default_rng(0))
    layers = surgery.layers(gated, model.config, horizon=LENGTH)
    kernel = gated["params"]["decoder"]["kernel"]
    assert output_bound(layers, [layer.system for layer in layers], kernel, steps=LENGTH) is None
    assert bound({"norm": "batch"}) is None and bound({"prenorm": False}) is None
    model, weights = drawn(0)
    own = [layer.system for layer in surgery.layers(weights, model.config, horizon=LENGTH)]
    with jax.enable_x64(True):
        unstable = dataclasses.replace(own[0], Lambda=own[0].Lambda + 3)
        shifted = dataclasses.replace(own[0], bias=jnp.ones(6))
    assert bound({}, [unstable, own[1]]) is None and bound({}, [shifted, own[1]]) is None


# ---- the error that LQO minimises


def dense(system: DiagonalSSM, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A, B, C of the causal system with its conjugates; D as one more state per input, with pole 0."""
    Lambda, B = (np.asarray(x) for x in system.discretise())
    C, h = np.asarray(system.C), len(gain)
    A = np.diag(np.concatenate([Lambda, Lambda.conj(), np.zeros(h)]))
    outputs = np.concatenate([C, C.conj(), np.diag(np.asarray(system.D))], axis=1)
    return A, np.concatenate([B, B.conj(), np.eye(h)]) * gain, outputs


def squared_by_lyapunov(parts: list[tuple[float, DiagonalSSM]], gain: np.ndarray, N: np.ndarray) -> float:
    """Returns tr(C P C^H) + sum_i tr(P M_i P M_i) of a signed sum of LQO systems with one input, P by scipy."""
    A: list[np.ndarray] = []
    B: list[np.ndarray] = []
    C: list[np.ndarray] = []
    M: list[Any] = []
    for sign, system in parts:
        a, b, c = dense(system, gain)
        A, B, C = [*A, a], [*B, b], [*C, sign * c]
        M.append([sign * c.conj().T @ n @ c for n in N])
    size = sum(map(len, A))
    full = np.zeros((size, size), complex)
    forms = np.zeros((len(N), size, size), complex)
    start = 0
    for a, m in zip(A, M, strict=True):
        part = slice(start, start := start + len(a))
        full[part, part] = a
        forms[:, part, part] = m
    inputs, outputs = np.concatenate(B), np.concatenate(C, 1)
    P = solve_discrete_lyapunov(full, inputs @ inputs.conj().T)
    quadratic = sum(np.trace(P @ form @ P @ form).real for form in forms)
    return float(np.trace(outputs @ P @ outputs.conj().T).real + quadratic)


@pytest.mark.slow
def test_the_quadratic_error_in_rows_is_that_of_the_difference_system_by_lyapunov_equations() -> None:
    """An explicit LQO layer whose form needs no expansion: the oracle knows the gate's formula and dense matrices."""
    model, weights = drawn(3, n_layers=1)
    (layer,) = surgery.layers(weights, model.config, horizon=LENGTH)
    assert isinstance(layer, Layer) and layer.gate is not None
    fitted = Method(steps=20, horizon="infinite", coefficients="taylor").fit([layer], 0)
    assert isinstance(fitted, Curves)
    gain, F, G = (np.asarray(x) for x in (layer.gate.gain, layer.gate.W1, layer.gate.W2))
    N = np.asarray([(np.outer(f, g) + np.outer(g, f)) / 2 for f, g in zip(F, G, strict=True)])
    with jax.enable_x64(True):
        own = squared_by_lyapunov([(1.0, layer.system)], gain, N)
        for order in (1, 2, 3):
            (found,) = fitted.reduce([np.asarray(order)])
            both = [(1.0, layer.system), (-1.0, found.system)]
            expected = np.sqrt(squared_by_lyapunov(both, gain, N) / own)
            (error,) = fitted.errors_of([found.system])
            assert error == pytest.approx(expected, rel=1e-7) and error <= fitted.errors[0][order] * (1 + 1e-9)
        nothing = dataclasses.replace(layer.system, C=0 * layer.system.C)
        left = squared_by_lyapunov([(1.0, layer.system), (-1.0, nothing)], gain, N)
    assert fitted.errors[0][0] == pytest.approx(np.sqrt(left / own), rel=1e-7)


# ---- in rows and reports


@pytest.mark.slow
def test_jobs_say_what_is_guaranteed_and_what_was_minimised(tmp_path: Path) -> None:
    block = ("model.activation=lqo", "model.norm=layer")
    done = jobs.run(
        "train", *block, "reduction=lqo", "reduction.ratio=0.5", "evaluation.latency=false", folder=tmp_path
    )
    assert done.code == 0, done.err
    checkpoint = jobs.only(tmp_path, "results/trained/*")
    tuned = ("reduction.ratio=0.25", "reduction.finetune.epochs=1", "evaluation.latency=false")
    assert jobs.run("reduce", f"checkpoint={checkpoint}", "reduction=last", *tuned, folder=tmp_path).code == 0
    assert jobs.run("train", "reduction=lqo", "reduction.ratio=0.5", folder=tmp_path).code == 0
    by_folder = {path.parent: jobs.rows(path) for path in (tmp_path / "results").glob("**/rows.jsonl")}
    found = [(row, folder) for folder, rows in by_folder.items() for row in rows if row["reduction"] != "full"]
    assert sorted(row["arm"] for row, _ in found) == ["last +1 epoch", "lqo", "lqo"]
    ((sure, folder),) = [(row, folder) for row, folder in found if "output_bound" in row]
    assert sure["arm"] == "lqo", "trained afterwards, other weights have changed too"
    assert 0 < sure["output_bound"] < np.inf and any("logits move by at most" in note for note in sure["notes"])
    for row, place in found:
        if row["arm"] == "lqo":  # also of gated blocks, which have no guarantee
            curve = np.load(place / "spectra.npz")["error_h2_quadratic_layer0"]
            assert abs(curve[-1]) < 1e-6 and np.all(np.diff(curve) <= 1e-9)
            assert row["error_h2_quadratic"][0] <= curve[row["orders"][0]] * (1 + 1e-4) + 1e-6
    (study,) = studies(collect([folder]))
    shown = str(layer_errors(study))
    assert f"({sure['error_h2_quadratic'][0]:.3g})" in shown and "which LQO minimises" in shown
