"""The README of an export: what the network reads and answers, what was removed, what it costs, where it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from s5c.evaluation import cost
from s5c.export.exported import Exported

TEMPLATES = Path(__file__).parent / "templates"

USE = {
    "c": "make example && ./example < samples.csv",
    "onnx": "python check.py                # shows how the state goes from step to step",
    "stablehlo": "python run.py inputs.npz answers.npz",
    "safetensors": "python -m s5c.predict checkpoint=. inputs=X.npz out=Y.npz",
}


def write(exported: Exported, folder: Path, form: str, check: str) -> None:
    """Writes README.md.

    Args:
        exported: the network.
        folder: where its files are already.
        form: name of the format.
        check: command that compares it with stored answers.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)
    facts, config = exported.facts, exported.model.config
    text = environment.get_template("README.md.j2").render(
        facts=facts,
        format=form,
        family=config.family,
        source=facts["source"],
        described=_described(exported),
        rows={**_rows(exported), "Files": f"{_bytes(folder):,} bytes in this folder"},
        use=USE.get(form, check),
        check=check,
        limits=_limits(exported, form),
    )
    (folder / "README.md").write_text(text, "utf-8")


def _described(exported: Exported) -> str:
    config, spec, facts = exported.model.config, exported.model.spec, exported.facts
    task = (facts["task"] or {"name": "a task of its owner's"})["name"]
    reads = f"token ids from 0 to {spec.features - 1}" if spec.tokens else f"{spec.features} real numbers a step"
    names = (facts.get("data_schema") or {}).get("classes") or ()
    if spec.targets is None:
        answers = f"the logarithms of the probabilities of {spec.classes} classes"
        answers += f": {', '.join(map(str, names))}" if names else f", 0 to {spec.classes - 1}"
    else:
        answers = (
            f"{spec.classes} number{'s' * (spec.classes > 1)} {'a step' if spec.targets.per_step else 'a sequence'}"
        )
    ways = "both directions" if getattr(config, "bidirectional", False) else "one direction"
    return (
        f"A deep state-space model ({config.family}, {config.n_layers} layers of {config.d_model} features, {ways}) "
        f"trained on {task}. It reads {'two sequences of ' * spec.pairs}{reads} and answers with {answers}."
    )


def _rows(exported: Exported) -> dict[str, Any]:
    facts, model = exported.facts, exported.model
    size = cost.size(model, exported.weights["params"], 1)
    return {
        "Trained on": f"{facts['source']} (checksum `{facts['data']}`)",
        "Removed": "; ".join(facts.get("reductions") or []) or "nothing",
        "States": " + ".join(map(str, model.state_dims)) + (" a channel" if model.config.per_channel else ""),
        "Parameters": f"{size.params:,}",
        "Multiply-accumulates a step": f"{size.macs:,}",
        "Weights": "float32" if exported.bits == 32 else f"{exported.bits} bits, poles and biases float32",
        "Sampling": f"Delta times {exported.step_rescale:g}" if exported.step_rescale != 1 else "as in training",
        **_measured(facts),
        "Licence": facts.get("licence") or "that of its training data and of whoever trained it",
        "Made by": f"s5c {facts.get('s5c', '')} {facts.get('git', '')}".strip(),
    }


def _measured(facts: dict[str, Any]) -> dict[str, str]:
    """Returns what was measured of this network, and on what."""
    found = {}
    if (evaluated := facts.get("evaluated")) and "accuracy" in evaluated:
        found["Accuracy"] = (
            f"{100 * evaluated['accuracy']:.2f} % of {evaluated['examples']:,} sequences given in Python"
        )
    elif (metrics := facts.get("metrics")) and "test_accuracy" in metrics:
        # Of how many examples is known of the training alone: a reduction may evaluate fewer.
        known = "examples" in facts and not facts.get("reductions")
        on = f"{facts['examples']['test']:,} test examples of {facts['source']}" if known else "test examples"
        found["Accuracy"] = f"{100 * metrics['test_accuracy']:.2f} % of {on}"
    return found


def _limits(exported: Exported, form: str) -> list[str]:
    spec, config = exported.model.spec, exported.model.config
    found = ["It answers whatever it is given: that data is like that of the training is for its user to know."]
    if not spec.tokens:
        found.append("Numbers are expected as the training had them: pixels from 0 to 1 for images, for instance.")
    if form in ("c", "onnx"):
        found.append("Poles outside the unit circle make the state of a long stream grow: reset it between sequences.")
    if form == "c":
        found.append("Answers that are not finite are noticed: compile without options that assume there are none.")
    if form == "stablehlo":
        found.append(f"Sequences of {' or '.join(map(str, exported.lengths))} steps, any batch.")
    if config.sees_padding and exported.facts.get("padding"):
        lengths = ", ".join(map(str, exported.facts["padding"]["lengths"]))
        found.append(f"Its answers depend on padding: pad sequences to {lengths} steps, as in training.")
    return found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
