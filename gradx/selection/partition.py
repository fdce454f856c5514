"""A transformation for each part of the parameters, by label."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax
from optax.transforms import PartitionState

from gradx.core.chain import set_to_zero
from gradx.core.factory import factory
from gradx.core.foreign import check_transformation, is_exact
from gradx.core.reports import prefixed
from gradx.core.transformation import HINT, GradientTransformation, check_state
from gradx.core.tree import Tree, flatten, is_missing, slash_paths
from gradx.engine.layers import as_layers
from gradx.selection.masking import (
    Mask,
    Selecting,
    Selection,
    is_function,
    mask_for,
    masked,
    spread,
)

__all__ = ["PartitionState", "freeze", "multi_transform", "partition", "selective_transform"]


@factory
def partition(
    transforms: Mapping[Hashable, optax.GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformation:
    """Apply to each parameter the transformation that has its label; see `groups` for labels by path.

    Arguments:
      transforms: label -> transformation; each sees and keeps state for only the parameters with its label.
      param_labels: a tree of labels with the structure of the parameters or a prefix of it; or a
        function from the parameters to one.
      mask_compatible_extra_args: cut extra arguments that have the updates' structure too.

    Raises ValueError, with the parameters' paths, for a label without a transformation and for a
    transformation without a parameter: no update passes unchanged, and no transformation is idle.
    """
    return labelled("partition", transforms, param_labels, mask_compatible_extra_args)


def refused(message: str) -> None:
    raise ValueError(message)


def labelled(
    owner: str,
    transforms: Mapping[Hashable, optax.GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
    mask_extra: bool,
    idle: Callable[[str], None] = refused,
) -> Selecting:
    """`partition`; `idle` is told of transformations whose label no parameter has."""
    transforms = dict(transforms)
    for label, tx in transforms.items():
        check_transformation(f"the transformation for {label!r} of {owner}", tx)

    def assign(like):
        labels = param_labels(as_layers(like)) if is_function(param_labels) else param_labels
        at_leaf = spread(f"{owner}: the tree of labels", labels, like)
        here = {i: at_leaf[i] for i, x in enumerate(flatten(like)[0]) if not is_missing(x)}
        unknown = {i: label for i, label in here.items() if label not in transforms}
        if unknown:
            raise ValueError(
                f"{owner}: there are transformations for {list(transforms)}, and none for the label of"
                f"{path_lines(like, unknown)}"
            )
        # A function saw only the leaves that are here: its labels for missing ones are not known.
        is_known = not is_function(param_labels) or len(here) == len(at_leaf)
        unused = [label for label in transforms if is_known and label not in at_leaf]
        return Assignment(labels, unused, "no parameter has the label")

    return parted(owner, transforms, assign, mask_extra, idle)


multi_transform = partition


@factory
def freeze(mask: Mask) -> GradientTransformation:
    """Replace the updates by zeros where the mask is True; elsewhere they pass unchanged.

    Arguments:
      mask: which parameters stay, as in `masked`.

    The first link of a chain, it keeps gradients of frozen parameters out of norms; the last link, it keeps
    weight decay from moving them. `groups` with `frozen()` saves their slots too.
    """
    return masked(set_to_zero(), mask)


@factory
def selective_transform(
    optimizer: optax.GradientTransformation, *, freeze_mask: Mask
) -> GradientTransformation:
    """Apply an optimizer where the mask is False; elsewhere updates are zero, and there is no state.

    Arguments:
      optimizer: any transformation.
      freeze_mask: which parameters stay, as in `masked`.
    """
    check_transformation("the optimizer of selective_transform", optimizer)
    mask_of = mask_for(freeze_mask)

    def assign(like):
        return Assignment(jax.tree.map(lambda m: "freeze" if m else "train", mask_of(like)))

    return parted("selective_transform", {"train": optimizer, "freeze": set_to_zero()}, assign)


class Assignment(NamedTuple):
    """A tree of labels, or a prefix of one; the labels that no leaf has, and the error text for these."""

    labels: Tree
    unused: Sequence = ()
    meaning: str = ""


def parted(
    owner: str,
    transforms: Mapping[Any, optax.GradientTransformation],
    assign: Callable[[Tree], Assignment],
    mask_extra: bool = False,
    idle: Callable[[str], None] = refused,
) -> Selecting:
    """Apply each transformation to the leaves to which `assign` gives its label; `idle` as in `labelled`."""

    def assignment_of(like):
        if not jax.tree.leaves(like):  # nothing to assign; optax.tree_map_params comes this way
            return None
        return assign(like)

    def parts(like):
        found = assignment_of(like)
        mask = lambda k: True if found is None else jax.tree.map(lambda label: label == k, found.labels)
        return {k: Selection(tx, mask(k)) for k, tx in transforms.items()}

    def init(params):
        found = assignment_of(params)
        if found is not None and found.unused:
            labels = spread(owner, found.labels, params)
            idle(
                f"{owner}: {found.meaning} {' or '.join(map(repr, found.unused))}; the parameters are"
                f"{path_lines(params, dict(enumerate(labels)))}"
            )
        return PartitionState({label: part.init(params) for label, part in parts(params).items()})

    def blank(params):
        named = ((report_name(label), part.blank(params)) for label, part in parts(params).items())
        return tuple(report for name, reports in named for report in prefixed(name, reports))

    def observe(updates, state, params=None, **extra):
        check_state(owner, PartitionState, state)
        if set(state.inner_states) != set(transforms):
            raise ValueError(
                f"{owner}: the state has the parts {list(state.inner_states)}, and the transformation "
                f"{list(transforms)}{HINT}"
            )
        states, leaf_reports = {}, []
        for label, part in parts(updates if params is None else params).items():
            updates, states[label], reports = part.observe(
                updates, state.inner_states[label], params, extra, mask_extra
            )
            leaf_reports += prefixed(report_name(label), reports)
        return updates, PartitionState(states), tuple(leaf_reports)

    exact = any(map(is_exact, transforms.values()))
    return Selecting.of(init, observe, blank, exact=exact, parts=parts)


def report_name(label: Hashable) -> str:
    """The prefix of a part's reports: `groups/^head` for the pattern "^head/"."""
    return f"groups/{label}".rstrip("/")


MOST_LISTED = 100


def path_lines(tree: Tree, labels: Mapping[int, object]) -> str:
    """The paths of some leaves, with their labels, one a line, for an error."""
    paths = slash_paths(tree)
    lines = [f"\n  {paths[i] or 'the root'}: {label!r}" for i, label in labels.items()]
    left = len(lines) - MOST_LISTED
    return "".join(lines[:MOST_LISTED]) + (f"\n  ... and {left} more" if left > 0 else "")
