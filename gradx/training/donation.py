"""Buffers that are given to a step more than once: XLA can donate each only once."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

__all__ = []  # internal: `step` donates


def call_unshared(function: Callable, donated: Any, kept: Any) -> Any:
    """`function(donated, kept)`, which donates the first, where arrays may share a buffer.

    One array under two names is seen before the call. Two arrays on one buffer, as `jax.device_put` makes
    them, are looked for when XLA refuses them, which it does before anything is donated.
    """
    donated, kept = unshared(donated, kept, lambda x: [id(x)])
    try:
        return function(donated, kept)
    except jax.errors.JaxRuntimeError as e:
        if "donate" not in str(e):
            raise
        return function(*unshared(donated, kept, buffers))


def unshared(donated: Any, kept: Any, names_of: Callable[[Any], Iterable]) -> tuple[Any, Any]:
    """Both, with a copy of each array that has a name of one that was donated before it."""
    leaves, treedef = jax.tree.flatten((donated, kept))
    count, seen, shared = len(jax.tree.leaves(donated)), set(), []
    for i, x in enumerate(leaves):
        if isinstance(x, Tracer) or not isinstance(x, jax.Array):
            continue  # in a trace nothing is donated
        names = names_of(x)
        if not seen.isdisjoint(names):
            shared.append(i)
        elif i < count:
            seen.update(names)
    if not shared:
        return donated, kept
    for i in shared:
        leaves[i] = copied(leaves[i])
    return treedef.unflatten(leaves)


def copied(x: jax.Array) -> jax.Array:
    """A copy where the array is: on the same devices, in the same memory."""
    return jax.device_put(x, x.sharding, may_alias=False) if x.committed else jnp.copy(x)


def buffers(x: jax.Array) -> list[int]:
    """Where the array is in memory, on each device."""
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards] if x.size else []
