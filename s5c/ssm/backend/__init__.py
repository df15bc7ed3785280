"""Interchangeable implementations of the sequence operator; one module each, found by looking into this folder.

A backend has two functions (see `s5c.ssm.call` for the types):

    forward(call, system, u, x0) -> y, last, saved
    backward(call, system, u, x0, saved, gy, g_last) -> gradients of system, u and x0

and, if it does not run everywhere, a third:

    unavailable(platform) -> what it lacks to run here, as a sentence, or None

One in which NaN or Inf reach steps before their own says `CAUSAL = False`.
"""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)
