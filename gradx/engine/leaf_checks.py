"""Checks of the arrays of a tree, whose errors name the parameter's path; their dtypes."""

import contextlib
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gradx.core.transformation import HINT
from gradx.core.tree import Leaf, Tree, Treedef, aligned, is_missing, path_at
from gradx.numerics.device_axes import varying_like
from gradx.numerics.dtypes import DType, promoted, real_dtype

__all__ = []  # internal: the engine's

Arrays: TypeAlias = dict[int, jax.Array]  # by the position of each among the leaves of a tree
Slot: TypeAlias = Any  # an array, or a small pytree of arrays


class Place(NamedTuple):
    """The position of a parameter in a tree; as a string, its path, for errors."""

    owner: str
    treedef: Treedef
    i: int

    def __str__(self) -> str:
        return f"{self.owner}, at {path_at(self.treedef, self.i)}"


def present(leaves: list[Leaf], treedef: Treedef, owner: str) -> Arrays:
    """The leaves that are not missing, as arrays by position; TypeError unless they are floating point."""
    out = {i: x for i, x in enumerate(leaves) if not is_missing(x)}
    for i, x in out.items():
        x = out[i] = jnp.asarray(x) if isinstance(x, int | float | complex) else x
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{Place(owner, treedef, i)}: {type(x).__name__ if dtype is None else dtype} cannot be "
                "optimized, because it is not floating point: leave it out with None, masked or a filter"
            )
    return out


def params_of(gs: Arrays, params: Tree, treedef: Treedef, owner: str) -> Arrays:
    """The parameters that have an update. Raises ValueError if a shape differs from the update's."""
    leaves = aligned(treedef, params, ("the updates", "the parameters"))
    ps = present([leaves[i] if i in gs else None for i in range(len(leaves))], treedef, owner)
    for i, g in gs.items():
        if i not in ps or ps[i].shape != g.shape:
            other = f"shape {ps[i].shape}" if i in ps else "no array"
            raise ValueError(
                f"{Place(owner, treedef, i)}: the update has shape {g.shape}, its parameter {other}"
            )
    return ps


def slot_like(new: Slot, old: Slot, name: str, place: Place | str) -> Slot:
    """The new slot with the dtypes, device axes and containers of the old: NNX makes a State of a list."""
    check_fit(new, old, name, place)
    news, (olds, treedef) = jax.tree.leaves(new), jax.tree.flatten(old)
    if any(map(jnp.iscomplexobj, news)) and not any(map(jnp.iscomplexobj, olds)):
        raise TypeError(f"{place}: the update is complex, and the state's {name} is real{HINT}")
    return treedef.unflatten([varying_like(n.astype(o.dtype), o) for n, o in zip(news, olds, strict=True)])


def check_fit(new: Slot, old: Slot, name: str, place: Place | str) -> None:
    """Raise unless a slot has the shapes of the new one."""
    have, should = ([jnp.shape(x) for x in jax.tree.leaves(slot)] for slot in (old, new))
    if should and not have:
        raise ValueError(
            f"{place}: the state has no {name}, because at init the parameter was missing or not floating "
            "point: leave its gradient out with None, masked or a filter"
        )
    if have != should:
        one = lambda shapes: shapes[0] if len(shapes) == 1 else shapes
        raise ValueError(f"{place}: {name} has shape {one(have)}, and should have {one(should)}{HINT}")


def scalar_dtype(arrays: Arrays) -> DType:
    """The dtype for scalars that weigh these arrays: float32, or float64 if one of them is."""
    return promoted(jnp.float32, *map(real_dtype, {x.dtype for x in arrays.values()}))


def promotion(arrays: Tree) -> contextlib.AbstractContextManager:
    """JAX's standard promotion where arrays differ in dtype, or are complex and meet real numbers.

    Elsewhere the promotion that is set: the strict one shows whether a rule widens by accident.
    """
    dtypes = {x.dtype for x in jax.tree.leaves(arrays)}
    uniform = len(dtypes) == 1 and next(iter(dtypes)).kind != "c"
    return contextlib.nullcontext() if uniform else jax.numpy_dtype_promotion("standard")
