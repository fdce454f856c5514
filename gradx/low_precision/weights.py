"""Parameters in 16 bits that lose nothing, or nothing on average: the last link of a chain.

Each link computes a wanted parameter, and emits `wanted - p` in float32: adding that to `p` and rounding the
sum gives exactly the wanted parameter. It can also give the wanted parameter itself, to `step`. A parameter
in float32 or better needs no help: its update passes unchanged, and its slot is the empty tuple.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradx.core.factory import factory
from gradx.core.foreign import widened
from gradx.core.transformation import GradientTransformation, Init, Observe, check_state
from gradx.core.tree import State, Tree, aligned, flatten, is_missing
from gradx.engine.leaf_checks import params_of, present, promotion
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import copy_slot, zero_slot
from gradx.numerics.arrays import increment, zeros_beside
from gradx.numerics.rounding import Salt, exact, half_step, on_grid, random_bits, raw_key, salts
from gradx.transforms.noise import check_key, new_key

__all__ = [
    "KahanState",
    "MasterWeightsState",
    "SplitWeightsState",
    "StochasticRoundingState",
    "kahan",
    "master_weights",
    "split_weights",
    "stochastic_rounding",
]


class StochasticRoundingState(NamedTuple):
    """The number of steps taken, and the raw key of their random bits."""

    steps: jax.Array  # not `count`, which tools look for in the state of an optimizer, and find once
    rng_key: jax.Array


class KahanState(NamedTuple):
    """The rounding errors of the parameters, in bfloat16; () for parameters in float32 or better."""

    compensation: Tree


class SplitWeightsState(NamedTuple):
    """The rounding errors in 256ths of the distance between neighbours of a parameter, as int8."""

    correction: Tree


class MasterWeightsState(NamedTuple):
    """The parameters in float32 or better; () for those that are already in it."""

    master: Tree


@factory
def stochastic_rounding(key: jax.Array | int | None = None) -> GradientTransformation:
    """Round the parameters by chance, so that small steps are taken on average; the last link of a chain.

        p = the lower or the upper neighbour of p + g in its dtype, with p + g as the mean

    Steps of 0.001 cannot change a bf16 parameter of 1, because its neighbours are 0.004 away; with rounding
    by chance, one such step in four changes it. It takes no memory. A sum that needs no rounding is not
    rounded.

    Arguments:
      key: a `jax.random.key`, a raw key (uint32), or an integer that makes a key.

    The chances depend on the key, the step, the parameter and the element's place in it, but not on how jit
    shards it; within `shard_map`, which sees one shard, all shards draw the same. Parameters in float32 or
    better pass. Raises TypeError without a key, ValueError if `update` is called without parameters.
    """
    if key is None:
        raise TypeError("stochastic_rounding: give a key, say key=0 or key=jax.random.key(0)")
    check_key("stochastic_rounding", key)

    def init(params):
        present(*flatten(params), "stochastic_rounding")
        return StochasticRoundingState(jnp.zeros((), jnp.int32), raw_key(new_key(key)))

    def with_(emit):
        def observe(updates, state, params=None, **extra):
            check_state("stochastic_rounding", StochasticRoundingState, state)
            if params is None:
                raise ValueError(
                    "stochastic_rounding needs the parameters: call update(updates, state, params)"
                )
            leaves, treedef = flatten(updates)
            gs = present(leaves, treedef, "stochastic_rounding")
            ps = params_of(gs, params, treedef, "stochastic_rounding")
            salted = salts(state.rng_key, state.steps, len(gs))
            for (i, g), salt in zip(gs.items(), salted, strict=True):
                leaves[i] = by_chance(emit, g, ps[i], salt)
            new = StochasticRoundingState(increment(state.steps), state.rng_key)
            return treedef.unflatten(leaves), new, ()

        return observe

    return stepping(init, with_(UPDATE), with_(PARAMETER), exact)


@functools.partial(jax.jit, static_argnums=0)  # traced once for all leaves of a shape
def by_chance(emit: "Emit", g: jax.Array, p: jax.Array, salt: Salt) -> jax.Array:
    g, wide = widened((g, p))
    with promotion((g, wide)):
        if is_wide(p.dtype):
            return emit.sum(wide, g)
        w = wide + real(g)
        return emit.rounded(wide, w, on_grid(w, p.dtype, random_bits(salt, p)))


@factory
def kahan() -> GradientTransformation:
    """Keep the rounding error of each step, and add it to the next step; the last link of a chain.

        w            = p + compensation + g
        p            = w in its dtype
        compensation = w - p in bfloat16

    Kahan's summation (Zamirai et al. 2020, arXiv:2010.06192): for 2 bytes a parameter, a bf16 one has 17
    significant bits in place of 8. A parameter that was changed from outside goes on from there; the old
    compensation is too small to matter. Parameters in float32 or better pass. Raises ValueError if `update`
    is called without parameters.

    >>> import gradx, jax.numpy as jnp
    >>> p = jnp.ones((), jnp.bfloat16)
    >>> tx = gradx.chain(gradx.sgd(0.001), gradx.kahan())
    >>> state = tx.init(p)
    >>> for _ in range(100):  # bf16 alone would round each of these steps away
    ...     updates, state = tx.update(jnp.ones(()), state, p)
    ...     p = gradx.apply_updates(p, updates)
    >>> round(float(p), 2)
    0.9
    """

    def rule(g, p, compensation, dtype):
        w, new, rest = split(p + compensation, g, dtype)
        most = half_step(new, dtype) * (1 - 2**-8)  # exactly half a step might round away from p
        return w, new, jnp.clip(rest, -most, most)

    start = zero_slot(jnp.bfloat16)
    return lifted(KahanState, rule, lambda p: () if is_wide(p.dtype) else start(p))


@factory
def split_weights() -> GradientTransformation:
    """Keep 8 more bits of each parameter in the state; the last link of a chain.

        w          = p + correction * h + g      with h = ulp(p) / 256
        p          = w in its dtype
        correction = round((w - p) / h) in int8, at most 127, with the new h

    For one byte a parameter, a bf16 one has 16 significant bits in place of 8: weights of 24 bits in 3 bytes
    (FlashOptim, 2026, arXiv:2602.23349, has 254 in place of 256: there 127 is a tie, and an update of 0 might
    change the parameter). A parameter that was changed from outside goes on from there; the old correction is
    too small to matter. Parameters in float32 or better pass. Raises ValueError if `update` is called without
    parameters.
    """

    def rule(g, p, correction, dtype):
        unit = lambda p: half_step(p, dtype) * 2**-7
        w, new, rest = split(p + correction.astype(p.dtype) * unit(p), g, dtype)
        return w, new, jnp.clip(jnp.round(rest / unit(new)), -127, 127)

    start = lambda p: () if is_wide(p.dtype) else zeros_beside(p, jnp.int8)
    return lifted(SplitWeightsState, rule, start)


@factory
def master_weights(dtype: DTypeLike = jnp.float32) -> GradientTransformation:
    """Add the updates to a float32 copy, and round it to get the parameters; the last link of a chain.

        master = master + g
        p      = master in its dtype

    Change the parameters by these updates only: the next step undoes any other change.

    Arguments:
      dtype: the dtype of the copy: float32, or float64 (enable it in JAX). Parameters in it or better pass.

    Raises ValueError for another dtype, or if `update` is called without parameters.
    """
    bits = {jnp.dtype("float32"): 32, jnp.dtype("float64"): 64}.get(jnp.dtype(dtype))
    if bits is None:
        raise ValueError(f"master_weights: dtype must be float32 or float64, got {jnp.dtype(dtype)}")

    def start(p):
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(
                "master_weights: float64 is not enabled in JAX: set jax_enable_x64, or take dtype=float32"
            )
        return () if is_wide(p.dtype, bits) else copy_slot(dtype)(p)

    def rule(g, p, master, dtype):
        master = master + real(g).astype(master.dtype)
        return master, on_grid(master, dtype), master

    return lifted(MasterWeightsState, rule, start)


def is_wide(dtype: DTypeLike, bits: int = 32) -> bool:
    """Whether a dtype has at least so many bits; for a complex one, the dtype of its parts."""
    return jnp.finfo(dtype).bits >= bits


def split(full: jax.Array, g: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`full + g`, the nearest to it in `dtype`, and the rest."""
    w = full + real(g).astype(full.dtype)
    new = on_grid(w, dtype)
    rest = w - new
    return w, new, jnp.where(jnp.isfinite(rest), rest, 0.0)


