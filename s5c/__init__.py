"""s5c: train deep diagonal state-space models and compress them by removing states.

From Python: `load`, `reduce`, `compare`, `save` (`s5c.api`), and of one system `hankel_singular_values`,
`reduce_system`, `frequency_response`, `impulse_response`, `dc_gain`, `h2_norm`, `hinf_norm`; `method_names` and its
like say what there is, `load_systems` takes the layers of other code. They are imported when first used.
"""

import importlib as _importlib
import os as _os

# OpenBLAS, which NumPy, SciPy and through them XLA's factorisations use, starts threads of its own. Called from several
# of XLA's threads they stop each other for seconds, or for good. It counts where s5c comes before NumPy and SciPy.
_os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(("load", "reduce", "compare", "save"), "s5c.api"),
    **dict.fromkeys(("hankel_singular_values", "reduce_system"), "s5c.reduction.single"),
    **dict.fromkeys(("frequency_response", "impulse_response", "dc_gain"), "s5c.reduction.analysis"),
    **dict.fromkeys(("h2_norm", "hinf_norm"), "s5c.reduction.analysis"),
    **dict.fromkeys(("method_names", "allocation_names", "refit_names"), "s5c.reduction.contract"),
    "Model": "s5c.networks",
    "from_published": "s5c.model.published",
    "load_systems": "s5c.pipeline.conversion",
    "DiagonalSSM": "s5c.ssm.system",
    "UserError": "s5c.errors",
}


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        found = getattr(_importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 's5c' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
