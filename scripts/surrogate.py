"""Compares what the LQO form of a layer predicts with what its block really does on data.

    python scripts/surrogate.py [--checkpoints zoo:smnist_small_s5 ...] [--sequences 64] [--output FOLDER]

Every layer of a trained network, and of the same network with fresh weights, is reduced in many ways: random sets of
states, those of LAST and AIRE, with and without outputs solved again. Predicted: the relative error of the LQO form,
with statistical or Taylor coefficients, and of the linear part alone. Measured: the error of the block's output on
training sequences, relative to its deviation. What is reported is their rank correlation over the reductions of a
layer, and which share of the states that LQO's elimination keeps AIRE would not have kept. Writes surrogate.csv,
layers.csv, surrogate.md and surrogate.png to results/published/surrogate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.ticker import NullFormatter
from scipy.stats import spearmanr

from s5c.data.batching import eval_batches
from s5c.errors import UserError
from s5c.model import surgery
from s5c.model.classifier import Classifier
from s5c.model.layerwise import encoded
from s5c.model.signals import blocks
from s5c.pipeline.restored import restore
from s5c.pipeline.weights import drawn
from s5c.reduction.contract import load_method, load_refit
from s5c.reduction.layer import Layer
from s5c.reduction.quadratic import LQO, lqo, relative_error, white
from s5c.reduction.quadratic_elimination import eliminate
from s5c.reduction.slots import kept, padded
from s5c.report.cells import table
from s5c.report.csvfile import Record, write_csv
from s5c.report.looks import STYLE, entitle, panels
from s5c.ssm.modal import from_ssm
from s5c.ssm.system import DiagonalSSM

SHARES = (0.75, 0.6, 0.5, 0.35, 0.25)
"""Share of the states that a reduction keeps."""
DRAWS = 4
"""Random sets of each size."""


def reductions(layer: Layer, seed: int) -> Iterator[tuple[str, DiagonalSSM]]:
    """Yields reduced layers and how they were made; call inside `jax.enable_x64(True)`."""
    rng, p = np.random.default_rng(seed), layer.slots
    rankings = {
        name: np.asarray(load_method(name, {}).scores(layer, jax.random.key(0)))  # type: ignore[union-attr]
        for name in ("hinf", "aire")
    }
    refit = load_refit("h2")()
    for share in SHARES:
        sets = {f"random {i}": rng.permutation(p)[: round(share * p)] for i in range(DRAWS)}
        sets |= {name: np.argsort(-scores)[: round(share * p)] for name, scores in rankings.items()}
        for name, states in sets.items():
            system = kept(layer.system, np.isin(np.arange(p), states))
            yield f"{name} {share:g}", system
            yield f"{name} {share:g} +refit", refit(layer, system)


def predictions(layer: Layer) -> Callable[[DiagonalSSM], Record]:
    """Returns the function from a reduced layer to its predicted relative errors."""
    forms = {name: lqo(layer, coefficients=name, horizon=layer.horizon) for name in ("statistical", "taylor")}
    plain = forms["taylor"]
    linear = LQO(plain.linear, plain.form._replace(L=jnp.eye(len(plain.form.L))))

    def predict(system: DiagonalSSM) -> Record:
        assert layer.gate is not None
        behind = white(from_ssm(padded(system, layer.slots)), layer.gate)
        found = {name: float(relative_error(form, behind, horizon=layer.horizon)) for name, form in forms.items()}
        return {**found, "linear": float(relative_error(linear, behind, horizon=layer.horizon, weight=0.0))}

    return predict


def measure(
    model: Classifier, weights: Any, inputs: jax.Array, *, length: int, facts: Record
) -> Iterator[tuple[list[Record], Record]]:
    """Yields, layer by layer, the rows of its reductions and one that sums them up."""
    layers, x = surgery.layers(weights, model.config, horizon=length), encoded(model, weights, inputs)
    for i, layer in enumerate(layers):
        full = np.asarray(blocks(model, weights)[i](x).out, np.float64)
        deviation = np.linalg.norm(full - x - (full - x).mean((0, 1)))
        rows = []
        with jax.enable_x64(True):
            predict = predictions(layer)
            made = [(name, system, predict(system)) for name, system in reductions(layer, i)]
            replaced = [padded(system, layer.slots) for _, system, _ in made]
        for (name, _, predicted), system in zip(made, replaced, strict=True):
            systems = surgery.systems(weights["params"], model.config)
            params, config = surgery.with_systems(
                weights["params"], [*systems[:i], system, *systems[i + 1 :]], model.config
            )
            with_system = blocks(model.clone(config=config), {**weights, "params": params})[i](x).out
            error = float(np.linalg.norm(np.asarray(with_system, np.float64) - full) / deviation)
            rows.append({**facts, "layer": i, "reduction": name, "measured": error, **predicted})
        yield rows, {**facts, "layer": i, **correlations(rows), **differing(layer)}
        x = blocks(model, weights)[i](x).out


def correlations(rows: list[Record]) -> Record:
    measured = np.array([row["measured"] for row in rows])
    names = ("statistical", "taylor", "linear")
    return {name: float(spearmanr([row[name] for row in rows], measured).statistic) for name in names}


def differing(layer: Layer) -> Record:
    """Returns which share of the states that the elimination keeps is not among those AIRE keeps, at three ratios."""
    with jax.enable_x64(True):
        unstable = jnp.asarray(from_ssm(layer.system).log_a.real >= 0)
        order = eliminate(
            lqo(layer, coefficients="statistical", horizon=layer.horizon), unstable, horizon=layer.horizon
        )
        scores = np.asarray(load_method("aire", {}).scores(layer, jax.random.key(0)))  # type: ignore[union-attr]
    found = {}
    for ratio in (0.5, 0.7, 0.9):
        count = max(round((1 - ratio) * layer.slots), 1)
        other = set(order.kept(count)) - set(np.argsort(-scores, kind="stable")[:count])
        found[f"differ_{ratio:g}"] = len(other) / count
    return found


def page(layers: list[Record]) -> str:
    """Returns the page that goes with the figures."""
    shown = [
        [row["model"], row["weights"], str(row["layer"])]
        + [f"{row[name]:.2f}" for name in ("statistical", "taylor", "linear")]
        + [f"{100 * row[f'differ_{ratio}']:.0f} %" for ratio in ("0.5", "0.7", "0.9")]
        for row in layers
    ]
    head = ["Model", "Weights", "Layer", "LQO, statistical", "LQO, Taylor", "linear alone"]
    return "\n\n".join(
        [
            "# The LQO form of a layer against its block",
            f"Rank correlation of predicted and measured output error over {2 * len(SHARES) * (DRAWS + 2)} reductions "
            f"of each layer, measured on {layers[0]['sequences']} training sequences; and the share of the states kept "
            "by LQO's elimination that AIRE would not have kept, at 50, 70 and 90 % removed.",
            table([*head, *(f"not AIRE's, {ratio} %" for ratio in (50, 70, 90))], shown),
            "Made by `python scripts/surrogate.py`.",
            "",
        ]
    )


def picture(rows: list[Record], path: Path) -> None:
    """Draws predicted against measured errors of the trained layers."""
    trained = [row for row in rows if row["weights"] == "trained"]
    keys = list(dict.fromkeys((row["model"], row["layer"]) for row in trained))
    with mpl.rc_context(STYLE):
        figure, grid = panels(len(keys), 2.6, 2.4)
        for ax, key in zip(grid, keys, strict=True):
            of_layer = [row for row in trained if (row["model"], row["layer"]) == key]
            for name, color, marker in (("linear", "#999999", "x"), ("statistical", "#D55E00", "o")):
                x, y = np.array([[row[name], row["measured"]] for row in of_layer]).T
                title = {"linear": "linear part alone", "statistical": "LQO form"}[name]
                ax.plot(x, y, marker, color=color, ms=3.2, mew=0.9, alpha=0.8, ls="", label=title)
            ax.set(xscale="log", yscale="log")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_minor_formatter(NullFormatter())
            ax.set_title(f"{key[0].removeprefix('zoo:')}, layer {key[1]}", loc="left", fontsize=8)
        entitle(figure, "Error of a block's output, reduced in many ways", "predicted", "measured")
        figure.savefig(path, dpi=150)


def main() -> None:
    """Measures all layers of the models and writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", default=["zoo:smnist_small_s5", "zoo:imdb_small_s5"])
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("results/published/surrogate"))
    options = parser.parse_args()
    rows: list[Record] = []
    layers: list[Record] = []
    for checkpoint in options.checkpoints:
        trained = restore({"checkpoint": checkpoint}, which="best")
        inputs = jnp.asarray(next(iter(eval_batches(trained.splits.train.padded_alike(), options.sequences))).inputs)
        networks = {"trained": trained.weights, "fresh": drawn(trained, trained.model, seed=0)}
        for name, weights in networks.items():
            facts = {"model": checkpoint, "weights": name, "sequences": options.sequences}
            for found, summed in measure(trained.model, weights, inputs, length=trained.dataset.length, facts=facts):
                rows += found
                layers.append(summed)
                print({key: round(value, 3) if isinstance(value, float) else value for key, value in summed.items()})
    options.output.mkdir(parents=True, exist_ok=True)
    write_csv(rows, options.output / "surrogate.csv")
    write_csv(layers, options.output / "layers.csv")
    (options.output / "surrogate.md").write_text(page(layers))
    picture(rows, options.output / "surrogate.png")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"Error: {error}")