class Emit(NamedTuple):
    """The result for a parameter: `sum(p, g)` if it is wide, else `rounded(p, w, w rounded)`."""

    sum: Callable[..., jax.Array]
    rounded: Callable[..., jax.Array]


def toward(p: jax.Array, w: jax.Array, new: jax.Array) -> jax.Array:
    """The update from `p` to `new`, which is `w` rounded; not finite where `w` is not.

    It is -0 where `p` is `new` already: 0 would change a parameter of -0 to 0.
    """
    is_finite = jnp.isfinite(w)
    return jnp.where(is_finite & (new != p), new - p, jnp.where(is_finite, -0.0, w))


def itself(p: jax.Array, w: jax.Array, new: jax.Array) -> jax.Array:
    """`new`, which is `w` rounded; NaN where `w` is NaN, as `new` means nothing there."""
    return jnp.where(jnp.isnan(w), w, new)


UPDATE = Emit(lambda p, g: g, toward)
PARAMETER = Emit(lambda p, g: p + (g if jnp.iscomplexobj(p) else real(g)), itself)


def lifted(State: type, rule: Callable, start: Callable) -> GradientTransformation:
    """A link from a rule that returns the wanted parameter, its rounded value, and its one slot.

    The rule does not run on a parameter without a slot, for which `start` gives ().
    """

    def with_(emit: Emit) -> GradientTransformation:
        @functools.wraps(rule)
        def emitted(g, p, dtype, **slot):
            if not jax.tree.leaves(slot):
                return emit.sum(p, g), ()
            w, new, kept = rule(g=g, p=p, dtype=dtype, **slot)
            return emit.rounded(p, w, new), kept

        return leafwise(State, emitted, slots=dict.fromkeys(State._fields, start))

    to_update, to_parameter = with_(UPDATE), with_(PARAMETER)
    # `exact` would keep a TPU's compiler from making this one kernel.
    return stepping(to_update.init, to_update.observe, to_parameter.observe, jnp.astype)


def stepping(init: Init, observe: Observe, parameters: Observe, narrow: Callable) -> GradientTransformation:
    """A link that can take the step: `parameters` gives new parameters, which `narrow` casts."""

    def step(updates: Tree, state: State, params: Tree, **extra: Any) -> tuple[Tree, State]:
        new, state, _ = parameters(updates, state, params, **extra)
        ps, treedef = flatten(params)
        for i, x in enumerate(aligned(treedef, new, ("the parameters", "the updates"))):
            if not is_missing(ps[i]) and not is_missing(x):
                ps[i] = narrow(x, ps[i].dtype)
        return treedef.unflatten(ps), state

    return GradientTransformation.of(init, observe, step=step, exact=True)


def real(g: jax.Array) -> jax.Array:
    """The update of a real parameter; an error if it is complex."""
    if jnp.iscomplexobj(g):
        raise TypeError("the update is complex, and its parameter is real")
    return g
