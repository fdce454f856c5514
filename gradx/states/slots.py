"""Slots by name: look at them, set them, start them anew."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from gradx.codecs.stored import is_stored
from gradx.core.tree import Leaf, MaskedNode, State, Tree, aligned, flatten, is_missing, slash_paths
from gradx.numerics.dtypes import DType
from gradx.states.entries import (
    Entry,
    check_unpacked,
    entries,
    repacked,
    short_names,
    unpacked,
    with_arrays,
)

__all__ = ["Slot", "get_slot", "reset", "set_slot", "slots"]


class Slot(NamedTuple):
    """An array of a state: the slot's name, the parameter's path (None if it belongs to none), the array."""

    name: str
    path: str | None
    array: jax.Array


def slots(state: State, params: Tree, *, scalars: bool = False) -> list[Slot]:
    """The arrays of a state, by name and by the parameter's path; any state, Optax's too.

    A slot is a part of the state with the structure of the parameters, whatever the shapes; groups and masks
    may leave parameters out. Its name is its field, such as "mu", in any link, group or wrapper. Only
    where a parameter has two arrays of one name, the group or link and the class of the link's state come
    before it, or a number after it: "fast/trace", "Trace/trace", "trace[0]". A slot in another format, by
    `store`, is listed by its arrays, "nu/codes" and "nu/scales"; elsewhere its name is "nu".

    Arguments:
      state: the state of any transformation for these parameters; ValueError for a state of `packed`: call
        `unpack_state` first.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      scalars: list arrays that belong to no parameter too, such as step counts, with None for a path.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    >>> state = gradx.chain(gradx.clip(1.0), gradx.adamw(1e-3)).init(params)
    >>> for name, path, array in gradx.slots(state, params):
    ...     print(name, path, array.shape)
    mu dense/bias (3,)
    mu dense/kernel (2, 3)
    nu dense/bias (3,)
    nu dense/kernel (2, 3)
    """
    found = entries(check_unpacked("slots", state), params)
    named = zip(short_names(found), found, strict=True)
    return [Slot(name, e.path, e.array) for name, e in named if scalars or e.i is not None]


def get_slot(state: State, params: Tree, name: str) -> Tree:
    """A slot by its name, as a tree like the parameters; or an array of no parameter, such as a count.

    Where a parameter has no such array, there is a `MaskedNode`. A slot in another format is decoded.

    Arguments:
      state, params: as in `slots`.
      name: a name of `slots(state, params, scalars=True)`; an unambiguous suffix is enough.

    Raises KeyError, with the names that exist, for an unknown name, and ValueError for an ambiguous one.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"w": jnp.ones(2)}
    >>> state = gradx.adam(1e-3).init(params)
    >>> gradx.get_slot(state, params, "nu")["w"].tolist(), int(gradx.get_slot(state, params, "count"))
    ([0.0, 0.0], 0)
    """
    found, chosen = choose("get_slot", state, params, name)
    arrays = {e.i: e.array.decode() if is_stored(e.array) else e.array for e in (found[k] for k in chosen)}
    if None in arrays:
        return arrays[None]
    leaves, treedef = flatten(params)
    here = [p if is_missing(p) else arrays.get(i, MaskedNode()) for i, p in enumerate(leaves)]
    return treedef.unflatten(here)


def set_slot(state: State, params: Tree, name: str, value: Tree) -> State:
    """`state` with another value for a slot, or for a scalar; `set_hyperparams` sets hyperparameters.

    Arguments:
      state, params, name: as in `get_slot`.
      value: a tree like the one that `get_slot` returns, with the same shapes. It is copied, and cast to the
        dtype of the slot, or rounded to the nearest value of its format.

    Raises KeyError and ValueError as `get_slot` does, ValueError for another structure or shape, TypeError
    for a value that the dtype cannot hold.
    """
    owner = "set_slot"
    found, chosen = choose(owner, state, params, name)
    arrays = [e.array for e in found]
    if found[chosen[0]].i is None:
        arrays[chosen[0]] = replacement(f"{owner}: {name}", value, arrays[chosen[0]])
        return with_arrays(state, arrays)
    values = aligned(flatten(params)[1], value, ("the parameters", f"the value for {name}"))
    at = {found[k].i: k for k in chosen}
    for i, (x, path) in enumerate(zip(values, slash_paths(params), strict=True)):
        if is_missing(x) == (i in at):
            what = "has no value" if i in at else "has a value, and no such slot"
            raise ValueError(f"{owner}: {name}, at {path}, {what}")
        if i in at:
            arrays[at[i]] = replacement(f"{owner}: {name}, at {path},", x, arrays[at[i]])
    return with_arrays(state, arrays)


def reset(
    tx: optax.GradientTransformation,
    state: State,
    params: Tree,
    where: str | re.Pattern | Callable[[str, Leaf], bool] | None = None,
    *,
    names: str | Iterable[str] | None = None,
) -> State:
    """`state` with some slots as `init` makes them for these parameters.

    Step counts go on unless they are named, so schedules go on too. Averages that start anew then lack their
    bias correction; name "count" too where they need it.

    Arguments:
      tx: the transformation of the state.
      state: its state; a state of `packed` is fine.
      params: the parameters as they are now.
      where: which parameters: a regular expression to search for in the path, such as "dense/kernel", or a
        function of path and parameter that returns True for them; None for all.
      names: which slots, as in `get_slot`; None for all. Arrays of no parameter are chosen by name only.

    Raises KeyError and ValueError as `get_slot` does, ValueError if nothing is chosen.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> tx = gradx.sgd(0.1, momentum=0.9)
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> state = gradx.reset(tx, state, params, "head", names="trace")
    >>> [array.tolist() for _, _, array in gradx.slots(state, params)]
    [[1.0, 1.0], [0.0, 0.0]]
    """
    owner = "reset"
    if where is None and names is None:
        raise TypeError(f"{owner}: give where or names; to start all anew, call tx.init(params)")
    old, new = (unpacked(owner, tx, s, params) for s in (state, tx.init(params)))
    aligned(jax.tree.structure(new), old, ("the state that init makes", "the one given"))  # raises if not
    found, fresh = (entries(s, params, whole=True) for s in (old, new))
    chosen = set(range(len(found)))
    if names is not None:
        wanted = [names] if isinstance(names, str) else names
        chosen = {k for name in wanted for k in choose(owner, old, params, name)[1]}
    if where is not None:
        paths, ps = slash_paths(params), flatten(params)[0]
        matches = where if callable(where) else lambda path, p: re.search(where, path)
        kept = {i for i, p in enumerate(ps) if not is_missing(p) and matches(paths[i], p)}
        if not kept:
            raise ValueError(f"{owner}: where={where!r} matches none of the parameters {paths}")
        chosen = {k for k in chosen if found[k].i in kept}
    if not chosen:
        raise ValueError(f"{owner}: no slot is named {names!r} where {where!r} matches")
    arrays = [(fresh if k in chosen else found)[k].array for k in range(len(found))]
    return repacked(tx, with_arrays(old, arrays), params)


def choose(owner: str, state: State, params: Tree, name: str) -> tuple[list[Entry], list[int]]:
    """The entries of a state, and the positions of those with a name."""
    found = entries(check_unpacked(owner, state), params, whole=True)
    names = short_names(found)
    full = full_name(owner, names, name)
    return found, [k for k, x in enumerate(names) if x == full]


def full_name(owner: str, names: list[str], name: str) -> str:
    """The one name that equals `name`, or ends in it."""
    known = list(dict.fromkeys(names))
    ends = lambda x: x.endswith(f"/{name}") or re.fullmatch(rf"(.*/)?{re.escape(name)}\[\d+\]", x)
    candidates = [name] if name in known else [x for x in known if ends(x)]
    if not candidates:
        raise KeyError(f"{owner}: no slot is named {name!r}; the state has {known}")
    if len(candidates) > 1:
        raise ValueError(f"{owner}: {name!r} may be any of {candidates}")
    return candidates[0]


def replacement(place: str, value: Leaf, old: Leaf) -> Leaf:
    """A copy of a value to replace an array: of its shape, in its dtype or format, on its devices."""
    if is_stored(old):
        new = old.encode(replacement(place, value, old.decode()))
        return jax.tree.map(on_devices_of, new, old)
    is_key = jnp.issubdtype(old.dtype, jax.dtypes.extended)
    dtype = getattr(value, "dtype", None) or np.asarray(value).dtype
    if dtype != old.dtype and (is_key or not can_hold(old.dtype, dtype)):
        raise TypeError(f"{place} is {old.dtype}, which cannot hold {dtype}")
    if jnp.shape(value) != old.shape:
        raise ValueError(f"{place} has shape {old.shape}, and was given {jnp.shape(value)}")
    new = jnp.copy(value) if is_key else jnp.array(value, old.dtype)
    return on_devices_of(new, old)


def on_devices_of(new: jax.Array, old: jax.Array) -> jax.Array:
    """An array, moved to the devices of another."""
    traced = isinstance(old, Tracer) or isinstance(new, Tracer)
    return new if traced or not isinstance(old, jax.Array) else jax.device_put(new, old.sharding)


def can_hold(dtype: DType, given: DType) -> bool:
    """Whether a cast keeps the kind: integers may become floats, and real numbers complex, but not back."""
    is_key = jnp.issubdtype(given, jax.dtypes.extended)
    return not is_key and np.can_cast(given, dtype, "same_kind")
