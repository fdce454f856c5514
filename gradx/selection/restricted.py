"""A function of all parameters as a function of some of them, for a line search in a part."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from optax import MaskedNode

from gradx.core.foreign import widened
from gradx.core.tree import Extra, Tree, aligned, flatten

__all__ = []  # internal: parts and line searches use it


def restricted(extra: Extra, part: Tree, params: Tree | None) -> Extra:
    """The extra arguments of `update` for a part: `value_fn` as a function of the part, and its `grad`.

    `part` is `params` with a MaskedNode wherever a parameter is not in the part. The restricted `value_fn`
    keeps the other parameters at their present values, and takes further arguments by the same names. Without
    a `value_fn`, and if nothing is left out, the arguments pass unchanged.
    """
    leaves, treedef = flatten(part)
    is_whole = not any(isinstance(x, MaskedNode) for x in leaves)
    if params is None or is_whole or not callable(extra.get("value_fn")):
        return extra
    names = ("the part", "the parameters")
    inside = {"value_fn": of_part(extra["value_fn"], part, aligned(treedef, params, names))}
    if extra.get("grad") is not None:
        grads = aligned(treedef, extra["grad"], ("the parameters", "the extra argument grad"))
        pairs = zip(leaves, grads, strict=True)
        inside["grad"] = treedef.unflatten([p if isinstance(p, MaskedNode) else g for p, g in pairs])
    return extra | inside


def of_part(value_fn: Callable, part: Tree, values: list) -> Callable:
    """`value_fn` as a function of the part; `values` has the parameters at each place of the part."""
    places, treedef = flatten(part)
    dtypes_of = lambda tree: [getattr(x, "dtype", None) for x in jax.tree.leaves(tree)]

    @functools.wraps(value_fn)  # a line search looks for the names of its further arguments
    def restricted_fn(some: Tree, *args: Any, **kwargs: Any) -> Any:
        # A search that computes on widened parameters evaluates the function in that precision throughout.
        held = values if dtypes_of(some) == dtypes_of(part) else widened(values)
        given = zip(places, aligned(treedef, some, ("the part", "its new values")), held, strict=True)
        whole = [v if isinstance(place, MaskedNode) else x for place, x, v in given]
        return value_fn(treedef.unflatten(whole), *args, **kwargs)

    return restricted_fn
