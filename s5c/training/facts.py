"""What is known of the network in a checkpoint: a schema, and a message where something is missing or of no use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s5c.errors import UserError

MAYBE = type(None)

SCHEMA: dict[str, tuple[tuple[type, ...], str]] = {
    "model": ((dict,), "configuration of the network"),
    "state_dims": ((list, tuple), "stored states of every layer"),
    "input_spec": ((list, tuple), "what the network reads: features, classes, tokens, pairs"),
    "task": ((dict, MAYBE), "task it was trained on, with its options; null if it is none of s5c's"),
    "source": ((str, MAYBE), "where the data came from"),
    "data": ((str, MAYBE), "checksum of the data"),
    "vocabulary": ((list, tuple, MAYBE), "tokens in the order of their ids"),
    "step_rescale": ((int, float), "factor on Delta that the data of its training asked for"),
    "protocol": ((str,), "validation or paper"),
    "selected_on": ((str, MAYBE), "split that the checkpoint was selected on"),
    "seed": ((int, MAYBE), "seed of the training"),
    "recipe": ((dict, MAYBE), "how it was trained"),
    "trained_id": ((str,), "checksum of the training"),
}
"""Keys that readers of a network ask for, with the types of their values."""


class Facts(dict[str, Any]):
    """Metadata of a checkpoint; a key that is not there is a message.

    Args:
        values: the metadata.
        path: of the checkpoint.
    """

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        meaning = f" ({SCHEMA[key][1]})" if key in SCHEMA else ""
        raise UserError(
            f"The metadata of the checkpoint {self.path} lack {key!r}{meaning}: it was not written by a training, a "
            "reduction, s5c.save or s5c.convert. Write it again by one of them."
        )

    def replaced(self, **changes: Any) -> Facts:
        """Returns the metadata with other values."""
        return Facts({**self, **changes}, self.path)


def checked(facts: Facts) -> Facts:
    """Returns metadata of a network, whose values are of the types that readers expect.

    Raises:
        UserError: one is of another type, or what describes the network itself is missing.
    """
    for key, (types, meaning) in SCHEMA.items():
        if key not in facts and key not in ("model", "state_dims", "input_spec"):
            continue
        value = facts[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise _strange(facts, key, value, meaning)
    dims, spec = facts["state_dims"], facts["input_spec"]
    if not all(type(p) is int for p in dims):
        raise _strange(facts, "state_dims", dims, "one whole number per layer")
    if [type(one) for one in spec[:4]] != [int, int, bool, bool]:
        raise _strange(facts, "input_spec", spec, "features, classes, tokens, pairs")
    return facts


def _strange(facts: Facts, key: str, value: Any, meaning: str) -> UserError:
    return UserError(f"The metadata of the checkpoint {facts.path} say {key}={value!r:.80}, which is no {meaning}.")
