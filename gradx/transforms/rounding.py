"""Parameters in 16 bit that lose nothing, or nothing on average: the last link of a chain.

Each emits, for the wanted parameter, `wanted - p` in float32, so that whatever adds updates to parameters and
rounds the sum makes it exactly that. A parameter in float32 or better needs none of it: its update passes as
it is, and its slot is the empty tuple.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradx.core import GradientTransformation, check_state, widened
from gradx.factory import factory
from gradx.leafwise import copy_slot, leafwise, zero_slot
from gradx.leaves import Place, beside, present, promotion
from gradx.numerics import increment
from gradx.rounding import half_step, on_grid, random_bits, salts
from gradx.transforms.noise import check_key, new_key
from gradx.tree import flatten

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
    """How many steps were taken, and the key that the random bits of all of them come from."""

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (Optax's name for it)
    rng_key: jax.Array


class KahanState(NamedTuple):
    """What the parameters lack to what they should be, in bfloat16; () for those that lack nothing."""

    compensation: Any


class SplitWeightsState(NamedTuple):
    """The same in 127ths of the most that it can be, int8."""

    correction: Any


class MasterWeightsState(NamedTuple):
    """The parameters in float32 or better; () for those that are that already."""

    master: Any


@factory
def stochastic_rounding(key: jax.Array | int | None = None) -> GradientTransformation:
    """Round the parameters by chance, so that small steps are taken on average; the last link of a chain.

        p = the lower or the upper neighbour of p + g in its dtype, with p + g as the mean

    A bf16 parameter of 1 cannot be changed by steps of 0.001, as its neighbours are 0.004 away; rounded by
    chance, it is changed by one such step in four. Takes no memory. What needs no rounding stays as it is.

    Arguments:
      key: a `jax.random.key`, a raw key (uint32), or an integer to make a key of.

    The chances depend on the key, the step, the parameter and the element's place in it, not on how jit shards
    it; within `shard_map`, which sees a shard alone, each shard draws the same. Parameters in float32 or
    better pass. Raises TypeError without a key, ValueError if `update` is called without parameters.
    """
    if key is None:
        raise TypeError("stochastic_rounding: give a key, say key=0 or key=jax.random.key(0)")
    check_key("stochastic_rounding", key)

    def init(params):
        present(*flatten(params), "stochastic_rounding")
        return StochasticRoundingState(jnp.zeros((), jnp.int32), new_key(key))

    def update(updates, state, params=None, **extra):
        check_state("stochastic_rounding", StochasticRoundingState, state)
        if params is None:
            raise ValueError("stochastic_rounding needs the parameters: call update(updates, state, params)")
        leaves, treedef = flatten(updates)
        gs = present(leaves, treedef, "stochastic_rounding")
        ps = beside(gs, params, treedef, "stochastic_rounding")
        salted = salts(state.rng_key, state.count, len(gs))
        for (i, g), salt in zip(gs.items(), salted, strict=True):
            leaves[i] = by_chance(g, ps[i], salt)
        return treedef.unflatten(leaves), StochasticRoundingState(increment(state.count), state.rng_key)

    return GradientTransformation(init, update)


@jax.jit  # traced once for all leaves of a shape
def by_chance(g: jax.Array, p: jax.Array, salt: jax.Array) -> jax.Array:
    g, wide = widened((g, p))
    if is_wide(p.dtype):
        return g
    check_real(g)
    with promotion((g, wide)):
        return toward(wide, on_grid(wide + g, p.dtype, random_bits(salt, p)))


@factory
def kahan() -> GradientTransformation:
    """Keep what rounding the parameters takes from each step for the next; the last link of a chain.

        w            = p + compensation + g
        p            = w in its dtype
        compensation = w - p in bfloat16

    Kahan's summation (Zamirai et al. 2020, arXiv:2010.06192): 2 bytes a parameter, with which a bf16 one has
    17 significant bits in place of 8. A parameter that was changed from outside goes on from there, with a
    compensation too small to matter. Parameters in float32 or better pass. Raises ValueError if `update` is
    called without parameters.
    """

    def rule(g, p, compensation, dtype):
        read = lambda p, compensation: p + compensation
        return with_rest(g, p, compensation, dtype, read, lambda rest, p: rest)

    start = zero_slot(jnp.bfloat16)
    return leafwise(KahanState, rule, slots={"compensation": lambda p: () if is_wide(p.dtype) else start(p)})


@factory
def split_weights() -> GradientTransformation:
    """Keep 8 more bits of the parameters, beside them; the last link of a chain.

        w          = p + correction * h + g      for h = ulp(p) / 2 / 127
        p          = w in its dtype
        correction = round((w - p) / h) in int8, for the new h

    One byte a parameter, with which a bf16 one has 16 significant bits in place of 8: weights of 24 bits in 3
    bytes (FlashOptim, 2026, arXiv:2602.23349). A parameter that was changed from outside goes on from there,
    with a correction too small to matter. Parameters in float32 or better pass. Raises ValueError if `update`
    is called without parameters.
    """

    def rule(g, p, correction, dtype):
        half = lambda p: half_step(p, dtype)
        read = lambda p, correction: p + correction.astype(p.dtype) * (half(p) * (1 / 127))
        return with_rest(g, p, correction, dtype, read, lambda rest, p: jnp.round(rest / half(p) * 127))

    start = lambda p: () if is_wide(p.dtype) else jnp.zeros_like(p, dtype=jnp.int8)
    return leafwise(SplitWeightsState, rule, slots={"correction": start})


@factory
def master_weights(dtype: Any = jnp.float32) -> GradientTransformation:
    """Add the updates to a copy of the parameters in float32, which they follow; the last link of a chain.

        master = master + g
        p      = master in its dtype

    The parameters must be changed by these updates alone: what else is done to them the next step undoes.

    Arguments:
      dtype: of the copy, float32 or float64 (which JAX must have enabled). Parameters in it or better pass.

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
        if isinstance(master, tuple):
            return g, master
        check_real(g)
        master = master + g
        return toward(p, on_grid(master, dtype)), master

    return leafwise(MasterWeightsState, rule, slots={"master": start})


def is_wide(dtype: Any, bits: int = 32) -> bool:
    """Whether a parameter needs nothing more; a complex one goes by its real part."""
    return jnp.finfo(dtype).bits >= bits


def with_rest(
    g: jax.Array, p: jax.Array, slot: Any, dtype: Any, read: Callable, write: Callable
) -> tuple[jax.Array, Any]:
    """The update that makes `p` the nearest to `read(p, slot) + g` in its dtype; the slot for the rest of it.

    An element whose update is 0 stays bitwise as it is, and so does its slot.
    """
    if isinstance(slot, tuple):
        return g, slot
    check_real(g)
    w = read(p, slot) + g
    new = on_grid(w, dtype)
    rest = jnp.where(jnp.isfinite(new), w - new, 0.0)
    stays = g == 0
    return jnp.where(stays, -0.0, toward(p, new)), jnp.where(stays, slot, write(rest, new))


def toward(p: jax.Array, new: jax.Array) -> jax.Array:
    """The update that makes `p` another; -0 where it is that already, as 0 added to -0 is 0."""
    return jnp.where(new == p, -0.0, new - p)


def check_real(g: jax.Array) -> None:
    if jnp.iscomplexobj(g):
        raise TypeError("the update is complex, and its parameter is real")
