"""Stacked layers: one parameter holds the arrays of all layers, and some of its axes number the layers.

Within `layered` the engine runs a rule on each layer, and code that looks at the shape of a parameter sees
the shape of a layer. The stacked axes are known by path, not by position: a mask may cut off a whole branch,
and the leaves after it then have other positions.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gradx.core.tree import Tree, flatten, is_missing, slash_paths

__all__ = []  # internal: `stacked` sets the axes; the engine and code that looks at shapes read them


T = TypeVar("T")


class Layer(jax.ShapeDtypeStruct):
    """The shape and dtype of a single layer."""


@jax.tree_util.register_static  # so that JAX compiles anew for other axes
class Axes(tuple[int, ...]):
    """The axes of a parameter that number its layers, in ascending order."""

    @property
    def first(self) -> "Axes":
        """The axes of an array that has the layers in front."""
        return Axes(range(len(self)))

    def zeros(self, x: jax.Array) -> np.ndarray:
        """A zero for each layer of an array."""
        return np.zeros([x.shape[axis] for axis in self])

    def layer(self, x: jax.Array) -> Layer:
        """The shape and dtype of one layer of an array."""
        return Layer(tuple(n for axis, n in enumerate(x.shape) if axis not in self), x.dtype)

    def of_slot(self, x: jax.Array, ndim: int) -> "Axes":
        """The stacked axes of a slot: its parameter's if both have the same rank, else leading."""
        return self if x.ndim == ndim else self.first


# (path, axes) of each stacked parameter: a part of the key under which JAX keeps traces.
known_axes: Any = jax.make_user_context(())


@contextlib.contextmanager
def layered(known: dict[str, Axes]) -> Iterator[None]:
    """Within, the parameters at these paths are stacked, and those that an outer `layered` names."""
    with known_axes(tuple((dict(known_axes.value) | known).items())):
        yield


def axes_here(tree: Tree) -> dict[int, Axes]:
    """The axes of the stacked leaves of a tree, by position."""
    known = dict(known_axes.value)
    if not known:
        return {}
    return {i: known[path] for i, path in enumerate(slash_paths(tree)) if path in known}


def as_layers(tree: Tree, axes: dict[int, Axes] | None = None) -> Tree:
    """A tree with a `Layer` in place of each stacked array, for code that looks at shapes."""
    axes = axes_here(tree) if axes is None else axes
    if not axes:
        return tree
    leaves, treedef = flatten(tree)
    pairs = ((axes.get(i), x) for i, x in enumerate(leaves))
    done = lambda x: is_missing(x) or isinstance(x, Layer)  # one mask may be made of another
    return treedef.unflatten([x if a is None or done(x) else a.layer(x) for a, x in pairs])


def ruled(rule: Callable[..., T], g: jax.Array, p: jax.Array | None, slots: Tree, axes: Axes | None) -> T:
    """`rule(g, p, slots)`, which returns (update, slots, reports), on a parameter or each layer of it."""
    if axes is None:
        return rule(g, p, slots)
    given = jax.tree.map(lambda x: axes.of_slot(x, g.ndim), (g, p, slots))
    return each_layer(rule, given, (axes, given[2], axes.first))(g, p, slots)


def started(start: Callable[[jax.Array], T], p: jax.Array, axes: Axes | None) -> T:
    """The initial slot of one parameter; for a stacked one, of all its layers."""
    if axes is None:
        return start(p)
    layer = axes.layer(p)
    slot, whole = (jax.eval_shape(start, x) for x in (layer, p))
    if jax.tree.map(jnp.shape, (slot, whole)) == (layer.shape, p.shape):
        return start(p)  # the slot is elementwise, and keeps the sharding of the parameter
    return each_layer(start, (axes,), jax.tree.map(lambda x: axes.of_slot(x, len(layer.shape)), slot))(p)


def each_layer(function: Callable, given: Tree, returned: Tree) -> Callable:
    """`function` for each layer; `given` and `returned` are trees of the `Axes` of arguments and results."""
    is_axes = lambda x: isinstance(x, Axes)
    depth = len(next(x for x in jax.tree.leaves((given, returned), is_leaf=is_axes) if is_axes(x)))
    for j in reversed(range(depth)):
        # The outermost map takes the first axis away, and so the next ones are one less.
        left = lambda tree, j=j: jax.tree.map(lambda axes: axes[j] - j, tree, is_leaf=is_axes)
        function = jax.vmap(function, in_axes=left(given), out_axes=left(returned))
    return function
