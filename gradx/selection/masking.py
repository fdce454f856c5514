"""Apply a transformation to some parameters only."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path
from optax import MaskedNode, MaskedState

from gradx.core.factory import factory, is_bool
from gradx.core.foreign import blank_of, check_transformation, is_exact, observe_of
from gradx.core.reports import Reports
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import Extra, Leaf, Tree, aligned, flatten, is_missing, slash_path
from gradx.engine.layers import as_layers
from gradx.selection.restricted import restricted

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
        names = slash_path(path).lower().split("/")
        return NOT_WEIGHTS.isdisjoint(names[-1:]) and not any("norm" in name for name in names)

    return tree_map_with_path(is_weight, params)


NOT_WEIGHTS = {"bias", "b", "scale", "offset", "gamma", "beta"}
BY_NAME = {f.__name__: f for f in (matrices_only, no_bias_or_norm)}


@factory
def masked(
    inner: optax.GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """Apply `inner` where the mask is True; elsewhere the updates pass unchanged.

    Use it for a link among others. Around a whole optimizer, raw gradients would pass, and be added to the
    parameters: there use `selective_transform`, which freezes the other parameters, or `groups`.

    Arguments:
      inner: any transformation; it sees and keeps state for only the leaves where the mask is True.
      mask: a tree of bools with the structure of the parameters or a prefix of it; or a function
        from the parameters to one; or the name of one (`"matrices_only"`, `"no_bias_or_norm"`).
      mask_compatible_extra_args: mask extra arguments that have the updates' structure too.

    Raises ValueError for an unknown name and for a mask of another structure, TypeError for a mask
    that holds anything but bools.
    """
    check_transformation("the inner transformation of masked", inner)
    mask_of = mask_for(mask)
    selection_of = lambda like: Selection(inner, mask_of(like))

    def init(params):
        return selection_of(params).init(params)

    def blank(params):
        return selection_of(params).blank(params)

    def observe(updates, state, params=None, **extra):
        check_state("masked", MaskedState, state)
        selection = selection_of(updates if params is None else params)
        return selection.observe(updates, state, params, extra, mask_compatible_extra_args)

    parts = lambda like: {"": selection_of(like)}
    return Selecting.of(init, observe, blank, exact=is_exact(inner), parts=parts)


class Selection(NamedTuple):
    """A transformation, and a mask of the leaves that it sees: a tree of bools, or a prefix of one."""

    tx: optax.GradientTransformation
    mask: Tree

    def init(self, params: Tree) -> MaskedState:
        """The state, for the parameters that it sees."""
        return MaskedState(self.tx.init(cut(params, self.mask)))

    def blank(self, params: Tree) -> Reports:
        """The blank reports, for the parameters that it sees."""
        return blank_of(self.tx)(cut(params, self.mask))

    def observe(
        self, updates: Tree, state: MaskedState, params: Tree | None, extra: Extra, mask_extra: bool
    ) -> tuple[Tree, MaskedState, Reports]:
        """All updates, transformed where it sees them, with its state and reports."""
        if mask_extra:
            structure = jax.tree.structure(updates)
            is_alike = lambda x: jax.tree.structure(x) == structure
            extra = {k: cut(x, self.mask) if is_alike(x) else x for k, x in extra.items()}
        observe = observe_of("the transformation of a part", self.tx)
        seen = None if params is None else cut(params, self.mask)
        extra = restricted(extra, seen, params)
        out, inner_state, reports = observe(cut(updates, self.mask), state.inner_state, seen, **extra)
        return filled(out, updates, self.mask), MaskedState(inner_state), reports


class Selecting(GradientTransformation):
    """The result of `masked`, `partition` and `groups`: it knows which part sees which leaves."""

    parts: Callable[[Tree], dict[Hashable, Selection]]


def mask_for(mask: Mask) -> Callable[[Tree], Tree]:
    """The function that gives the mask, as a tree of bools, for parameters."""
    if isinstance(mask, str):
        if mask not in BY_NAME:
            raise ValueError(f"masked: no mask is named {mask!r}; the names are {sorted(BY_NAME)}")
        mask = BY_NAME[mask]
    if not is_function(mask):
        check_bools(mask)

    def for_params(like):
        if not jax.tree.leaves(like):  # nothing to mask; optax.tree_map_params comes this way
            return True
        bools = mask(as_layers(like)) if is_function(mask) else mask
        check_bools(bools)
        spread("masked: the mask", bools, like)  # raises where there is none
        return bools

    return for_params


def is_function(mask: Mask) -> bool:
    """True for a function, False for a tree: an Equinox module is callable, but a tree of bools."""
    return callable(mask) and jax.tree_util.all_leaves([mask])


def check_bools(mask: Tree) -> None:
    for leaf in jax.tree.leaves(mask):
        if not is_bool(leaf):
            hint = ", which is not known before it runs" if isinstance(leaf, Tracer) else ""
            raise TypeError(f"masked: a mask is made of True and False, and this one holds {leaf!r}{hint}")


def spread(what: str, prefix: Tree, like: Tree) -> list:
    """The value of `prefix` for each leaf of `like`; its structure is that of `like` or a prefix of it."""
    pairs, treedef = tree_flatten_with_path(prefix, is_leaf=is_missing)
    subtrees = aligned(treedef, like, (what.partition(": ")[2], "the parameters"))
    out = []
    for (path, value), subtree in zip(pairs, subtrees, strict=True):
        leaves = flatten(subtree)[0]
        if is_missing(value) and not all(map(is_missing, leaves)):
            raise ValueError(
                f"{what} has {value} at {keystr(path) or 'the root'}, where there is a parameter"
            )
        out += [value] * len(leaves)
    return out


def cut(tree: Tree, mask: Tree) -> Tree:
    """`tree`, with MaskedNode where the mask is False; what the mask has None for is missing, and stays."""
    bools, treedef = flatten(mask)
    subtrees = aligned(treedef, tree, ("the parameters", "the updates"))
    return treedef.unflatten(
        [x if is_missing(m) or m else MaskedNode() for x, m in zip(subtrees, bools, strict=True)]
    )


def filled(tree: Tree, other: Tree, mask: Tree) -> Tree:
    """`tree`, with the leaves of `other` where it was cut."""
    bools, treedef = flatten(mask)
    ours = aligned(treedef, tree, ("the updates", "the transformed updates"))
    theirs = aligned(treedef, other, ("the parameters", "the updates"))
    return treedef.unflatten([x if is_true(m) else y for x, y, m in zip(ours, theirs, bools, strict=True)])


def is_true(m: Leaf) -> bool:
    return not is_missing(m) and bool(m)
