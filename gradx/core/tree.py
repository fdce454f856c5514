"""Pytrees of parameters: missing leaves, paths, comparison of structures, the global norm."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr
from optax import MaskedNode

from gradx.numerics.device_axes import AxisName, axis_names, check_bound, differing, sum_over
from gradx.numerics.dtypes import DType, compute_dtype, promoted, real_dtype
from gradx.numerics.norms import safe_sqrt, sums_of_squares, total

__all__ = ["MaskedNode", "global_norm"]

Tree: TypeAlias = Any  # a pytree of arrays
Leaf: TypeAlias = Any  # an array or a number; in a tree of parameters also a missing place, a function
State: TypeAlias = Any  # of a transformation: a pytree too
Treedef: TypeAlias = jax.tree_util.PyTreeDef  # pyright: ignore[reportInvalidTypeForm]  (JAX has no stub)
Extra: TypeAlias = dict[str, Any]  # the further arguments of `update`, by name


def is_missing(x: Leaf) -> bool:
    """A place without an array: `None` (frozen or filtered out) or `MaskedNode` (masked out)."""
    return x is None or isinstance(x, MaskedNode)


def can_move(x: Leaf) -> bool:
    """Whether a leaf is floating point, so that it can have a gradient."""
    dtype = getattr(x, "dtype", None)
    return isinstance(x, float | complex) if dtype is None else is_inexact_dtype(dtype)


@functools.cache
def is_inexact_dtype(dtype: DType) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def movable(params: Tree, updates: Tree = None) -> Tree:
    """Parameters with None for integers, functions and the like, which a whole model may hold.

    One that has a gradient all the same stays, as floats; a rule that keeps slots refuses it, having none.
    """
    if all(map(can_move, jax.tree.leaves(params))):
        return params
    leaves, treedef = flatten(params)
    try:
        us = treedef.flatten_up_to(updates)
    except (ValueError, TypeError, KeyError):
        us = [None] * len(leaves)  # there are none, or they are of another structure, which `aligned` says
    return treedef.unflatten(
        [as_float(x) if can_move(x) or is_array(u) else None for x, u in zip(leaves, us, strict=True)]
    )


def is_array(x: Leaf) -> bool:
    return hasattr(x, "dtype") or isinstance(x, int | float | complex)


def without_float0(updates: Tree) -> Tree:
    """Updates with None in place of float0."""
    if not any(map(is_float0, jax.tree.leaves(updates))):
        return updates
    return jax.tree.map(lambda x: None if is_float0(x) else x, updates)


def as_gradients(updates: Tree) -> Tree:
    """Updates as links take them: None in place of float0, and floats in place of integers and booleans."""
    if all(map(can_move, jax.tree.leaves(updates))):
        return updates
    return jax.tree.map(as_float, without_float0(updates))


def as_float(x: Leaf) -> Leaf:
    """Integers and booleans as floats; anything else as it is."""
    if not hasattr(x, "dtype"):
        return float(x) if isinstance(x, int) else x
    return x.astype(float) if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool else x


def is_float0(x: Leaf) -> bool:
    """Whether a leaf is the gradient that JAX gives an integer."""
    return getattr(x, "dtype", None) == jax.dtypes.float0


def flatten(tree: Tree) -> tuple[list[Leaf], Treedef]:
    """Leaves and structure; a missing leaf counts as a leaf and keeps its place."""
    return jax.tree.flatten(tree, is_leaf=is_missing)


def leaf_paths(tree: Tree) -> list[str]:
    """The path of every leaf, in the order of `flatten`."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_missing)
    return [keystr(path) or "the root" for path, _ in pairs]


# The keys of the two parts of a complex array; no attribute of a user's can have these names.
PART_KEYS = (GetAttrKey("real part"), GetAttrKey("imaginary part"))


def slash_path(path: tuple) -> str:
    """A leaf's path as users write it, `backbone/dense_0/kernel`, from the keys that JAX gives.

    The last key is left out if it is the `value` of an `nnx.Param` or of a box of Linen's, or if it names a
    part of a complex parameter.
    """
    path = path[:-1] if path and path[-1] in PART_KEYS else path
    names = [keystr((key,), simple=True) for key in path]
    return "/".join(names[:-1] if path and path[-1] == GetAttrKey("value") else names)


