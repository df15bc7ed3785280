"""One stage a file: a frozen dataclass `Stage` whose fields are its keys (`s5c.pipeline.line.Stage`)."""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
LINE = (
    "features", "choose", "take", "project", "mask", "fresh", "refit", "normalise", "readout", "measure", "train",
    "precision",
)  # fmt: skip
"""The order in which a network passes them; others name the one that they stand before."""
