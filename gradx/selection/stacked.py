"""Treat layers that a model stacks in one array, to scan over them, as separate layers."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from gradx.core.display import text
from gradx.core.factory import factory
from gradx.core.foreign import blank_of, is_exact, observe_of
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Leaf, Tree, flatten, is_missing, slash_paths
from gradx.engine.layers import Axes, as_layers, layered
from gradx.selection.groups import Pattern, match_leaves, matcher
from gradx.selection.partition import path_lines

__all__ = ["stacked"]

Stack: TypeAlias = int | tuple[int, ...]


class Stacked(GradientTransformation):
    """The result of `stacked`: a transformation that knows the shape of a layer."""

    as_layers: Callable[[Tree], Tree]


@factory
def stacked(
    tx: optax.GradientTransformation, rule: dict[Pattern, Stack] | Callable[[str, Leaf], Stack | None]
) -> GradientTransformation:
    """Take per-array quantities per layer, where a scan over layers stacks their parameters in one array.

    Trust ratios, norms and means of one array, factored slots and the like are taken for each layer alone,
    and masks, labels and patterns by shape see the shape of a layer. Norms over all parameters do not change.
    The state is that of `tx` for these parameters: a slot with the rank of its parameter has the same stacked
    axes; another slot, such as a number for each layer, has them in front.

    Arguments:
      tx: any transformation. Links of Optax do not know layers: elementwise ones are right, others see one
        large array.
      rule: pattern -> stacked axis, or a tuple of several, say {"^layers/": 0}; patterns as in `groups`.
        Or a function (path, array) -> axis, tuple, or None for an array that is not stacked. For models of
        Flax `gradx.flax.stacked_axes` makes it.

    Put it around every wrapper that must know the layers, such as `masked`, `groups` and `store`. With
    `measured` there is a trust ratio for each layer. Where one `stacked` is in another, the inner one counts.

    Raises ValueError, with the parameters' paths, for a pattern or a function that finds nothing, for two
    patterns that match one parameter, and for an axis that a parameter does not have.

    >>> import gradx, jax.numpy as jnp
    >>> params = {"layers": {"kernel": jnp.stack([jnp.ones((2, 2)), jnp.full((2, 2), 10.0)])}}
    >>> tx = gradx.stacked(gradx.scale_by_trust_ratio(), {"^layers/": 0})
    >>> updates, _ = tx.update({"layers": {"kernel": jnp.ones((2, 2, 2))}}, tx.init(params), params)
    >>> updates["layers"]["kernel"][:, 0, 0].tolist()
    [1.0, 10.0]
    """
    inner_observe = observe_of("the transformation of stacked", tx)
    find = by_pattern(rule) if isinstance(rule, dict) else by_function(rule)

    def known(like):
        """The axes of each stacked parameter, by position."""
        if not jax.tree.leaves(like):  # nothing is stacked; optax.tree_map_params comes this way
            return {}
        leaves = enumerate(zip(slash_paths(like), flatten(like)[0], find(like), strict=True))
        return {i: axes_of(*x) for i, x in leaves if x[2] is not None and not is_missing(x[1])}

    def within(like):
        paths = slash_paths(like)
        return layered({paths[i]: axes for i, axes in known(like).items()})

    def init(params):
        with within(params):
            return tx.init(params)

    def blank(params):
        with within(params):
            return blank_of(tx)(params)

    def observe(updates, state, params=None, **extra):
        with within(updates if params is None else params):
            return inner_observe(updates, state, params, **extra)

    shown = lambda like: as_layers(like, known(like))
    return Stacked.of(init, observe, blank, exact=is_exact(tx), as_layers=shown)


def by_pattern(rule: dict[Pattern, Stack]) -> Callable[[Tree], list[Stack | None]]:
    """A function from a tree to the stacked axes (or None) of each leaf, from patterns."""
    for pattern, axes in rule.items():
        check_axes(axes, f"for {text(pattern)}")
    matchers = {pattern: matcher("stacked", pattern) for pattern in rule}

    def find(like):
        found, unused = match_leaves("stacked", matchers, like)
        if unused:
            raise ValueError(f"stacked: nothing matches {' or '.join(map(text, unused))}{shapes(like)}")
        return [None if pattern is None else rule[pattern] for pattern in found]

    return find


def by_function(rule: Callable[[str, Leaf], Stack | None]) -> Callable[[Tree], list[Stack | None]]:
    """The same from a function."""
    if not callable(rule):
        raise TypeError(
            "stacked: rule must be a dict, from patterns to axes, or a function (path, array) -> axes or "
            f"None, got {rule!r}"
        )

    def find(like):
        leaves = flatten(like)[0]
        given = zip(slash_paths(like), leaves, strict=True)
        found = [None if is_missing(x) else rule(path, x) for path, x in given]
        if all(axes is None for axes in found) and not any(map(is_missing, leaves)):
            raise ValueError(f"stacked: {text(rule)} gives no axis for any parameter{shapes(like)}")
        return found

    return find


def shapes(like: Tree) -> str:
    leaves = [None if is_missing(x) else np.shape(x) for x in flatten(like)[0]]
    return f"; the parameters are{path_lines(like, dict(enumerate(leaves)))}"


def check_axes(axes: object, what: str) -> None:
    """Raise unless these are axes."""
    given = axes if isinstance(axes, tuple) else (axes,)
    if not given or not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in given):
        raise TypeError(f"stacked: {what}, axes must be an integer or a tuple of them, got {axes!r}")


def axes_of(path: str, x: Leaf, axes: Any) -> Axes:
    """The axes of one parameter, in order."""
    check_axes(axes, f"for the parameter at {path or 'the root'}")
    shape, given = np.shape(x), axes if isinstance(axes, tuple) else (axes,)
    found = Axes(sorted({axis % len(shape) for axis in given if -len(shape) <= axis < len(shape)}))
    if len(found) < len(given):
        raise ValueError(
            f"stacked: the parameter at {path or 'the root'} has shape {shape}, of which {axes} "
            f"{'are not axes' if isinstance(axes, tuple) else 'is no axis'}"
        )
    return found
