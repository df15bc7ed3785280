"""Interchangeable implementations of the linear recurrence.

Each module has one function with the same meaning,

    scan(a, b, *, reverse) -> x,    x_k = a x_{k-1} + b_k    (x_k = a x_{k+1} + b_k when reversed),  x_{-1} = 0,

on time-major real/imaginary pairs: `a` of shape (p,), `b` and `x` of shape (l, b, p). Differentiation is not their
business: `s5c.ssm.operator` defines it once for all of them.
"""
