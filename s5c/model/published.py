"""Weights of the published S5 and LAST code, which differ from ours in one layout only."""

from __future__ import annotations

from typing import Any

import numpy as np

from s5c.model.config import ModelConfig
from s5c.types import Params


def from_published(params: Params, config: ModelConfig) -> dict[str, Any]:
    """Splits the single C of a bidirectional `complex_normal` layer, (h, 2p, 2), into C1 and C2.

    Its first p columns belong to the forward direction, the last p to the backward one. All other parameters carry the
    same names and shapes in both codes.
    """

    def convert(node: Any) -> Any:
        if not hasattr(node, "items"):
            return node
        converted = {key: convert(value) for key, value in node.items()}
        if getattr(config, "bidirectional", False) and "C" in converted and "Lambda_re" in converted:
            converted["C1"], converted["C2"] = np.split(np.asarray(converted.pop("C")), 2, axis=1)
        return converted

    return convert(params)