def slash_paths(tree: Tree) -> list[str]:
    """The path of every leaf as users write it, in the order of `flatten`."""
    return [slash_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_missing)[0]]


def found_in(tree: Tree, kind: type) -> list[Any]:
    """The nodes of a class in a tree, without those that lie inside another one."""
    is_one = lambda x: isinstance(x, kind)
    return [x for x in jax.tree.leaves(tree, is_leaf=is_one) if is_one(x)]


def all_finite(tree: Tree) -> jax.Array:
    """Whether every element is finite, from the largest of each array, which is NaN if one element is."""
    largest = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    return total([~jnp.isfinite(x) for x in largest], jnp.float32) == 0


def path_at(treedef: Treedef, i: int) -> str:
    """The path of leaf `i`, for an error."""
    return leaf_paths(treedef.unflatten(range(treedef.num_leaves)))[i]


def aligned(treedef: Treedef, tree: Tree, names: tuple[str, str], hint: str = "") -> list[Tree]:
    """The subtrees of `tree` at the leaves of `treedef`; an error says where the structures differ.

    The error calls the two by `names`, and ends in `hint`, a likely cause.
    """
    try:
        return treedef.flatten_up_to(tree)
    except (ValueError, TypeError, KeyError) as e:
        difference = first_difference(treedef.unflatten(range(treedef.num_leaves)), tree, names)
        raise ValueError(f"{names[0]} and {names[1]} have different structures: {difference}{hint}") from e


def first_difference(a: Tree, b: Tree, names: tuple[str, str], path: str = "") -> str:
    """A phrase that says where `a` and `b` first have different containers."""
    ours, theirs = children(a), children(b)
    for key in (k for k in ours if k not in theirs):
        return f"{path}{key} is in {names[0]}, but not in {names[1]}"
    for key in (k for k in theirs if k not in ours):
        return f"{path}{key} is in {names[1]}, but not in {names[0]}"
    for key, value in ours.items():
        try:
            flatten(value)[1].flatten_up_to(theirs[key])
        except (ValueError, TypeError, KeyError):
            return first_difference(value, theirs[key], names, path + key)
    kinds = f"a {type(a).__name__} in {names[0]}, and a {type(b).__name__} in {names[1]}"
    return f"at {path or 'the root'} there is {kinds}"


def children(node: Tree) -> dict[str, Tree]:
    """The children of a node by key; none for a leaf."""
    below, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    return {keystr(path): x for path, x in below if path}


def is_numeric(x: Leaf) -> bool:
    """Whether a leaf is an array of numbers, or a number."""
    dtype = getattr(x, "dtype", None)
    return isinstance(x, int | float | complex) if dtype is None else jnp.issubdtype(dtype, jnp.number)


def global_norm(tree: Tree, *, axis_name: AxisName | None = None) -> jax.Array:
    """The Euclidean norm of all leaves together, a scalar of at least float32.

        √(Σ |x|²), added in float32 or better whatever the dtype of the leaves

    Arguments:
      tree: of arrays; None, MaskedNode, float0, functions and the like count for nothing.
      axis_name: the axis of the devices that hold slices of the arrays, within `jax.shard_map`. An array
        that does not vary over it counts once. Without check_vma, and under `jax.pmap`, all count as slices.

    NaN if any element is NaN; inf if one is inf, or if their squares overflow.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree) if is_numeric(x)]
    floats = [x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float) for x in leaves]
    axes = axis_names("global_norm", axis_name)
    check_bound("global_norm", axes)
    return norm_of([x.astype(compute_dtype(x.dtype)) for x in floats], axes)


def norm_of(leaves: list[jax.Array], axes: tuple[str, ...] = ()) -> jax.Array:
    """`global_norm` of arrays that are in their compute dtypes."""
    dtype = promoted(jnp.float32, *map(real_dtype, {x.dtype for x in leaves}))
    squares = sums_of_squares([x.astype(promoted(x.dtype, dtype)) for x in leaves])
    if not axes:
        return safe_sqrt(total(squares, dtype))
    sliced: dict[tuple, list[jax.Array]] = {}
    for x, square in zip(leaves, squares, strict=True):
        sliced.setdefault(differing(x, axes), []).append(square)
    return safe_sqrt(total([sum_over(total(some, dtype), over) for over, some in sliced.items()], dtype))
