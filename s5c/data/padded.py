"""What the sequences of a training were padded to, and with: what a network is asked with later.

Where a layer runs backwards its state starts in the padding, so that such a network answers otherwise as the padding
changes. A checkpoint therefore says how it was trained, `padding` in its metadata; of one that is older than this
record the options of its task tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from s5c.data.base import Dataset
from s5c.data.decode import Windows
from s5c.data.padding import BUCKET, FULL, bucketed
from s5c.data.ragged import Ragged
from s5c.errors import UserError

KEY = "padding"
"""Of the metadata of a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Padding:
    """What sequences are padded to, on the right.

    Attributes:
        lengths: steps as the network reads them, increasing; a sequence is padded to the shortest that holds it.
        step: the features of a step that is padding; None for zeros, and for ids, of which 0 is <pad>.
        strict: sequences that are longer than all of these are refused, instead of being left as they are.
    """

    lengths: tuple[int, ...]
    step: tuple[float, ...] | None = None
    strict: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Padding | None:
        """Returns how the training sequences of a task are padded; None if all fill every step."""
        split = dataset.train
        if split.lengths is None or not len(split):
            return None
        axis, shortest = 2 if dataset.pairs else 1, split.lengths.reshape(len(split), -1).max(axis=1).argmin()
        row = np.array([shortest])
        ragged = isinstance(split.inputs, Ragged)
        read = [split.read(row, pad_to=n) for n in split.buckets] if ragged and split.buckets else [split.read(row)]
        lengths, longest = tuple(x.shape[axis] for x in read), read[-1]
        filled = not dataset.tokens and split.lengths[shortest] < lengths[-1]
        step = tuple(map(float, longest[0, -1])) if filled else ()
        return cls(lengths, step if any(step) else None)

    @classmethod
    def known(cls, facts: Mapping[str, Any]) -> Padding | None:
        """Returns how a checkpoint's training was padded; None if it was not, or that is not known.

        Args:
            facts: metadata of the checkpoint.
        """
        if KEY not in facts:
            return _derived(facts.get("task") or {}, (facts.get("input_spec") or [1])[0])
        return (
            None if (said := facts[KEY]) is None else cls(tuple(said["lengths"]), said["step"] and tuple(said["step"]))
        )

    def record(self) -> dict[str, Any]:
        """Returns the JSON form, for the metadata of a checkpoint; `known` reads it."""
        return {"lengths": list(self.lengths), "step": None if self.step is None else list(self.step)}

    def places(self, lengths: np.ndarray, given: int) -> np.ndarray:
        """Returns what each sequence is padded to.

        Args:
            lengths: valid steps of each, (n,).
            given: steps that they have now, and keep where they are longer than any that is known.

        Raises:
            UserError: one is too long.
        """
        if self.strict and len(lengths) and lengths.max() > self.lengths[-1]:
            raise UserError(f"pad={self.lengths[-1]}: a sequence has {lengths.max()} steps. Give at least that.")
        known = np.array([*self.lengths, max(given, self.lengths[-1])])
        return known[np.searchsorted(self.lengths, lengths)]

    def fitted(self, x: np.ndarray, steps: int, axis: int) -> np.ndarray:
        """Returns sequences with this many steps on an axis: filled up, or without some of their padding."""
        missing = steps - x.shape[axis]
        if missing <= 0:
            return x[(slice(None),) * axis + (slice(steps),)]
        shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
        filling = (
            np.zeros(shape, x.dtype) if self.step is None else np.broadcast_to(np.asarray(self.step, x.dtype), shape)
        )
        return np.concatenate([x, filling], axis=axis)


def asked_for(pad: Any) -> Padding:
    """Returns the padding that a person asks for, `pad=512` or `pad=[256,512]`.

    Raises:
        UserError: these are no lengths.
    """
    lengths = list(pad) if isinstance(pad, list | tuple) else [pad]
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in lengths)
    if not lengths or not whole or sorted(set(lengths)) != lengths:
        raise UserError(
            f"pad={pad!r}: give trained (what the model was trained with), given (the sequences as they are), a number "
            "of steps such as pad=512, or several that increase, such as pad=[256,512]."
        )
    return Padding(tuple(map(int, lengths)), strict=True)


def _derived(task: Mapping[str, Any], features: int) -> Padding | None:
    """Returns the padding that the options of a task mean: all tasks of s5c that pad call them alike."""
    longest, pad = task.get("max_length"), task.get("pad", FULL)
    if not isinstance(longest, int) or not isinstance(pad, str | list):
        return None  # a number of lengths, which the training split has decided
    stored = list({FULL: (longest,), BUCKET: bucketed(longest)}.get(str(pad), pad))
    window, stride = task.get("window", 1), task.get("stride", 1)
    if (window, stride) == (1, 1):
        return Padding(tuple(map(int, stored)))
    windows = Windows(features // window, window, stride)
    lengths = sorted({int(n) for n in windows.steps(np.array(stored))})
    return Padding(tuple(lengths), tuple(map(float, windows(np.zeros((1, 1), np.int64))[0, 0])))
