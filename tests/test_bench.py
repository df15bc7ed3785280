"""The benchmarks: that their denominator is S5 as published, their bookkeeping, and each command on tiny sizes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from networks import PAIRS, batch_for, network, weights_of
from systems import complex_normal
from test_parity import CASES, batch, our_config, weights

from s5c.bench import __main__ as command
from s5c.bench import inference, operator, reference, report, step, timing
from s5c.bench import network as recipe
from s5c.bench.rows import label, rows
from s5c.bench.timing import REFERENCE, Case, Key, Program, Timing
from s5c.errors import UserError
from s5c.model.classifier import InputSpec
from s5c.report.csvfile import read_csv
from s5c.ssm.call import Shape
from s5c.ssm.modal import ModalSystem
from s5c.ssm.operator import available_backends, why_unavailable
from s5c.training.optimiser import optimiser, schedule
from s5c.training.steps import TrainState

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

import bench_reduction

# ---- the reference model


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_reproduces_the_original_code(path: Path) -> None:
    """Outputs before, and losses of, training, with the parameters and batches of `tests/reference`."""
    with np.load(path) as archive:
        data = dict(archive)
    c: dict[str, Any] = json.loads(str(data.pop("config")))
    config, spec = our_config(c), InputSpec(c["in_dim"], c["n_out"], tokens=c["padded"], pairs=c["retrieval"])
    params, stats = weights(data, "params", config), weights(data, "batch_stats", config)

    steps = {"warmup_steps": c["warmup_steps"], "total_steps": c["total_steps"], "minimum": c["lr_min"]}
    options = {"weight_decay": c["weight_decay"], "grouping": c["opt_config"], "dt_global": c["dt_global"]}
    transform = optimiser(params, lr=schedule(c["lr"], **steps), ssm_lr=schedule(c["ssm_lr"], **steps), **options)
    first = batch(data, 0)
    forward = jax.jit(lambda p, s: reference.log_probs(p, s, first.inputs, first.lengths, config=config, spec=spec))
    np.testing.assert_allclose(forward(params, stats)[0], data["logits_init"], atol=1e-5)

    train_step = reference.make_train_step(config, spec, transform)
    state, losses = TrainState(jnp.zeros((), jnp.int32), params, stats, jax.jit(transform.init)(params)), []
    for i in range(c["steps"]):
        state, metrics = train_step(state, batch(data, i), jax.random.key(0))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, data["losses"], rtol=1e-4)
    expected = weights(data, "batch_stats_after", config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.batch_stats, expected)
    np.testing.assert_allclose(forward(state.params, state.batch_stats)[0], data["logits_after"], atol=1e-5)


def test_reference_equals_our_model(rng: np.random.Generator) -> None:
    model = network(PAIRS, n_layers=1, bidirectional=True, activation="half_glu2", clip_eigs=True)
    inputs, lengths = batch_for(PAIRS, rng)
    variables = weights_of(model, rng)
    forward = jax.jit(partial(reference.log_probs, config=model.config, spec=PAIRS))
    theirs, stats = forward(variables["params"], variables["batch_stats"], inputs, lengths)
    np.testing.assert_allclose(theirs, jax.jit(model.apply)(variables, inputs, lengths), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_dropout_drops_whole_features(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.uniform(1, 2, (5, 400)), jnp.float32)
    dropped = np.asarray(reference._dropout(x, 0.25, jax.random.key(0)))
    gone = dropped == 0
    assert np.array_equal(gone.all(axis=0), gone.any(axis=0))
    assert 0.15 < gone[0].mean() < 0.35
    np.testing.assert_allclose(dropped[~gone], np.asarray(x)[~gone] / 0.75, rtol=1e-6)


@pytest.mark.parametrize("option", [{"activation": "gelu"}, {"norm": "layer"}, {"prenorm": False}, {"pooling": "last"}])
def test_reference_refuses_what_no_recipe_uses(option: dict[str, Any], rng: np.random.Generator) -> None:
    model = network(**option)
    with pytest.raises(ValueError, match="published recipes only"):
        reference.log_probs({}, {}, *batch_for(model.spec, rng), config=model.config, spec=model.spec)


def test_dense_kernel_equals_the_recurrence(rng: np.random.Generator) -> None:
    u, a = rng.normal(size=(2, 11, 3)), rng.uniform(0.5, 0.99, (3, 4)) * np.exp(1j * rng.uniform(-3, 3, (3, 4)))
    B, C = complex_normal(rng, 3, 4), complex_normal(rng, 3, 4)
    x, y = np.zeros((2, 3, 4), complex), np.zeros(u.shape)
    for k in range(11):
        x = a * x + B * u[:, k, :, None]
        y[:, k] = 2 * (C * x).sum(axis=-1).real
    matrices = (jnp.asarray(M, jnp.complex64) for M in (a, B, C))
    dense = jax.jit(reference.diagonal_siso_ssm)(jnp.asarray(u, jnp.float32), *matrices)
    np.testing.assert_allclose(dense, y, atol=1e-4)


# ---- timing


def test_programs_take_turns_and_medians_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only programs move; the first call, which warms up, takes a second and counts for nothing."""
    now, order = {"wall": 0.0}, []
    monkeypatch.setattr(
        timing, "time", SimpleNamespace(perf_counter=lambda: now["wall"], process_time=lambda: 2 * now["wall"])
    )

    def program(name: str, seconds: list[float]) -> Program:
        def call() -> None:
            order.append(name)
            now["wall"] += seconds.pop(0)

        return Program(call, 0.0, 0)

    found = timing.take_turns({"a": program("a", [1, 5, 3, 4]), "b": program("b", [1, 7, 9, 8])}, rounds=3)
    assert order == ["a", "b"] * 4
    assert found == {"a": Timing(8, 4), "b": Timing(16, 8)}


