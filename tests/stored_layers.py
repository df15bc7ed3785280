"""Layers drawn as parameters of every family, and what they answer: NumPy on the stored numbers, no code of s5c."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from s5c.model.config import ModelConfig

Params = dict[str, np.ndarray]


# ---- random layers


def drawn(config: ModelConfig, rng: np.random.Generator, p: int, slowest: float) -> Params:
    """Returns float32 parameters of one layer whose modes lose between `slowest` and 0.5 a step, a fifth of them real.

    Args:
        config: d_model and the family decide the shapes.
        rng: source of all numbers.
        p: stored states.
        slowest: least damping.
    """
    h, both = config.d_model, getattr(config, "bidirectional", False)
    shape = (p,) if config.family == "s5" else (h, p)
    damping = np.exp(rng.uniform(np.log(slowest), np.log(0.5), p))
    log_a = -damping + 1j * rng.uniform(0.01, 3, p) * (rng.random(p) > 0.2)
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), p if config.family == "s5" else h))
    if config.family == "dss" and config.shared_poles:
        Lambda = log_a / np.exp(np.mean(np.log(step)))
    else:
        if getattr(config, "discretisation", "zoh") == "bilinear":
            log_a = 2 * np.tanh(log_a / 2)
        Lambda = log_a / (step if config.family == "s5" else step[:, None])
    size = np.exp(rng.normal(size=p))
    if config.family == "s5":
        params = {"B": normal(rng, p, h) * (size / step)[:, None, None], "log_step": np.log(step)[:, None]}
        outputs = {name: normal(rng, h, p) for name in (("C1", "C2") if both else ("C",))}
    else:
        params = {"log_step": np.log(step)}
        outputs = {name: normal(rng, *shape) * size[:, None] for name in (("C1", "C2") if both else ("C",))}
    params |= {**outputs, "D": rng.normal(size=h), "Lambda_im": Lambda.imag}
    if config.family == "s5" or getattr(config, "variant", "exp") == "softmax":
        params["Lambda_re"] = Lambda.real
    else:
        params["Lambda_log_neg_re"] = np.log(-Lambda.real)
    return {name: np.asarray(value, np.float32) for name, value in params.items()}


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=(*shape, 2))


# ---- what they answer


class Stored(NamedTuple):
    """Single systems on the leading axis: one S5 layer, or the channels of another."""

    log_a: np.ndarray
    B: np.ndarray
    C: np.ndarray
    C_backward: np.ndarray | None
    D: np.ndarray


def read(params: Any, config: ModelConfig) -> Stored:
    """Returns the discrete systems that the parameters stand for, after the papers of the three families."""
    pairs = {"B", "C", "C1", "C2"}
    x = {name: np.asarray(value, float) for name, value in params.items()}
    x = {name: v[..., 0] + 1j * v[..., 1] if name in pairs else v for name, v in x.items()}
    real = x["Lambda_re"] if "Lambda_re" in x else -np.exp(x["Lambda_log_neg_re"])
    Lambda, step = real + 1j * x["Lambda_im"], np.exp(x["log_step"])
    outputs = [x[name] for name in ("C", "C1", "C2") if name in x]
    if config.family == "s5":
        step = step[:, 0]
        log_a, rate = discretised(Lambda, step, config.discretisation)
        C, *back = outputs
        return Stored(
            log_a[None], (rate[:, None] * x["B"])[None], C[None], back[0][None] if back else None, x["D"][None]
        )
    Lambda = np.broadcast_to(Lambda, outputs[0].shape)
    log_a, rate = discretised(Lambda, step[:, None], getattr(config, "discretisation", "zoh"))
    if config.family == "dss":
        rate = rate / 2  # y = Re(C x)
        if config.variant == "softmax":
            growth = Lambda * np.expm1(config.length * log_a)
            rate = rate * Lambda * growth.conj() / (np.abs(growth) ** 2 + 1e-7)
    C, *back = (C[:, None] for C in outputs)
    return Stored(log_a, (rate * x.get("B", 1))[..., None], C, back[0] if back else None, x["D"][:, None])


def discretised(Lambda: np.ndarray, step: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logarithms of the poles and B_bar / B."""
    z = Lambda * step
    if how == "zoh":
        return z, np.where(Lambda == 0, step, np.expm1(z) / np.where(Lambda == 0, 1, Lambda))
    log_radius = np.log1p(2 * z.real / np.abs(1 - z / 2) ** 2) / 2
    return log_radius + 1j * (np.angle(1 + z / 2) - np.angle(1 - z / 2)), step / (1 - z / 2)


def joined(parts: list[Stored]) -> Stored:
    """Returns the systems of several layers on one leading axis, filled up with empty states."""
    p = max(part.log_a.shape[1] for part in parts)

    def widened(x: np.ndarray | None, axis: int, value: float) -> np.ndarray | None:
        if x is None:
            return None
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, p - x.shape[axis])
        return np.pad(x, widths, constant_values=value)

    wide = [
        Stored(widened(s.log_a, 1, -1), widened(s.B, 1, 0), widened(s.C, 2, 0), widened(s.C_backward, 2, 0), s.D)
        for s in parts
    ]
    return Stored(*(None if x[0] is None else np.concatenate(x) for x in zip(*wide, strict=True)))


