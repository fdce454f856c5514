"""The parameters that a transformation never changes, whatever their gradients."""

import optax
from jax.tree_util import tree_leaves_with_path

from gradx.core.chain import chain, named_chain, set_to_zero
from gradx.core.tree import Tree
from gradx.selection.groups import frozen
from gradx.selection.masking import Selecting, cut

__all__ = []  # internal: `minimize` does not wait until their gradients vanish


def held_paths(tx: optax.GradientTransformation, params: Tree) -> set[tuple]:
    """The paths of the parameters that `frozen()` or `set_to_zero()` applies to, in any group or link."""
    call = getattr(tx, "_call", None)
    function = None if call is None else call.function
    if function in (set_to_zero, frozen):
        return {path for path, _ in tree_leaves_with_path(params)}
    if isinstance(tx, Selecting):
        parts = tx.parts(params).values()
        return set().union(*(held_paths(part.tx, cut(params, part.mask)) for part in parts))
    if call is None or function not in (chain, named_chain):
        return set()  # a wrapper may apply its inner transformation at some steps only
    links = call.bound.arguments["links"]
    links = [link for _, link in links] if function is named_chain else links
    return set().union(*(held_paths(link, params) for link in links))
