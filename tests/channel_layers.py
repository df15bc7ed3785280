"""Layers of one system per channel: drawn, run, written out in double precision, and truncated."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from modal_systems import modal_system, with_real_poles

from s5c.model.config import ModelConfig, load_family
from s5c.reduction.truncation import realise, truncate
from s5c.ssm.modal import ModalSystem, to_ssm
from s5c.ssm.system import DiagonalSSM

H, N = 3, 4


def drawn(config: ModelConfig, rng: np.random.Generator, **changed: Any) -> dict[str, jax.Array]:
    """Returns parameters of one layer with poles of very different speed; `changed` replaces some."""
    layer = load_family(config.family).Layer(config, N)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, config.d_model)))["params"]
    ranges = {"Lambda_log_neg_re": (-2, 1), "Lambda_re": (-2, -0.2), "Lambda_im": (0.5, 30), "log_step": (-4, -2)}
    params = {}
    for name, leaf in shapes.items():
        value = rng.uniform(*ranges[name], leaf.shape) if name in ranges else rng.normal(size=leaf.shape)
        params[name] = jnp.asarray(changed.get(name, value), jnp.float32)
    return params


def numbers(params: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns the parameters in double precision, complex ones as complex numbers."""
    pairs = {"B", "C", "C1", "C2"}
    double = {name: np.asarray(value, np.float64) for name, value in params.items()}
    return {name: v[..., 0] + 1j * v[..., 1] if name in pairs else v for name, v in double.items()}


@cache
def compiled(config: ModelConfig, step_rescale: float = 1.0) -> Any:
    """Returns the layer as one compiled function of its parameters and the input."""
    layer = load_family(config.family).Layer(config, N)
    return jax.jit(lambda params, u: layer.apply({"params": params}, u, step_rescale))


def convolved(u: np.ndarray, K: np.ndarray, ahead: np.ndarray | None = None, *, first: int = 0) -> np.ndarray:
    """Returns sum_{j <= k} K[k - j] u_j + sum_{j >= k + first} ahead[j - k - first] u_j by one matrix a channel."""
    lags = np.arange(u.shape[1])[:, None] - np.arange(u.shape[1])
    matrix = np.where(lags >= 0, K[:, np.abs(lags)], 0)
    if ahead is not None:
        matrix = matrix + np.where(-lags >= first, ahead[:, np.maximum(-lags - first, 0)], 0)
    return np.einsum("hkj,bjh->bkh", matrix, u)


def relative(ours: Any, expected: np.ndarray) -> float:
    """Returns the largest error over the largest value."""
    assert np.shape(ours) == expected.shape
    return float(np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max())


def kernel_of(system: DiagonalSSM, length: int) -> np.ndarray:
    """Returns the taps of every direction of a layer's systems, NumPy, from their discretisation."""
    with jax.enable_x64(True):
        a, B = (np.asarray(x) for x in system.discretise())
    outputs = [system.C] if system.C_backward is None else [system.C, system.C_backward]
    powers = a[..., None] ** np.arange(length)
    return np.stack([2 * ((np.asarray(C)[:, 0] * B[..., 0])[..., None] * powers).sum(1).real for C in outputs])


@cache
def _truncated(directions: int) -> ModalSystem:
    full = with_real_poles(modal_system(np.random.default_rng(0), H, p=6, shape=(directions, 1)), 3)
    reduced = truncate(realise(full), np.array([4, 2, 4])).system
    reduced.log_a[1, 3] = -300
    assert (np.abs(np.exp(reduced.log_a).imag) < 1e-12).sum() > 3  # real poles, besides the empty slots
    return reduced._replace(D=np.zeros((H, directions, 1)))


def truncated(config: Any, rng: np.random.Generator) -> DiagonalSSM:
    """Returns what balanced truncation makes of a layer: pairs, real poles of both signs, and empty slots.

    Its steps differ between the states of a channel, as S5's do: only Lambda Delta and B Delta count.
    """

    def one(modal: ModalSystem, Delta: Any) -> DiagonalSSM:
        discretisation = getattr(config, "discretisation", "zoh")
        return to_ssm(modal, Delta, bidirectional=config.bidirectional, discretisation=discretisation)

    with jax.enable_x64(True):
        modal = ModalSystem(*map(jnp.asarray, _truncated(1 + config.bidirectional)))
        return jax.jit(jax.vmap(one))(modal, jnp.asarray(rng.uniform(0.01, 0.1, (H, N))))
