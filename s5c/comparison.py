"""Networks side by side: sizes, accuracies, poles."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from s5c.errors import UserError
from s5c.evaluation import cost
from s5c.metric import METRICS
from s5c.pipeline.packing import stored_form
from s5c.report.cells import table
from s5c.scored import Regression

if TYPE_CHECKING:
    from s5c.networks import Model

SHOWN_LAYERS = 4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Networks side by side; printed as a table.

    Attributes:
        rows: one per network: name, states, orders, parameters, bytes, accuracy (or rmse, mae, r2, fit), loss,
            examples, agreement with the first one (None where they were not evaluated on as many sequences).
        decays: per network and layer, -Re log(Lambda_bar) of every stable mode, 1/step.
        angles: per network and layer, |Im log(Lambda_bar)|, rad/step.
    """

    rows: list[dict[str, Any]]
    decays: list[list[np.ndarray]]
    angles: list[list[np.ndarray]]

    @classmethod
    def of(cls, models: Sequence[Model]) -> Comparison:
        """Returns the comparison of networks with the first of them."""
        rows, decays, angles = [], [], []
        for model in models:
            found, first = model.answers, models[0].answers
            alike = found is not None and first is not None and np.array_equal(found.labels, first.labels)
            known = ("accuracy", "loss", "examples") if model.network.spec.targets is None else Regression._fields
            said = model.evaluated._asdict() if model.evaluated else dict.fromkeys(known)
            rows.append(
                {
                    "name": model.name,
                    "states": model.states,
                    "orders": model.orders,
                    "parameters": model.parameters,
                    "bytes": cost.stored(stored_form(model.weights, model.facts)).safetensors,
                    **said,
                    "agreement": found.agreement(first) if alike and found is not None else None,  # type: ignore[arg-type]
                }
            )
            logs = [_log_poles(system) for system in model.systems()]
            decays.append([-log.real[log.real < 0] for log in logs])
            angles.append([np.abs(log.imag[log.real < 0]) for log in logs])
        return cls(rows, decays, angles)

    def __str__(self) -> str:
        def percent(value: float | None) -> str:
            return "–" if value is None else f"{100 * value:.2f} %"

        def told(row: dict[str, Any]) -> list[str]:
            found = [metric for metric in METRICS.values() if metric.name in row]
            return [percent(row[m.name]) if m.share else _number(row[m.name]) for m in found]

        names = [m.words[0].upper() + m.words[1:] for m in METRICS.values() if m.name in self.rows[0]]
        head = ["Model", "States", "Parameters", "Bytes", *names, "Agreement"]
        body = [
            [
                row["name"],
                f"{row['states']:,}",
                f"{row['parameters']:,}",
                f"{row['bytes']:,}",
                *told(row),
                percent(row["agreement"]),
            ]
            for row in self.rows
        ]
        return table(head, body)

    __repr__ = __str__
    _repr_markdown_ = __str__  # what a notebook shows

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws states and accuracies, and the poles of the layers as decay against frequency.

        Args:
            path: file to write the figure to, of a kind that matplotlib knows; None writes none.

        Returns:
            The matplotlib figure.

        Raises:
            UserError: the file cannot be written.
        """
        from s5c.report import comparison_figure

        figure = comparison_figure.draw(self.rows, self.decays, self.angles, layers=SHOWN_LAYERS)
        if path is not None:
            try:
                figure.savefig(os.fspath(path), dpi=150)
            except (OSError, TypeError, ValueError) as error:  # no folder, no path, or a kind of file there is not
                raise UserError(f"The figure cannot be written to {path!r}: {error}.") from error
        return figure


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _log_poles(system: Any) -> np.ndarray:
    """Returns log(Lambda_bar) of the modes that are there: a slot without input or output is none."""
    from s5c.ssm.modal import log_poles

    with jax.enable_x64(True):
        there = np.any(np.asarray(system.B), axis=-1) & np.any(np.asarray(system.C), axis=-2)
        return np.asarray(log_poles(system))[there]
