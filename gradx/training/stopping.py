"""When to stop, and the best parameters: a state for jit, scan and vmap."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core.arguments import scalar
from gradx.core.factory import Made, factory
from gradx.core.ranges import one_of
from gradx.core.transformation import HINT
from gradx.core.tree import Tree, aligned, flatten, is_missing
from gradx.engine.leaf_checks import Place, check_fit
from gradx.numerics.arrays import increment
from gradx.schedules.base import at_least

__all__ = ["EarlyStopping", "EarlyStoppingState", "early_stopping"]


class EarlyStoppingState(NamedTuple):
    """The state of `early_stopping`: scalars, and the best parameters."""

    step: jax.Array  # evaluations so far
    best: jax.Array
    best_step: jax.Array  # the evaluation that gave it, 0 the first; -1 before any was an improvement
    num_bad: jax.Array  # evaluations without improvement, in a row
    should_stop: jax.Array  # a bool
    best_params: Any  # None with keep_params=False


class EarlyStopping(Made):
    """Made by `early_stopping`: `init(params) -> state`, `update(state, value, params) -> state`."""

    def __init__(
        self,
        evaluate: Callable[[EarlyStoppingState, jax.Array], EarlyStoppingState],
        worst: float,
        keep: bool,
    ) -> None:
        self.evaluate = evaluate
        self.worst = worst
        self.keep = keep

    def init(self, params: Tree = None) -> EarlyStoppingState:
        """The state before the first evaluation; a copy of `params` is the best until then."""
        integer = lambda x: jnp.full((), x, jnp.int32)
        best_params = jax.tree.map(jnp.copy, self.given(params))
        worst = jnp.full((), self.worst, float)
        return EarlyStoppingState(
            integer(0), worst, integer(-1), integer(0), jnp.zeros((), bool), best_params
        )

    def update(self, state: EarlyStoppingState, value: Any, params: Tree = None) -> EarlyStoppingState:
        """The state after an evaluation of `params` that gave `value`; one that should stop stays."""
        old = state._replace(best_params=None)
        new = self.evaluate(old, scalar("early_stopping", "value", value, state.best.dtype))
        new = jax.tree.map(lambda n, o: jnp.where(state.should_stop, o, n), new, old)
        improved = new.best_step != old.best_step
        best, treedef = flatten(state.best_params)
        names = ("the best parameters", "the parameters given")
        for i, p in enumerate(aligned(treedef, self.given(params), names, HINT)):
            if not is_missing(best[i]):
                check_fit(best[i], p, "the parameter", Place("early_stopping", treedef, i))
                best[i] = jnp.where(improved, jnp.asarray(p, best[i].dtype), best[i])
        return new._replace(best_params=treedef.unflatten(best))

    def given(self, params: Tree) -> Tree:
        """The parameters, if they are kept."""
        if self.keep and params is None:
            raise TypeError(
                "early_stopping keeps the best parameters: call init(params) and update(state, value, params)"
                ", or make it with keep_params=False"
            )
        return params if self.keep else None


@factory
def early_stopping(
    patience: int, min_delta: float = 0.0, mode: str = "min", *, keep_params: bool = True
) -> EarlyStopping:
    """Stop after more than `patience` evaluations in a row that were no improvement, and keep the best.

        improved = value < best - min_delta     for mode "min"
                   value > best + min_delta     for mode "max"

    `init(params)` makes a state, `update(state, value, params)` the next one: pure functions, for `jit`,
    `scan`, `vmap` and donation. A state that says `should_stop` stays as it is, so a scan ends with the same
    state as a loop that breaks. `best_params` are the parameters of the best evaluation, in their own dtypes.
    A value of NaN is no improvement.

    Arguments:
      patience: how many evaluations without improvement are allowed, at least 0, counted as in
        `reduce_on_plateau`, torch's ReduceLROnPlateau and Flax. Keras and Lightning stop one evaluation
        sooner: to port their number, take one less.
      min_delta: the least improvement that counts, at least 0.
      mode: "min" if less is better, "max" if more is.
      keep_params: keep the best parameters, or any tree, such as parameters and batch statistics together;
        else `params` are not needed.

    >>> import gradx, jax.numpy as jnp
    >>> stopping = gradx.early_stopping(patience=1)
    >>> state = stopping.init(jnp.zeros(2))
    >>> for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.5, 0.5]):
    ...     state = stopping.update(state, loss, jnp.full(2, float(epoch)))
    ...     if state.should_stop:
    ...         break
    >>> epoch, float(state.best), int(state.best_step), state.best_params.tolist()
    (3, 1.0, 1, [1.0, 1.0])
    """
    owner = "early_stopping"
    at_least(owner, 0, patience=patience, min_delta=min_delta)
    one_of(owner, ("min", "max"), mode=mode)
    sign = 1 if mode == "min" else -1

    def evaluate(state, value):
        improved = sign * value < sign * state.best - min_delta
        num_bad = jnp.where(improved, 0, increment(state.num_bad))
        return state._replace(
            step=increment(state.step),
            best=jnp.where(improved, value, state.best),
            best_step=jnp.where(improved, state.step, state.best_step),
            num_bad=num_bad,
            should_stop=num_bad > patience,
        )

    return EarlyStopping(evaluate, sign * float("inf"), keep_params)
