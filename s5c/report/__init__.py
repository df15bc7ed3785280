"""From stored rows to tables, figures and pages; no network is touched. The command is `s5c.report.__main__`."""

import importlib as _importlib


def __getattr__(name: str) -> object:
    if name == "main":  # of `python -m s5c.report`, which no module of the package itself may import
        return _importlib.import_module("s5c.report.__main__").main
    raise AttributeError(f"module 's5c.report' has no attribute {name!r}")