def test_quick_programs_are_called_several_times_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"wall": 0.0, "calls": 0.0}
    clock = SimpleNamespace(perf_counter=lambda: now["wall"], process_time=lambda: now["wall"])
    monkeypatch.setattr(timing, "time", clock)

    def call() -> None:
        now["wall"] += timing.SHORTEST_TURN / 4
        now["calls"] += 1

    found = timing.take_turns({"quick": Program(call, 0.0, 0)}, rounds=2)
    assert now["calls"] == 1 + 2 * 4
    assert found["quick"].wall_s == pytest.approx(timing.SHORTEST_TURN / 4)


def test_build_carries_the_first_result() -> None:
    program = timing.build(jax.jit(lambda total, x: (total + x, x), donate_argnums=0), jnp.zeros(3), 2.0, carry=True)
    assert program.compile_s > 0
    assert [float(program.call()[0][0]) for _ in range(3)] == [2, 4, 6]


def test_differences_are_relative_to_each_array() -> None:
    ours, theirs = [jnp.array([1.0, 2.02]), jnp.array([0.001])], [jnp.array([1.0, 2.0]), jnp.array([0.0011])]
    assert timing.difference(ours, theirs) == pytest.approx(0.1 / 1.1, rel=1e-4)


def test_a_wrong_gradient_stops_the_benchmark() -> None:
    shape = Shape(1, 4, 2, 1, False)
    variants = {REFERENCE: reference.diagonal_ssm, "wrong": lambda *args: 1.001 * reference.diagonal_ssm(*args)}
    args = Case("sizes", shape), variants, operator.arguments(shape), "wrong"
    with pytest.raises(UserError, match=r"gradient of wrong at 1, 4, 2, 1 differs .* 1\.0e-03"):
        operator.compile_variants(*args, "float32", print)
    programs = operator.compile_variants(*args, "tf32", print)  # rounded products: reported, no error
    assert programs[Key(args[0], operator.GRADIENT, "wrong")].difference == pytest.approx(1e-3, rel=1e-2)


def test_not_a_number_is_no_agreement() -> None:
    with pytest.raises(UserError, match="differs"):
        timing.check(float("nan"), "It", "float32")


# ---- report


