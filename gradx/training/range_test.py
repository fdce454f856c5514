"""The learning rate range test (Smith 2017, arXiv:1506.01186)."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from gradx.core.apply import apply_updates
from gradx.core.foreign import observe_of
from gradx.core.hyperparameters import following_schedules
from gradx.core.ranges import DECAY, FINITE, POSITIVE, Range, check_number, declare_ranges, positive_integer
from gradx.core.tree import Tree
from gradx.numerics.moving_average import lerp
from gradx.training.rates import of_rate, with_hyperparams

__all__ = ["RangeTest", "lr_range_test"]

DIVERGENCE = Range(lambda x: x > 1, "more than 1")
declare_ranges(min_lr=POSITIVE, max_lr=FINITE, smoothing=DECAY, divergence=DIVERGENCE)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RangeTest:
    """The result of `lr_range_test`: NumPy arrays with an element for each step that it took.

    `diverged` says whether it stopped because the loss diverged. `steepest` is the rate before the minimum at
    which the smoothed loss falls fastest, and `minimum_tenth` is a tenth of the rate at the minimum.
    `suggestion`, a peak learning rate to begin with, is the smaller of the two.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    diverged: bool

    @property
    def steepest(self) -> float:
        least = int(np.argmin(self.smoothed))
        first = min(len(self.smoothed) // 10, max(least - 1, 0))  # the mean of a few losses has no slope yet
        falls = np.diff(self.smoothed[first : least + 1])  # at equal ratios of the rate
        return float(self.learning_rates[first + np.argmin(falls) if len(falls) else 0])

    @property
    def minimum_tenth(self) -> float:
        return float(self.learning_rates[np.argmin(self.smoothed)] / 10)

    @property
    def suggestion(self) -> float:
        return min(self.steepest, self.minimum_tenth)

    def __repr__(self) -> str:
        rates = self.learning_rates
        end = "diverged" if self.diverged else "did not diverge: try a larger max_lr"
        return (
            f"RangeTest: suggestion {self.suggestion:.2g}, steepest {self.steepest:.2g}, minimum / 10 "
            f"{self.minimum_tenth:.2g}; {len(rates)} steps from {rates[0]:.2g} to {rates[-1]:.2g}, {end}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses against the rate, as `gradx.plot.plot_range_test` does; returns Matplotlib's axes.

        Arguments:
          ax: the axes to draw into; new ones if not given.
        """
        from gradx.plot.range_test import plot_range_test

        return plot_range_test(self, ax)


def lr_range_test(
    loss_fn: Callable[..., Any],
    tx: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation],
    params: Tree,
    batches: Any,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    *,
    smoothing: float = 0.95,
    divergence: float = 4.0,
    has_aux: bool = False,
) -> RangeTest:
    """Train for some steps at a learning rate that grows exponentially, to see which rates are of use.

        rate     = min_lr * (max_lr / min_lr) ** (i / (steps - 1))             at step i, 0 first
        smoothed = Σ smoothing^(i - j) * loss_j / Σ smoothing^(i - j)          over the steps j up to i
        stops at   smoothed > least smoothed + (divergence - 1) * |least smoothed|, or a loss not finite

    It is one compiled loop that ends where the loss diverges. The parameters stay as they are, and no state
    is kept. The loss of a rate is the loss before its update, as in fastai's `lr_find`. The returned
    `RangeTest` has the rates, the losses, suggestions, and a plot.

    Arguments:
      loss_fn: `loss_fn(params, batch)` gives a real number.
      tx: a function of the learning rate, such as `gradx.adamw` or `lambda rate: gradx.chain(...)`. Or a
        transformation of gradx, whose learning rate is replaced, wherever in it that is.
      params: where to start.
      batches: a tree of arrays with the batches along their first axes, repeated if too few; or an iterator,
        of which the first `steps` batches are taken and stacked.
      min_lr: the first rate, more than 0.
      max_lr: the last rate, more than min_lr.
      steps: at least 2.
      smoothing: the share of the mean of the losses that stays at a step, at least 0 and less than 1.
      divergence: how many times as high as its minimum the smoothed loss may become, more than 1.
      has_aux: loss_fn gives (loss, anything).

    Raises ValueError for a `tx` without a visible learning rate, or with several, and if the loss is not
    finite at the start; TypeError for a loss that is not a real number.

    >>> import gradx, jax.numpy as jnp
    >>> loss = lambda x, batch: 1 + jnp.sum((x - batch) ** 2)  # beyond a rate of 1, steps overshoot by more
    >>> gradx.lr_range_test(loss, gradx.sgd(0.1), jnp.ones(2), jnp.array([-0.1, 0.1]), min_lr=1e-4)
    RangeTest: suggestion 0.042, steepest 0.042, minimum / 10 0.087; 85 steps from 0.0001 to 1.7, diverged
    """
    owner = "lr_range_test"
    check_number(owner, min_lr=min_lr, max_lr=max_lr, smoothing=smoothing, divergence=divergence)
    positive_integer(owner, steps=steps)
    if steps < 2:
        raise ValueError(f"{owner}: steps must be at least 2, got {steps}")
    if max_lr <= min_lr:
        raise ValueError(f"{owner}: max_lr must be more than min_lr, got {max_lr} and {min_lr}")
    make = of_rate(owner, tx)
    batches = stacked(batches, steps)
    check_loss(loss_fn, has_aux, params, batches)
    rates = np.geomspace(min_lr, max_lr, steps)
    last = run(loss_fn, has_aux, make, params, batches, jnp.asarray(rates, float), smoothing, divergence)
    n = int(jnp.sum(jnp.isfinite(last.losses)))
    if n < 2:
        where = "at the parameters given" if n == 0 else f"after a step at {min_lr:g}"
        raise ValueError(f"{owner}: the loss is not finite {where}")
    return RangeTest(
        rates[:n], np.asarray(last.losses[:n]), np.asarray(last.smoothed[:n]), bool(last.diverged)
    )


class Loop(NamedTuple):
    """The values that one step hands to the next."""

    step: jax.Array
    params: Tree
    state: Any
    mean: jax.Array  # of the losses, and of the zero that it starts at
    weight: jax.Array  # of the losses in it
    least: jax.Array
    diverged: jax.Array
    losses: jax.Array
    smoothed: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def run(
    loss_fn: Callable,
    has_aux: bool,
    make: Callable[[Any], Any],
    params: Tree,
    batches: Any,
    rates: jax.Array,
    smoothing: jax.Array,
    divergence: jax.Array,
) -> Loop:
    """The loop, compiled."""
    count = len(jax.tree.leaves(batches)[0])

    def at_rate(rate):
        with following_schedules(True):
            return make(rate)

    def value_of(params, batch):
        return loss_fn(params, batch)[0] if has_aux else loss_fn(params, batch)

    def step(loop):
        batch = jax.tree.map(lambda x: x[loop.step % count], batches)
        value_fn = functools.partial(value_of, batch=batch)
        value, grads = jax.value_and_grad(value_fn)(loop.params)
        tx = at_rate(rates[loop.step])
        state = with_hyperparams(loop.state, tx.init(loop.params))
        at_params = {"value": value, "grad": grads, "value_fn": value_fn}
        observe = observe_of("tx of lr_range_test", tx)
        updates, state, _ = observe(grads, state, loop.params, **at_params)
        loss = value.astype(rates.dtype)
        mean = lerp(loss, loop.mean, smoothing)
        weight = lerp(jnp.ones_like(loss), loop.weight, smoothing)
        smoothed = mean / weight
        least = jnp.minimum(loop.least, smoothed)
        limit = least + (divergence - 1) * jnp.abs(least)  # because a loss may be negative
        return Loop(
            loop.step + 1,
            apply_updates(loop.params, updates),
            state,
            mean,
            weight,
            least,
            (smoothed > limit) | ~jnp.isfinite(loss),
            loop.losses.at[loop.step].set(loss),
            loop.smoothed.at[loop.step].set(smoothed),
        )

    zero, nothing = jnp.zeros((), rates.dtype), jnp.full_like(rates, jnp.nan)
    params = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), params)  # not weakly typed
    state = at_rate(rates[0]).init(params)
    start = Loop(jnp.int32(0), params, state, zero, zero, zero + jnp.inf, jnp.array(False), nothing, nothing)
    return jax.lax.while_loop(lambda loop: (loop.step < len(rates)) & ~loop.diverged, step, start)


def stacked(batches: Any, steps: int) -> Any:
    """Batches along the first axes of arrays, from an iterator too."""
    if isinstance(batches, Iterator):
        batches = list(itertools.islice(batches, steps))
        batches = jax.tree.map(lambda *x: jnp.stack(x), *batches) if batches else batches
    counts = {keystr(path): jnp.shape(x)[:1] for path, x in tree_leaves_with_path(batches)}
    if len(set(counts.values())) != 1 or not all(n and n[0] for n in counts.values()):
        raise ValueError(
            "lr_range_test: batches must be a tree of arrays with the batches along their first axes, at "
            f"least one and as many in each, got axes of {counts}"
        )
    return batches


def check_loss(loss_fn: Callable, has_aux: bool, params: Tree, batches: Any) -> None:
    """Raise unless the loss is one real number."""
    out: Any = jax.eval_shape(lambda p, b: loss_fn(p, jax.tree.map(lambda x: x[0], b)), params, batches)
    loss = out[0] if has_aux and isinstance(out, tuple) else out
    if not hasattr(loss, "dtype") or not jnp.issubdtype(loss.dtype, jnp.floating) or loss.shape:
        raise TypeError(
            "lr_range_test: loss_fn must give one real number, or (number, anything) with has_aux=True, and "
            f"gave {out}"
        )
