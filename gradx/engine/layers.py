"""Stacked layers: parameters that hold an array of each layer along some of their axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradx.core.layer_axes import Axes, Layer, _known
from gradx.core.tree import Tree, flatten, is_missing, slash_paths

__all__ = []


def axes_here(tree: Tree) -> dict[int, Axes]:
    """The axes of the stacked leaves of a tree, by position."""
    known = _known.get()
    if not known:
        return {}
    return {i: known[path] for i, path in enumerate(slash_paths(tree)) if path in known}


def as_layers(tree: Tree, axes: dict[int, Axes] | None = None) -> Tree:
    """A tree with a `Layer` in place of each stacked array, for what goes by shapes."""
    axes = axes_here(tree) if axes is None else axes
    if not axes:
        return tree
    leaves, treedef = flatten(tree)
    pairs = ((axes.get(i), x) for i, x in enumerate(leaves))
    done = lambda x: is_missing(x) or isinstance(x, Layer)  # as where one mask is made of another
    return treedef.unflatten([x if a is None or done(x) else a.layer(x) for a, x in pairs])


def ruled(rule: Callable, g: Any, p: Any, slots: Any, axes: Axes | None) -> Any:
    """`rule(g, p, slots)`, which returns (update, slots) and reports, on a parameter or each layer of it."""
    if axes is None:
        return rule(g, p, slots)
    given = jax.tree.map(lambda x: axes.beside(x, g.ndim), (g, p, slots))
    return each_layer(rule, given, ((axes, given[2]), axes.first))(g, p, slots)


def started(start: Callable, p: Any, axes: Axes | None) -> Any:
    """A slot of one parameter as it starts, or that of each layer of it."""
    if axes is None:
        return start(p)
    layer = axes.layer(p)
    slot, whole = (jax.eval_shape(start, x) for x in (layer, p))
    if jax.tree.map(jnp.shape, (slot, whole)) == (layer.shape, p.shape):
        return start(p)  # each element has its own, and is on the devices of the parameter's
    return each_layer(start, (axes,), jax.tree.map(lambda x: axes.beside(x, len(layer.shape)), slot))(p)


def each_layer(function: Callable, given: Any, returned: Any) -> Callable:
    """`function` for each layer; trees of the `Axes` of what it is given, and of what it returns."""
    is_axes = lambda x: isinstance(x, Axes)
    depth = len(next(x for x in jax.tree.leaves((given, returned), is_leaf=is_axes) if is_axes(x)))
    for j in reversed(range(depth)):
        # The outermost map takes the first axis away, and so the next ones are one less.
        left = lambda tree, j=j: jax.tree.map(lambda axes: axes[j] - j, tree, is_leaf=is_axes)
        function = jax.vmap(function, in_axes=left(given), out_axes=left(returned))
    return function
