"""`lqo`: reduction of layers as linear systems with quadratic outputs, the nonlinearity behind them included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from s5c.errors import UserError, bounded, unknown
from s5c.reduction.bound import amplifications, bound_weights
from s5c.reduction.contract import Fitted, ReducedLayer
from s5c.reduction.descent import OPTIMISERS
from s5c.reduction.energy import taps
from s5c.reduction.layer import Layer, check_finite, check_steps
from s5c.reduction.quadratic import COEFFICIENTS, for_balancing, lqo, relative_error, white
from s5c.reduction.quadratic_descent import descend
from s5c.reduction.quadratic_elimination import best_outputs, eliminate
from s5c.reduction.removal import marginal_gains
from s5c.reduction.slots import padded
from s5c.reduction.truncation import EMPTY, realise, truncate
from s5c.ssm.modal import ModalSystem, from_ssm, to_ssm
from s5c.ssm.system import DiagonalSSM
from s5c.types import Complex, Float, Int

LAYER_WEIGHTS = ("none", "bound", "reversed")
SHARED = ("squared", "error", "relative")


@dataclasses.dataclass(frozen=True)
class Method:
    """Minimises the h2 error of every layer's LQO form over poles, inputs, outputs and feedthrough.

        ||S - S_r||^2 = sum_k ||h1(k) - h1_r(k)||^2 + weight sum_kl ||h2(k, l) - h2_r(k, l)||^2

    with h1, h2 the first two kernels from white noise behind the normalisation to the output of the gate
    (`s5c.reduction.quadratic`); the gate stays. Backward elimination of states gives the error at every order, which
    the budget is shared out by, and a start; balanced truncation of the LQO form gives another. From the better one
    the error descends, |a| = exp(-exp(nu)) keeping every pole stable. Needs layers with one system of many inputs (S5).

    The upper bound of the network's output error is a weighted sum of these layerwise errors, sum w_l ||S_l - S_r,l||,
    so that minimising it at given orders is layerwise, and its weights matter to the allocation alone. That is the
    paper's second idea: errors of early layers weigh more. `allocation: global` follows it, or a variant of it
    (`shared`); `normalised` does not see a layer's scale, and with it the weights change nothing.

    Attributes:
        coefficients: coefficients of the gate's quadratic form: `statistical` at the amplitude and mean that white
            noise gives, `taylor` at zero.
        quadratic: weight of the quadratic part: 1 is the h2 norm, 2 the variance under Gaussian noise, 0 the linear
            part behind the gate's mean slope alone.
        horizon: `sequence`: as many lags as the sequences have steps; `infinite` needs stable poles.
        layer_weights: `none`; `bound`, the ratios of the deep bound in the mean square (`s5c.reduction.bound`), which
            rise towards the input; `reversed`, the same the other way round.
        sensitivity: one positive number per layer in place of them, such as the measured effect of its error.
        shared: what is made small in the sum over the layers by sharing out the budget: `error`, w ||S - S_r||, the
            terms of the bound; `squared`, their squares; `relative`, w ||S - S_r|| / ||S||, ours.
        optimiser: `lbfgs` or `adam`.
        steps: most evaluations of the error per layer; 0 keeps the start.

    Modes with |a| >= 1 are kept as they are and never scored.

    Source: Sakamoto and Sato (arXiv 2510.14542). Their constants, start, optimiser and allocation are not known to us:
    the form of the gates, the elimination and the weights are ours, and no figure of theirs is reproduced here.
    """

    SHARING: ClassVar[tuple[str, ...]] = ("shared",)
    searches: ClassVar[bool] = True
    mixes_channels: ClassVar[bool] = True  # as the gate does

    coefficients: str = "statistical"
    quadratic: float = bounded(1.0, least=0)
    horizon: str = "sequence"
    layer_weights: str = "none"
    shared: str = "squared"
    sensitivity: tuple[float, ...] | None = bounded(None, above=0)
    optimiser: str = "lbfgs"
    steps: int = bounded(300, least=0)

    def __post_init__(self) -> None:
        choices = {
            "coefficients": COEFFICIENTS,
            "horizon": ("infinite", "sequence"),
            "layer_weights": LAYER_WEIGHTS,
            "shared": SHARED,
            "optimiser": OPTIMISERS,
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise unknown(f"value for reduction.{key}", getattr(self, key), allowed)
        if self.quadratic < 0 or self.steps < 0:
            raise UserError(
                f"reduction.quadratic={self.quadratic:g}, reduction.steps={self.steps}: neither may be negative; the "
                "h2 norm has quadratic=1, and steps=0 stops at the start of the descent."
            )
        if self.sensitivity is not None:  # a list when it comes from YAML, and methods are hashed
            object.__setattr__(self, "sensitivity", tuple(float(x) for x in self.sensitivity))

    def idle(self, weighed: bool) -> tuple[str, ...]:
        """Returns the options that change nothing as the others are set."""
        unused = () if weighed else ("layer_weights", "sensitivity")
        superseded = () if self.sensitivity is None else ("layer_weights",)
        return (*unused, *superseded, *(() if self.steps else ("optimiser",)))

    def fit(self, layers: Sequence[Layer], seed: int) -> Fitted:
        """Eliminates the states of every layer, one by one.

        Raises:
            UserError: a parameter is not finite, or a step not positive.
        """
        check_finite(layers)
        check_steps(layers)
        return Curves(self, layers)


class Curves:
    """The error of every layer at every order, and the systems on request.

    Attributes:
        scores: as in `Fitted`.
        errors: per layer, relative h2 error of the LQO form with 0, ..., p slots left by the elimination.
        weights: one per layer.
    """

    def __init__(self, method: Method, layers: Sequence[Layer]) -> None:
        self._searches = []
        with jax.enable_x64(True):
            for i, layer in enumerate(layers):
                try:
                    self._searches.append(_Search(method, layer))
                except UserError as error:
                    raise UserError(f"Layer {i}: {error}") from error
            self.weights = self._weights(method)
        self.errors = [search.errors for search in self._searches]
        self.scores = [search.scores(weight) for search, weight in zip(self._searches, self.weights, strict=True)]

    def reduce(self, orders: Sequence[Int[np.ndarray, "*channels"]]) -> list[ReducedLayer]:
        """Searches every layer at its order."""
        with jax.enable_x64(True):
            return [search.reduced(int(order)) for search, order in zip(self._searches, orders, strict=True)]

    def errors_of(self, reduced: Sequence[DiagonalSSM]) -> list[float]:
        """Returns the relative h2 errors of the LQO forms with these systems, on the method's horizon and weight.

        Args:
            reduced: one per layer, double precision, of at most as many states.
        """
        with jax.enable_x64(True):
            return [search.error(system) for search, system in zip(self._searches, reduced, strict=True)]

    def _weights(self, method: Method) -> Float[np.ndarray, "layers"]:
        count = len(self._searches)
        if method.sensitivity is not None:
            if len(method.sensitivity) != count or min(method.sensitivity) <= 0:
                raise UserError(
                    f"reduction.sensitivity={list(method.sensitivity)}: one positive number for each of the {count} "
                    "layers is needed."
                )
            return np.asarray(method.sensitivity)
        if method.layer_weights == "none":
            return np.ones(count)
        first = self._searches[0]
        kappa = amplifications(
            [s.layer for s in self._searches], [s.full for s in self._searches], horizon=first.horizon
        )
        weights = np.asarray(bound_weights(kappa))
        return weights if method.layer_weights == "bound" else weights[::-1]


class _Search:
    """One layer: its LQO form, both starts at every order, and the descent from the better one."""

    def __init__(self, method: Method, layer: Layer) -> None:
        self.layer, self._method = layer, method
        self.horizon = taps(method.horizon, layer)
        self.full = lqo(layer, coefficients=method.coefficients, horizon=self.horizon)
        self._plain = from_ssm(layer.system)
        self._unstable = np.asarray(self._plain.log_a.real) >= 0
        if self.horizon is None and self._unstable.any():
            raise UserError(
                f"{self._unstable.sum()} poles are not stable, the first in state {np.argmax(self._unstable)}: over an "
                "infinite horizon their energy is infinite. Choose reduction.horizon=sequence."
            )
        self._options = {"horizon": self.horizon, "weight": method.quadratic}
        self._eliminated = eliminate(self.full, jnp.asarray(self._unstable), **self._options)
        self._balanced = realise(
            ModalSystem(*map(np.asarray, for_balancing(self.full, **self._options))),
            horizon=self.horizon,
            unstable="keep",
        )
        gate = layer.gate
        self._gain = jnp.ones(layer.system.D.shape) if gate is None or gate.gain is None else gate.gain

    @property
    def errors(self) -> Float[np.ndarray, "orders"]:
        """Relative error with 0, ..., p slots left."""
        squared, norm = self._eliminated.errors, float(self._eliminated.squared_norm)
        return np.sqrt(np.maximum(np.asarray(squared), 0) / (norm if norm > 0 else 1))

    def scores(self, weight: float) -> Float[np.ndarray, "p"]:
        """Returns what each slot takes off the weighted error; infinite for unstable ones, which come first."""
        squared, norm = np.asarray(self._eliminated.errors), float(self._eliminated.squared_norm)
        if self._method.shared == "squared":
            gains = weight**2 * marginal_gains(squared)
        elif self._method.shared == "error":
            gains = weight * np.sqrt(norm) * marginal_gains(self.errors)
        else:
            gains = weight * marginal_gains(self.errors)
        return np.where(np.arange(len(gains)) < self._unstable.sum(), np.inf, gains)

    def reduced(self, order: int) -> ReducedLayer:
        """Returns the layer at an order; at full order as it is."""
        if order == self.layer.slots:
            return ReducedLayer(self.layer.system)
        slots = self._eliminated.kept(order)
        balanced = truncate(self._balanced, order).system
        starts = [
            self._completed(np.asarray(self._plain.log_a)[slots], np.asarray(self._plain.B)[slots]),
            # An input of gain 0 has no energy, and B = 0 in what is balanced.
            self._completed(balanced.log_a, balanced.B / np.where(self._gain == 0, 1, self._gain)),
        ]
        best = starts[int(np.nanargmin([self._error(start) for start in starts]))]
        if self._method.steps:
            found = descend(
                self.full, best, self._gain,
                steps=self._method.steps, optimiser=self._method.optimiser, **self._options,
            )  # fmt: skip
            best = found[0]
        return ReducedLayer(self._written(best, order))

    def _completed(self, log_a: Complex[np.ndarray, "r"], B: Complex[np.ndarray, "r h"]) -> ModalSystem:
        """Returns the layer of these poles and inputs with the best outputs, in as many slots as the full one has."""
        missing = self.layer.slots - len(log_a)
        poles = jnp.asarray(np.pad(log_a, (0, missing), constant_values=EMPTY))
        inputs = jnp.asarray(np.pad(B, ((0, missing), (0, 0))))
        C = best_outputs(self.full.linear, poles, inputs * self._gain, horizon=self.horizon)
        return ModalSystem(poles, inputs, C, self._plain.D)

    def _error(self, system: ModalSystem) -> float:
        assert self.layer.gate is not None
        return float(relative_error(self.full, white(system, self.layer.gate), **self._options))

    def error(self, reduced: DiagonalSSM) -> float:
        """Returns the relative error of a system in the layer's place."""
        return self._error(from_ssm(padded(reduced, self.layer.slots)))

    def _written(self, system: ModalSystem, order: int) -> DiagonalSSM:
        """Returns the layer of the slots in use, with the original's median step size."""
        original = self.layer.system
        log_a, B, C, D = system
        written = to_ssm(
            ModalSystem(log_a[:order], B[:order], C[:, :order], D),
            jnp.full(order, jnp.median(original.Delta)),
            bidirectional=original.C_backward is not None,
            discretisation=original.discretisation,
        )
        return dataclasses.replace(written, bias=original.bias)
