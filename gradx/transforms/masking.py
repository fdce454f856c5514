"""Apply a transformation to some parameters only."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path
from optax import MaskedNode, MaskedState

from gradx.core import GradientTransformation, check_state, linked
from gradx.factory import factory
from gradx.tree import Tree, aligned, flatten, is_missing

__all__ = ["Mask", "MaskedState", "masked", "matrices_only", "no_bias_or_norm"]

Mask: TypeAlias = Any  # a tree of bools, a prefix of one, a function params -> tree, or a name


def matrices_only(params: Tree) -> Tree:
    """A mask: True for arrays of two axes or more, False for biases, norms and scalars."""
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


def no_bias_or_norm(params: Tree) -> Tree:
    """A mask by name, for layers stacked by a scan, whose biases are matrices.

    False where the last name on the path is a bias or a scale (`bias`, `b`, `scale`, `offset`,
    `gamma`, `beta`), or any name on it contains `norm`; True elsewhere.
    """

    def is_weight(path, _):
        names = [keystr((key,), simple=True).lower() for key in path]
        names = [name for name in names if name != "value"]  # what holds the array in an nnx.Param
        return NOT_WEIGHTS.isdisjoint(names[-1:]) and not any("norm" in name for name in names)

    return tree_map_with_path(is_weight, params)


NOT_WEIGHTS = {"bias", "b", "scale", "offset", "gamma", "beta"}
BY_NAME = {f.__name__: f for f in (matrices_only, no_bias_or_norm)}


@factory
def masked(
    inner: optax.GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """Apply `inner` where the mask is True; elsewhere the updates pass as they are.

    Arguments:
      inner: any transformation; it sees, and keeps state for, the masked-in leaves only.
      mask: a tree of bools with the structure of the parameters or a prefix of it; or a function
        from the parameters to one; or the name of one (`"matrices_only"`, `"no_bias_or_norm"`).
      mask_compatible_extra_args: mask extra arguments that have the updates' structure too.

    Raises ValueError for an unknown name and for a mask of another structure, TypeError for a mask
    that holds anything but bools.
    """
    if isinstance(mask, str):
        if mask not in BY_NAME:
            raise ValueError(f"masked: no mask is named {mask!r}; the names are {sorted(BY_NAME)}")
        mask = BY_NAME[mask]
    if not is_function(mask):
        check_bools(mask)
    inner_update = linked("the inner transformation of masked", inner)

    def keep(like):
        return broadcast(mask(like) if is_function(mask) else mask, like)

    def init(params):
        if not jax.tree.leaves(params):  # nothing to mask; optax.tree_map_params comes this way
            return MaskedState(inner.init(params))
        return MaskedState(inner.init(cut(params, keep(params), params)))

    def update(updates, state, params=None, **extra):
        check_state("masked", MaskedState, state)
        like = updates if params is None else params
        kept, structure = keep(like), jax.tree.structure(updates)
        if mask_compatible_extra_args:
            for name, value in extra.items():
                if jax.tree.structure(value) == structure:
                    extra[name] = cut(value, kept, like)
        seen = None if params is None else cut(params, kept, like)
        out, inner_state = inner_update(cut(updates, kept, like), state.inner_state, seen, **extra)
        return filled(out, updates), MaskedState(inner_state)

    return GradientTransformation(init, update)


def is_function(mask: Any) -> bool:
    """True for a function, False for a tree: an Equinox module is callable, but a tree of bools."""
    return callable(mask) and jax.tree_util.all_leaves([mask])


def check_bools(mask: Tree) -> None:
    for leaf in jax.tree.leaves(mask):
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(f"masked: a mask is made of True and False, and this one holds {leaf!r}")


def broadcast(mask: Tree, like: Tree) -> list[bool]:
    """The mask at every leaf of `like`; False where that leaf is missing."""
    check_bools(mask)
    pairs, treedef = tree_flatten_with_path(mask, is_leaf=is_missing)
    kept = []
    for (path, m), sub in zip(pairs, aligned(treedef, like, ("the mask", "the parameters")), strict=True):
        leaves = flatten(sub)[0]
        if is_missing(m) and not all(map(is_missing, leaves)):
            raise ValueError(
                f"masked: the mask has {m} at {keystr(path) or 'the root'}, where there is a parameter"
            )
        kept += [not is_missing(m) and bool(m) and not is_missing(x) for x in leaves]
    return kept


def cut(tree: Tree, keep: list[bool], like: Tree) -> Tree:
    """`tree`, of the structure of `like`, with MaskedNode where `keep` is False."""
    treedef = flatten(like)[1]
    leaves = aligned(treedef, tree, ("the parameters", "the updates"))
    return treedef.unflatten([x if k else MaskedNode() for x, k in zip(leaves, keep, strict=True)])


def filled(tree: Tree, other: Tree) -> Tree:
    """`tree`, with the leaves of `other` where it was cut."""
    theirs, treedef = flatten(other)
    ours = aligned(treedef, tree, ("the updates", "the transformed updates"))
    return treedef.unflatten([y if is_missing(x) else x for x, y in zip(ours, theirs, strict=True)])
