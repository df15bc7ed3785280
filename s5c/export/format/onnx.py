"""ONNX: one step as a graph of standard operators, state in and state out.

jax2onnx 0.17 would export the step, and does where it can be installed; it stands on orbax-export, which wants an older
Orbax than checkpoints here are written with, so the two do not fit into one environment. The graph is small: it is
written with the ONNX project's own helpers and checked by its checker.

Inputs are `sample` (b, features), or `token` (b,), int64; the states `layer0`, ... (b, 2p) or (b, h, 2p); `features`
(b, h); `steps` (1,), all zeros at the start. Outputs are `log_probs` (b, classes), or `outputs` (b, k) of targets, and
what takes the place of the states: `layer0_next`, ..., `features_next`, `steps_next`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from s5c.errors import UserError
from s5c.export.exported import Exported
from s5c.export.format.c import TEMPLATES, answers
from s5c.export.plan import LayerPlan, Norm, Plan, plan, state_shape
from s5c.model.rounding import Matrix

EXTRA = "onnx"

OPSET = 21
"""The first with integers of four bits."""


def write(exported: Exported, folder: Path) -> str:
    """Writes `model.onnx`, answers and a script that compares the two; returns the command that runs it.

    Args:
        exported: a network of one direction.
        folder: an empty folder.

    Raises:
        UserError: the network cannot be run step by step, or the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("format=onnx needs the package onnx: pip install 's5c[onnx]', or onnx by itself.") from None
    made = plan(exported.model, exported.weights, step_rescale=exported.step_rescale, bits=exported.bits)
    model = _Graph(onnx).of(made, exported.name)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / "model.onnx")
    inputs = exported.inputs()
    np.savez_compressed(folder / "answers.npz", inputs=inputs, answers=answers(exported, made, inputs))
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)
    (folder / "check.py").write_text(environment.get_template("onnx_check.py.j2").render(plan=made) + "\n", "utf-8")
    return "python check.py"


