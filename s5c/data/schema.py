"""What data is: inferred once, stored in a checkpoint, and what other data for the same network is checked against."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from s5c.errors import UserError
from s5c.units import Scale

CLASSES, VALUES, STEPS = "classes", "values", "values per step"
"""What a network answers with."""

SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Schema:
    """Real sequences and their answers.

    Attributes:
        channels: numbers at every step.
        shortest, longest: steps of the shortest and the longest sequence.
        padded: steps that sequences are padded to, at most.
        answers: classes | values | values per step.
        classes: names of the classes, in the order of the network's answers; empty without any.
        outputs: names of the targets, `target`, or `target_1` and so on if they had none; empty without any.
        channel_names: empty if they have none.
        scale: standard | minmax | none: what the statistics below are, of the training split alone.
        shift, size: a network looks at (x - shift) / size, one number of each per channel.
        output_shift, output_size: it answers with shift + size * output, one of each per target.
    """

    channels: int
    shortest: int
    longest: int
    padded: int
    answers: str
    classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()
    scale: str = "none"
    shift: tuple[float, ...] = ()
    size: tuple[float, ...] = ()
    output_shift: tuple[float, ...] = ()
    output_size: tuple[float, ...] = ()

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Schema:
        """Returns the schema that a checkpoint's metadata hold under `data_schema`.

        Raises:
            UserError: it is damaged.
        """
        try:
            found: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
            }
            return cls(**found)
        except TypeError as error:
            raise UserError(f"The checkpoint's description of its data is damaged: {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form; `of` is the inverse."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @property
    def scaling(self) -> Scale | None:
        """How the channels are scaled; None for not at all."""
        return None if self.scale == "none" else Scale(self.shift, self.size)

    def lines(self) -> list[str]:
        """Returns what the data is, in words."""
        steps = f"{self.longest:,}" if self.shortest == self.longest else f"{self.shortest:,} to {self.longest:,}"
        named = f" ({_shown(self.channel_names)})" if self.channel_names else ""
        found = [
            f"{self.channels} channel{'s' * (self.channels != 1)}{named}, {steps} steps, padded to {self.padded:,}",
            f"scaled: {self.scale}" + ("" if self.scale == "none" else ", by statistics of the training split"),
        ]
        if self.answers == CLASSES:
            return [*found, f"{len(self.classes)} classes: {_shown(self.classes)}"]
        each = "step" if self.answers == STEPS else "sequence"
        count = len(self.outputs)
        return [*found, f"{count} target{'s' * (count != 1)} for every {each}: {_shown(self.outputs)}"]

    def check_alike(self, other: Schema, where: str) -> None:
        """Refuses other data whose classes, targets or channels do not mean what those of a network's do.

        Args:
            other: schema of that data.
            where: the network's checkpoint, for the message.

        Raises:
            UserError: they differ.
        """
        for what in ("classes", "outputs", "channel_names"):
            ours, theirs = getattr(self, what), getattr(other, what)
            if ours != theirs and (what == "classes" or (ours and theirs)):
                raise UserError(
                    f"{where} knows the {what.replace('_', ' ')} {_shown(ours)}; the data has {_shown(theirs)}. Give "
                    "data of the same ones, in the same order."
                )

    def check(self, inputs: np.ndarray, lengths: np.ndarray | None = None, *, where: str = "The inputs") -> None:
        """Refuses data that a network of this data cannot look at.

        Args:
            inputs: (n, l, channels), or (n, l) for one channel.
            lengths: valid steps, (n,); None if nothing is padded.
            where: what the data is called in messages.

        Raises:
            UserError: another number of channels, no real numbers, lengths that do not fit, or numbers that are not
                finite.
        """
        shape = inputs.shape if inputs.ndim == 3 else (*inputs.shape, 1)
        if len(shape) != 3 or shape[2] != self.channels or inputs.dtype.kind not in "fiub":
            raise UserError(
                f"{where}: shape {inputs.shape}, {inputs.dtype}; expected real numbers of shape (n, length, "
                f"{self.channels}), {self.lines()[0]}."
            )
        n, steps = shape[:2]
        if n == 0 or steps == 0:
            raise UserError(f"{where}: shape {inputs.shape} holds no step; expected one sequence of one step at least.")
        ends = np.full(n, steps) if lengths is None else np.asarray(lengths)
        if ends.shape != (n,) or ends.dtype.kind not in "iu" or not 1 <= ends.min() <= ends.max() <= steps:
            raise UserError(f"{where}: expected {n} lengths from 1 to {steps}, whole numbers.")
        valid = np.arange(steps) < ends[:, None]
        wrong = np.argwhere(~np.isfinite(inputs.reshape(shape)).all(axis=2) & valid)
        if len(wrong):
            example, step = (int(i) for i in wrong[0])
            raise UserError(f"{where}: example {example}, step {step + 1} holds a number that is not finite.")


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
