"""A function of all slots of a state, each beside what belongs to its parameter."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.tree_util import keystr, tree_flatten_with_path

from gradx.core.tree import State, Tree, is_missing
from gradx.wrappers.packing import PackedState

__all__ = ["tree_map_params"]


def tree_map_params(
    initable: optax.GradientTransformation | Callable[[Tree], State],
    f: Callable[..., Any],
    state: State,
    /,
    *rest: Tree,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> State:
    """The state with `f(array, *leaves of rest)` for each array that belongs to a parameter.

    Arguments:
      initable: the transformation, or its `init`.
      f: a function of an array, and of the leaf for its parameter in each of `rest`. A parameter may have
        several arrays in a slot, as in `sm3` and `store`: it is called for each.
      state: a state of the transformation, or a tree like it, such as of shapes or shardings.
      rest: trees like the parameters, such as of shardings.
      transform_non_params: a function of the other arrays: step counts, and the buffers of `packed`, which
        hold slots of many parameters; by default they stay.
      is_leaf: as in `jax.tree.map` over a slot and `rest`. Without it, what a mask or a group leaves out of a
        slot stays, and `f` is not called.

    Raises ValueError, with the path, if an array of a slot has no leaf in one of `rest`.

    >>> import gradx, jax.numpy as jnp
    >>> tx, params = gradx.adam(0.1), {"w": jnp.ones((2, 3))}
    >>> gradx.tree_map_params(tx, lambda x, axes: axes, tx.init(params), {"w": "rows, columns"})[0].mu
    {'w': 'rows, columns'}
    """
    if is_leaf is not None:
        return optax.tree_map_params(
            initable, f, state, *rest, transform_non_params=transform_non_params, is_leaf=is_leaf
        )

    def mapped(slot: Tree, *rest: Tree) -> Tree:
        if isinstance(slot, Buffers):
            return tuple(x if transform_non_params is None else transform_non_params(x) for x in slot.arrays)
        beside = [dict(tree_flatten_with_path(tree)[0]) for tree in rest]
        leaves, treedef = tree_flatten_with_path(slot, is_leaf=is_missing)
        return treedef.unflatten([x if is_missing(x) else f(x, *at(path, beside)) for path, x in leaves])

    state = with_buffers_marked(state)
    return optax.tree_map_params(
        initable, mapped, state, *rest, transform_non_params=transform_non_params, is_leaf=lambda _: True
    )


class Buffers:
    """The buffers of `packed`, told from a slot."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays


def with_buffers_marked(state: State) -> State:
    is_packed = lambda x: isinstance(x, PackedState)
    mark = lambda x: x._replace(buffers=Buffers(x.buffers), inner_state=with_buffers_marked(x.inner_state))
    return jax.tree.map(lambda x: mark(x) if is_packed(x) else x, state, is_leaf=is_packed)


def at(path: tuple, beside: list[dict[tuple, Any]]) -> list[Any]:
    """The leaf of each tree, by the paths of its leaves, that is at a path or above it."""
    found = []
    for leaves in beside:
        above = [path[:k] for k in range(len(path) + 1) if path[:k] in leaves]
        if not above:
            raise ValueError(f"tree_map_params: a slot has an array at {keystr(path)}, and rest has none")
        found.append(leaves[above[0]])
    return found
