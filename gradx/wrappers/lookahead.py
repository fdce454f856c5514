"""Slow parameters behind fast ones (Zhang et al. 2019, arXiv:1907.08610)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradx.core.apply import apply_updates
from gradx.core.factory import factory
from gradx.core.foreign import observe_of, typed_like, wrapper
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FRACTION, declare_ranges, positive_integer
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import State, Tree
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import copy_slot

__all__ = ["LookaheadState", "lookahead"]

declare_ranges(slow_step_size=FRACTION)


class SlowState(NamedTuple):
    """The slow parameters."""

    slow_params: Tree


class LookaheadState(NamedTuple):
    """The slow parameters, with the step count, and the fast optimizer's state."""

    slow_state: State
    fast_state: State

    @property
    def slow_params(self) -> Tree:
        """The parameters to evaluate."""
        return self.slow_state.inner_state.slow_params


@factory
def lookahead(
    fast_optimizer: optax.GradientTransformation,
    sync_period: int = 6,
    slow_step_size: ScalarOrSchedule = 0.5,
    reset_state: bool = False,
) -> GradientTransformation:
    """Follow a fast optimizer, and every few steps go back, to a part of its way.

        u = fast_optimizer(g)
        at every sync_period-th step:  slow = slow + slow_step_size * (p + u - slow),  u = slow - p

    Arguments:
      fast_optimizer: any optimizer; a whole one, with its learning rate.
      sync_period: how many steps the fast optimizer takes at a time, at least 1.
      slow_step_size: the part of the way that is kept, between 0 and 1.
      reset_state: start the fast optimizer's state anew after each of these steps.

    `params` are the fast parameters, a plain tree; the slow ones are in the state, in float32 or better. No
    later link may change the updates. Raises ValueError if `update` is called without parameters.
    """
    positive_integer("lookahead", sync_period=sync_period)
    fast_observe = observe_of("the fast optimizer of lookahead", fast_optimizer)

    def syncs(count):
        return jnp.where(count % sync_period == sync_period - 1, 1.0, 0.0)

    def rule(g, p, slow_params, slow_step_size, sync):
        slow = slow_params + slow_step_size * (p + g - slow_params)
        return jnp.where(sync == 1, slow - p, g), jnp.where(sync == 1, slow, slow_params)

    start = {"slow_params": copy_slot()}
    slow = leafwise(SlowState, rule, slots=start, slow_step_size=slow_step_size, sync=syncs)

    def init(params):
        pair = params if isinstance(params, optax.LookaheadParams) else optax.LookaheadParams(params, params)
        return LookaheadState(slow.init(pair.slow), fast_optimizer.init(pair.fast))

    def observe(updates, state, params=None, **extra):
        check_state("lookahead", LookaheadState, state)
        if isinstance(params, optax.LookaheadParams):  # as Optax has it: the slow ones are parameters too
            updates, new, reports = observe(updates, state, params.fast, **extra)
            slow_updates = jax.tree.map(jnp.subtract, new.slow_params, params.slow)
            return optax.LookaheadParams(updates, slow_updates), new, reports
        updates, fast, reports = fast_observe(updates, state.fast_state, params, **extra)
        updates, slow_state, _ = slow.observe(updates, state.slow_state, params)
        if reset_state:
            sync = syncs(state.slow_state.count) == 1
            fresh = fast_optimizer.init(apply_updates(params, updates))
            fast = jax.tree.map(lambda new, old: jnp.where(sync, new, old), typed_like(fresh, fast), fast)
        return updates, LookaheadState(slow_state, fast), reports

    return wrapper(fast_optimizer, init, observe)