def fake_rows() -> list[dict[str, Any]]:
    """Our variant is twice as fast, and three times with half of the states gone."""
    found = []
    programs, timings = {}, {}
    for removed, states, ours in ((0.0, 8, 1.0), (0.5, 4, 0.5)):
        case = Case("sizes", Shape(2, 64, 6, states, True), removed, layers=2)
        for variant, seconds, size in ((REFERENCE, 2 * ours, 3_000_000), ("s5c", ours, 1_000_000)):
            key = Key(case, "inference", variant)
            programs[key] = Program(lambda: None, 4.0 * seconds, size, 3e-6, variant == "s5c")
            timings[key] = Timing(seconds, 2 * seconds)
    found += rows("inference", 0, programs, timings)
    return found


def test_rows_hold_the_ratios_against_the_reference() -> None:
    reference_row, ours, *_ = fake_rows()
    assert (reference_row["cpu_ratio"], ours["cpu_ratio"], ours["wall_ratio"]) == (1, 2, 2)
    assert (ours["temp_ratio"], ours["compile_ratio"], ours["samples_per_s"]) == (3, 2, 1)
    assert label(fake_rows()[-1]) == "2, 64, 6, 4 both ways (−50%)"


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    options = {"title": "Inference", "compared": "Log-probabilities", "command": "python -m s5c.bench inference"}
    written = report.write(fake_rows(), tmp_path, **options, rounds=5, precision="float32")
    assert [path.name for path in written] == ["inference.csv", "inference.md", "inference.png"]
    assert all(path.stat().st_size > 0 for path in written)
    page = (tmp_path / "inference.md").read_text()
    assert "`python -m s5c.bench inference`" in page and f"jax {jax.__version__}" in page
    assert "Medians of 5 interleaved rounds" in page and "Log-probabilities, largest" in page and "s5c 3.0e-06" in page
    assert "| 2, 64, 6, 8 both ways | 2,000 ms (1.00) | **1,000 ms (2.00)** |" in page
    assert "| 2, 64, 6, 8 both ways | 3 MB (1.0) | **1 MB (3.0)** |" in page
    assert "| 2, 64, 6, 4 both ways (−50%) | 2.00 | 2.00 | 2.00 |" in page
    assert read_csv(tmp_path / "inference.csv")[1]["cpu_ratio"] == 2


# ---- the command


def test_default_sizes() -> None:
    sweeps: dict[str, list[Shape]] = {}
    for group in operator.groups(None):
        for case in group:
            sweeps.setdefault(case.sweep, []).append(case.shape)
    assert [shape.length for shape in sweeps["length"]] == [256, 512, 1024, 2048, 4096, 8192, 16384]
    assert (sweeps["states"][0].state_dim, sweeps["states"][-1].state_dim) == (16, 384)
    assert {Shape(2, 4096, 256, 192, False), Shape(2, 4096, 256, 48, False)} < set(sweeps["sizes"])
    config = recipe.network_config(recipe.TEXT, recipe.LAYERS)
    assert (config.n_layers, config.d_model, config.state_size, config.blocks) == (6, 256, 192, 12)


def test_a_size_says_its_directions_and_an_option_the_inputs() -> None:
    for text, both in (("5,12,4,6", False), ("5,12,4,6,both", True)):
        options = command.parser().parse_args(["step", "--sizes", text, "--inputs", "3", "--layers", "2"])
        for benchmark in (step, inference):
            for case in benchmark.groups(options.sizes)[0]:
                adapted = command.adapted(case, options)
                assert (adapted.shape.bidirectional, adapted.inputs, adapted.layers) == (both, 3, 2)
                assert recipe.network_config(adapted.shape, 2).bidirectional == both
        (case,) = operator.groups(options.sizes)[0][:1]
        assert command.adapted(case, options).inputs == 0, "a layer on its own reads features"
    assert recipe.spec_of(3) == InputSpec(3, 2) and recipe.spec_of(0) == InputSpec(135, 2, tokens=True)
    real, ids = (recipe.random_batch(Shape(5, 12, 4, 6, False), recipe.spec_of(n)) for n in (3, 0))
    assert real.inputs.shape == (5, 12, 3) and real.lengths is None
    assert ids.inputs.shape == (5, 12) and ids.lengths is not None and ids.lengths.min() >= 6
    assert [step.groups(None)[0][0].shape, inference.groups(None)[0][0].shape] == [recipe.TEXT] * 2
    row = rows_of_real_inputs()
    assert row["inputs"] == 1 and label(row) == "2, 64, 6, 8, 1 real input"
    assert all("inputs" not in row for row in fake_rows())