class _Graph:
    """Nodes and constants of a graph, each with a name of its own."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def matrix(self, values: Matrix) -> str:
        """Returns the name of a matrix, of few bits as integers and their scales."""
        if values.scale is None:
            return self.constant(values.values)
        name, rows, columns = f"constant_{len(self.constants)}", *values.values.shape
        helper, types = self.onnx.helper, self.onnx.TensorProto
        stored, kind = values.values.ravel(), types.INT8  # also of six bits, for which there is no type
        if values.bits == 4:  # two a byte, the first in the lower half
            pairs = np.append(stored, np.zeros(stored.size % 2, np.int8)).view(np.uint8).reshape(-1, 2)
            stored, kind = pairs[:, 0] & 15 | pairs[:, 1] << 4, types.INT4
        self.constants.append(helper.make_tensor(name, kind, (rows, columns), stored.tobytes(), raw=True))
        return self.node("DequantizeLinear", name, self.constant(values.scale), axis=0)

    def times(self, values: Matrix, x: str) -> str:
        """Returns W x for every row of a batch: x W^T."""
        return self.node("Gemm", x, self.matrix(values), transB=1)

    def of(self, made: Plan, name: str) -> Any:
        helper, types = self.onnx.helper, self.onnx.TensorProto

        def value(name: str, *shape: Any, kind: int = types.FLOAT) -> Any:
            return helper.make_tensor_value_info(name, kind, shape)

        shapes = {f"layer{i}": state_shape(layer) for i, layer in enumerate(made.layers)}
        shapes["features"] = (made.d_model,)
        given = (
            value("token", "b", kind=types.INT64) if made.tokens else value("sample", "b", made.features),
            *(value(one, "b", *shape) for one, shape in shapes.items()),
            value("steps", 1),
        )
        self._network(made)
        found = (
            value("log_probs" if made.classes else "outputs", "b", made.outputs),
            *(value(f"{one}_next", "b", *shape) for one, shape in shapes.items()),
            value("steps_next", 1),
        )
        graph = helper.make_graph(self.nodes, name, given, found, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="s5c")

    def _network(self, made: Plan) -> None:
        if made.tokens:
            x = self.node("Gather", self.matrix(made.encoder), "token", axis=0)
        else:
            x = self.times(made.encoder, "sample")
        x = self.node("Add", x, self.constant(made.encoder_bias))
        for i, layer in enumerate(made.layers):
            x = self._layer(i, layer, x)
        steps = self.node("Add", "steps", self.constant([1.0]), output="steps_next")
        if made.last:
            mean = self.node("Identity", x, output="features_next")
        else:
            moved = self.node("Div", self.node("Sub", x, "features"), steps)
            mean = self.node("Add", "features", moved, output="features_next")
        logits = self.node("Add", self.times(made.decoder, mean), self.constant(made.decoder_bias))
        if made.classes:
            self.node("LogSoftmax", logits, axis=-1, output="log_probs")
        else:
            self.node("Identity", logits, output="outputs")

    def _layer(self, i: int, layer: LayerPlan, skip: str) -> str:
        w = self._normed(layer.before, skip)
        last = self.constant([-1], np.int64) if layer.channels else ""
        p = layer.a_re.shape[-1]
        axis = self.constant([2 if layer.channels else 1], np.int64)
        ends = [self.constant([n], np.int64) for n in (0, p, 2 * p)]
        re, im = (self.node("Slice", f"layer{i}", ends[k], ends[k + 1], axis) for k in (0, 1))
        a_re, a_im = self.constant(layer.a_re), self.constant(layer.a_im)
        turned_re = self.node("Sub", self.node("Mul", a_re, re), self.node("Mul", a_im, im))
        turned_im = self.node("Add", self.node("Mul", a_re, im), self.node("Mul", a_im, re))
        if layer.B is None:
            turned_re = self.node("Add", turned_re, self.node("Unsqueeze", w, last))
            x = self.node("Concat", turned_re, turned_im, axis=-1, output=f"layer{i}_next")
        else:
            turned = self.node("Concat", turned_re, turned_im, axis=-1)
            driven = self.node("Add", self.times(layer.B, w), self.constant(layer.b))
            x = self.node("Add", turned, driven, output=f"layer{i}_next")
        if layer.channels:
            y = self.node("ReduceSum", self.node("Mul", self.matrix(layer.C), x), last, keepdims=0)
        else:
            y = self.times(layer.C, x)
        y = self.node("Add", y, self.node("Mul", self.constant(layer.D), w))
        y = self.node("Add", y, self.constant(layer.c))
        return self._normed(layer.after, self.node("Add", skip, self._gated(layer, y)))

    def _normed(self, norm: Norm, x: str) -> str:
        if norm.kind == "none":
            return x
        gain, offset = self.constant(norm.gain), self.constant(norm.offset)
        if norm.kind == "layer":
            return self.node("LayerNormalization", x, gain, offset, axis=-1, epsilon=norm.epsilon)
        return self.node("Add", self.node("Mul", x, gain), offset)

    def _gated(self, layer: LayerPlan, y: str) -> str:
        gate = layer.gate
        if gate.activation == "lqo":
            assert gate.W1 is not None and gate.W2 is not None
            return self.node("Add", y, self.node("Mul", self.times(gate.W1, y), self.times(gate.W2, y)))
        if gate.exact:
            rises = self.node("Erf", self.node("Mul", self.constant(math.sqrt(0.5)), y))
        else:
            cubed = self.node("Mul", self.node("Mul", y, y), y)
            inner = self.node("Add", y, self.node("Mul", self.constant(0.044715), cubed))
            rises = self.node("Tanh", self.node("Mul", self.constant(math.sqrt(2 / math.pi)), inner))
        g = self.node("Mul", self.node("Mul", self.constant(0.5), y), self.node("Add", self.constant(1.0), rises))
        if gate.activation == "gelu":
            return g
        assert gate.W2 is not None
        s = self.node("Sigmoid", self.node("Add", self.times(gate.W2, g), self.constant(gate.b2)))
        if gate.activation == "half_glu2":
            return self.node("Mul", y, s)
        if gate.activation == "full_glu":
            assert gate.W1 is not None
            g = self.node("Add", self.times(gate.W1, g), self.constant(gate.b1))
        return self.node("Mul", g, s)
