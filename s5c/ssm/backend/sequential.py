"""One step after the other, all states kept: the least arithmetic; CPUs, short sequences."""

from __future__ import annotations

from functools import partial

from s5c.ssm import materialised
from s5c.ssm.call import step_by_step

forward = partial(materialised.forward, step_by_step)
backward = partial(materialised.backward, step_by_step)