def rows_of_real_inputs() -> dict[str, Any]:
    key = Key(Case("sizes", Shape(2, 64, 6, 8, False), layers=2, inputs=1), "training step", REFERENCE)
    (row,) = rows("step", 0, {key: Program(lambda: None, 1.0, 1)}, {key: Timing(1.0, 1.0)})
    return row


def test_pymors_first_call_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only its calls move: the first takes a hundred seconds, the others two."""
    now, calls = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(bench_reduction, "time", clock)

    def with_pymor(system: Any, order: int) -> None:
        now[0] += 2 if calls else 100
        calls.append(order)

    systems = ModalSystem(*(np.ones((4, 1, 1)) for _ in range(4)))
    case = bench_reduction.Case("four", systems, 1)
    reduced = SimpleNamespace(order=np.arange(4), system=systems)
    monkeypatch.setattr(bench_reduction, "with_pymor", with_pymor)
    monkeypatch.setattr(bench_reduction, "realise", lambda systems: now.append(now.pop() + 1))
    monkeypatch.setattr(bench_reduction, "truncate", lambda realisation, slots: reduced)
    monkeypatch.setattr(bench_reduction, "deviation", lambda ours, theirs: 0.0)
    row = bench_reduction.measure(case, 1, 2)
    assert calls == [0, 0, 3] and row["pymor_wall_s"] == row["pymor_cpu_s"] == 2 * (2 + 2), "two of four systems"


def variants(name: str) -> set[str]:
    usable = {name for name in available_backends() if why_unavailable(name, "cpu") is None}
    ours = {"operator": usable, "convolution": {"fft"}, "step": {"s5c", "s5c, remat"}, "inference": {"s5c"}}
    return {REFERENCE, *ours[name]}


@pytest.mark.slow
def test_a_network_of_one_direction_and_real_inputs_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as below
    size = ("--sizes", "2,12,4,3", "--layers", "1", "--inputs", "1", "--rounds", "1", f"--output={tmp_path}")
    for name in ("step", "inference"):
        command.main([name, *size])
        found = read_csv(tmp_path / f"{name}.csv")
        assert {row["variant"] for row in found} == variants(name)
        assert all((row["inputs"], row["bidirectional"]) == (1, False) and row["cpu_ms"] > 0 for row in found)
        assert "| 2, 12, 4, 3, 1 real input |" in (tmp_path / f"{name}.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "step":  # ahead of time JAX describes a program by its own arguments' types, with no arrays in them
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    command.main([name, "--sizes", "2,4,3,2", "--batch", "1", "--layers", "1", "--rounds", "2", f"--output={tmp_path}"])
    found = read_csv(tmp_path / f"{name}.csv")
    assert {row["batch"] for row in found} == {1}
    assert {row["variant"] for row in found} == variants(name)
    assert all(row["cpu_ms"] > 0 and row["wall_ms"] > 0 and row["compile_s"] > 0 for row in found)
    compared = [row for row in found if row.get("difference") is not None]
    assert all(row["difference"] <= timing.TOLERANCE for row in compared)
    assert bool(compared) == (name != "step")
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")
    streams = capsys.readouterr()
    assert f"{name}.csv" in streams.out and "compiled in" in streams.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["operater"], "invalid choice"),
        (["--rounds", "0"], "'0' is not a whole number above 0"),
        (["--inputs", "0"], "'0' is not a whole number above 0"),
        (["--sizes", "2,4096,256"], "give batch,length,features,states"),
        (["--sizes", "2,4096,256,x"], "give batch,length,features,states"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_inputs_of_a_layer_on_its_own_are_refused() -> None:
    with pytest.raises(UserError, match=r"--inputs 3: only a network reads inputs, and `operator` times a layer"):
        command.main(["operator", "--inputs", "3"])
