"""The arrays to read: their shapes, dtypes and shardings."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from gradx.core.tree import Leaf, State, Tree, flatten
from gradx.states.entries import Entry, entries

__all__ = []  # internal: of checkpoints


def abstract_state(tx: optax.GradientTransformation, params: Tree, sharding: Tree | None = None) -> State:
    """The shapes, dtypes and shardings that `init` gives; for abstract parameters, their shardings."""
    if sharding is not None:
        return with_shardings(jax.eval_shape(tx.init, params), sharding)
    ps = flatten(params)[0]
    is_abstract = any(isinstance(p, jax.ShapeDtypeStruct) for p in ps)
    state, shapes = jax.eval_shape(tx.init, params) if is_abstract else tx.init(params), []
    for e in entries(state, params):
        p = e.array if e.i is None or not is_abstract else ps[e.i]
        sharding = placement(p if p.shape == e.array.shape or follows(e, p) else e.array)
        shapes.append(jax.ShapeDtypeStruct(e.array.shape, e.array.dtype, sharding=sharding))
    return jax.tree.unflatten(jax.tree.structure(state), shapes)


def with_shardings(state: State, sharding: Tree) -> State:
    """An abstract state with a sharding for each array."""
    if jax.tree.structure(state) != jax.tree.structure(sharding):
        raise ValueError(
            "restore_checkpoint: state_sharding has another structure than the state of tx: give "
            "gradx.state_sharding(tx, params, params_sharding)"
        )
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), state, sharding)


def follows(e: Entry, p: Leaf) -> bool:
    """Whether the codes or scales of a slot can be divided among devices as the parameter is."""
    with contextlib.suppress(AttributeError, ValueError):  # an axis that does not divide
        return e.codec is not None and p.sharding.shard_shape(e.array.shape) is not None
    return False


def placement(x: Leaf) -> Sharding | None:
    """The sharding that an array must have; None if any will do, as for a fresh step count."""
    return getattr(x, "sharding", None) if getattr(x, "committed", True) else None


def empty(like: Leaf) -> Leaf:
    """An array without elements, which Orbax does not take."""
    sharding = placement(like)
    if sharding is None:
        return np.zeros(like.shape, like.dtype)
    return jnp.zeros(like.shape, like.dtype, device=sharding)


def like_given(x: Leaf, like: Leaf) -> Leaf:
    """A restored array as the type of another: a number, a random key, an array of NumPy or of JAX."""
    if isinstance(like, bool | int | float | complex):
        return type(like)(x)
    if isinstance(like, np.ndarray | np.generic):
        return x
    x = jnp.array(x, device=placement(like)) if isinstance(x, np.ndarray) else x
    if not is_key(like):
        return x
    kinds = []  # an abstract key tells its kind in a trace only
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(x, impl=kinds[0])


def is_key(x: Leaf) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def raw(x: Leaf) -> Leaf:
    """The array to write: for a random key, its bits."""
    return jax.random.key_data(x) if is_key(x) else x
