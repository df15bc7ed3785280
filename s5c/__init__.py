"""s5c: train deep diagonal state-space models and compress them by removing states."""

import os as _os

# OpenBLAS, which NumPy, SciPy and through them XLA's factorisations use, starts threads of its own. Called from several
# of XLA's threads they stop each other for seconds, or for good. It counts where s5c comes before NumPy and SciPy.
_os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