def stable(systems: Stored) -> Stored:
    """Returns the systems without their unstable modes."""
    keep = systems.log_a.real < 0
    return systems._replace(log_a=np.where(keep, systems.log_a, -1), B=np.where(keep[..., None], systems.B, 0))


def difference(one: Stored, other: Stored) -> Stored:
    """Returns the systems whose output is that of `one` minus that of `other`."""
    back = None if one.C_backward is None else np.concatenate([one.C_backward, -other.C_backward], 2)
    return Stored(
        np.concatenate([one.log_a, other.log_a], 1),
        np.concatenate([one.B, other.B], 1),
        np.concatenate([one.C, -other.C], 2),
        back,
        one.D - other.D,
    )


def transfer(systems: Stored, angles: np.ndarray) -> np.ndarray:
    """Returns y / u at a tone, (systems, angles, outputs, inputs), from sums over all steps in both directions.

    y_k = sum_{j >= 0} h_j u_{k-j} + sum_{j >= 0} hb_j u_{k+j} + D u_k,    u_k = exp(i w k),    h_j = 2 Re(C a^j B)
    """

    def taps_at(C: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Returns sum_j h_j exp(-i w j)."""
        found = 0
        for log_a, matrix, B in ((systems.log_a, C, systems.B), (systems.log_a.conj(), C.conj(), systems.B.conj())):
            sums = -1 / np.expm1(log_a[:, None] - 1j * w[..., None])
            rank_one = np.einsum("nqp,npm->npqm", matrix, B)
            found = found + (sums @ rank_one.reshape(*rank_one.shape[:2], -1)).reshape(*w.shape, *rank_one.shape[2:])
        return np.asarray(found)

    y = taps_at(systems.C, angles)
    if systems.C_backward is not None:
        y = y + taps_at(systems.C_backward, -angles)
    return y + systems.D[:, None, :, None] * np.eye(systems.D.shape[1])


OFFSETS = np.r_[0, np.geomspace(0.03, 30, 30), np.geomspace(50, 1e5, 8)]


def swept_norms(systems: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest singular value over all tones, and its angle: a dense sweep, finest around every pole."""
    offsets = np.r_[-OFFSETS[::-1], OFFSETS[1:]]
    poles = systems.log_a
    near = poles.imag[..., None] + np.minimum(-poles.real, 1)[..., None] * offsets
    angles = np.concatenate(
        [near.reshape(len(poles), -1), np.broadcast_to(np.linspace(0, np.pi, 200), (len(poles), 200))], axis=1
    )
    angles = np.sort(np.where((angles >= 0) & (angles <= np.pi), angles, np.abs(np.angle(np.exp(1j * angles)))), axis=1)

    def gains(at: np.ndarray) -> np.ndarray:
        G = transfer(systems, at)
        if G.shape[2:] == (1, 1):
            return np.abs(G[..., 0, 0])
        if G.shape[2:] == (2, 2):  # half the sum of squares, and the root that separates the two
            total = np.sum(np.abs(G) ** 2, axis=(2, 3)) / 2
            product = np.abs(G[..., 0, 0] * G[..., 1, 1] - G[..., 0, 1] * G[..., 1, 0])
            return np.sqrt(total + np.sqrt(np.maximum((total - product) * (total + product), 0)))
        return np.linalg.norm(G, 2, axis=(2, 3))

    found = gains(angles)
    padded = np.pad(found, ((0, 0), (1, 1)))
    peaks = np.where((found >= padded[:, :-2]) & (found >= padded[:, 2:]), found, 0)
    best = np.argsort(-peaks, axis=1)[:, :5]
    # Poles of both systems may lie next to each other, and on the real axis points fall on their mirror images.
    low, high = (np.take_along_axis(angles, np.clip(best + k, 0, angles.shape[1] - 1), 1) for k in (-6, 6))
    reached, at = found.max(1), np.take_along_axis(angles, found.argmax(1)[:, None], 1)[:, 0]
    for _ in range(10):
        fine = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, 13)
        values = gains(fine.reshape(len(poles), -1)).reshape(fine.shape)
        top = values.argmax(2)
        low, high = (np.take_along_axis(fine, np.clip(top + k, 0, 12)[..., None], 2)[..., 0] for k in (-1, 1))
        flat, most = values.reshape(len(poles), -1), values.reshape(len(poles), -1).argmax(1)[:, None]
        better = np.take_along_axis(flat, most, 1)[:, 0] > reached
        at = np.where(better, np.take_along_axis(fine.reshape(len(poles), -1), most, 1)[:, 0], at)
        reached = np.maximum(reached, flat.max(1))
    return reached, at
