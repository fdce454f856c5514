"""Groups of parameters by path, each with its transformation or its hyperparameters."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import optax

from gradx.core.chain import set_to_zero
from gradx.core.display import text
from gradx.core.factory import factory, is_bool
from gradx.core.foreign import check_transformation
from gradx.core.ranges import check_number, positive_integer
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Leaf, Tree, flatten, is_missing, slash_paths
from gradx.engine.layers import as_layers
from gradx.selection.overrides import overridden, scaled
from gradx.selection.partition import Assignment, parted, path_lines

__all__ = ["frozen", "groups", "layerwise_decay"]

Pattern: TypeAlias = str | re.Pattern | Callable[[str, Leaf], bool]
Matcher: TypeAlias = Callable[[str, Leaf], bool | None]  # None: unknown for a missing leaf
Rule: TypeAlias = optax.GradientTransformation | dict[str, Any]


@factory
def groups(default: optax.GradientTransformation, rules: dict[Pattern, Rule]) -> GradientTransformation:
    """Apply to some parameters, found by their paths, another transformation or other hyperparameters.

    Arguments:
      default: any transformation, for the parameters that no pattern matches, if there are any.
      rules: pattern -> transformation, or `frozen()`, or a dict of hyperparameters in which the group differs
        from the default, each a new value or `scaled(0.1)`. A pattern is a regular expression that is
        searched for in the path (`re.search` in "backbone/dense_0/kernel"), or a function
        (path, array) -> bool.

    Each group has a separate transformation, so a norm over all parameters belongs in front of it:
    `chain(clip_by_global_norm(1.0), groups(adamw(1e-3), {...}))`. The state is `partition`'s; the key of a
    group is the pattern's text, the function's name, or "default".

    Raises ValueError, with the parameters' paths, for a pattern that matches none and for two that match one;
    KeyError, with the names that exist, for a hyperparameter that the default does not have; ValueError for
    one that several of its links have.

    >>> import gradx, jax.numpy as jnp
    >>> rules = {"^head/": dict(learning_rate=gradx.scaled(10)), "^embed/": gradx.frozen()}
    >>> tx = gradx.groups(gradx.sgd(0.01, momentum=0.9), rules)
    >>> params = {name: {"kernel": jnp.ones((2, 2))} for name in ("embed", "dense", "head")}
    >>> print(gradx.explain(tx, params))
    parameter     shape   dtype    group    link    hyperparameters
    dense/kernel  (2, 2)  float32  default  sgd     learning_rate=0.01, momentum=0.9
    embed/kernel  (2, 2)  float32  ^embed/  frozen
    head/kernel   (2, 2)  float32  ^head/   sgd     learning_rate=0.1, momentum=0.9
    """
    check_transformation("the default of groups", default)
    if not isinstance(rules, dict):
        raise TypeError(f"groups: rules must be a dict, from patterns to transformations, got {text(rules)}")
    matchers, transforms = {}, {"default": default}
    for pattern, rule in rules.items():
        name = name_of(pattern)
        if name in transforms:
            raise ValueError(f"groups: two groups are named {name!r}, and their states would be one")
        matchers[name] = matcher("groups", pattern)
        transforms[name] = (
            overridden(f"groups, for {name!r}", default, rule) if isinstance(rule, dict) else rule
        )
        check_transformation(f"the transformation of groups for {name!r}", transforms[name])
    return parted("groups", transforms, lambda like: assigned(matchers, like))


@factory
def frozen() -> GradientTransformation:
    """Freeze parameters: updates of zero and no state. A group of `groups`.

    A norm in front of `groups` includes their gradients. To leave them out, put
    `groups(identity(), {pattern: frozen()})` before the link that takes the norm.
    """
    return set_to_zero()


def name_of(pattern: Pattern) -> str:
    """The name of a group in the state and in reports."""
    if isinstance(pattern, str):
        return pattern
    return pattern.pattern if isinstance(pattern, re.Pattern) else text(pattern)


def matcher(owner: str, pattern: Pattern) -> Matcher:
    """A pattern as a function of path and leaf, which gives None if it needs an array that is missing."""
    if isinstance(pattern, str | re.Pattern):
        try:
            search = re.compile(pattern).search
        except re.error as e:
            raise ValueError(f"{owner}: {pattern!r} is not a regular expression: {e}") from e
        return lambda path, x: search(path) is not None
    if not callable(pattern):
        raise TypeError(
            f"{owner}: a pattern is a regular expression or a function (path, array) -> bool, got {pattern!r}"
        )

    def match(path, x):
        if is_missing(x):
            return None
        found = pattern(path, x)
        if not is_bool(found):
            raise TypeError(
                f"{owner}: {text(pattern)} must give True or False, and gave {found!r} for {path!r}"
            )
        return bool(found)

    return match


def assigned(matchers: dict[str, Matcher], like: Tree) -> Assignment:
    """The group of each leaf."""
    names, unused = match_leaves("groups", matchers, like)
    labels = flatten(like)[1].unflatten(["default" if name is None else name for name in names])
    return Assignment(labels, unused, "nothing matches")


def match_leaves(owner: str, matchers: dict[Any, Matcher], like: Tree) -> tuple[list, list]:
    """For each leaf the key of the matcher that matches it, or None; and the keys that match no leaf."""
    leaves = list(zip(slash_paths(like), flatten(as_layers(like))[0], strict=True))
    found = {name: [match(*leaf) for leaf in leaves] for name, match in matchers.items()}
    matching = [[name for name in matchers if found[name][i]] for i in range(len(leaves))]
    several = {
        i: names for i, names in enumerate(matching) if len(names) > 1 and not is_missing(leaves[i][1])
    }
    if several:
        raise ValueError(f"{owner}: two patterns match one parameter{path_lines(like, several)}")
    unused = [name for name, at_leaf in found.items() if all(m is False for m in at_leaf)]
    return [names[0] if names else None for names in matching], unused


@factory
def layerwise_decay(
    tx: optax.GradientTransformation,
    layers: Sequence[Pattern] | Callable[[str], int | None],
    decay: float = 0.75,
    *,
    num_layers: int | None = None,
) -> GradientTransformation:
    """Give lower layers lower learning rates (Clark et al. 2020, arXiv:2003.10555), for finetuning.

        learning_rate * decay ** (layers above)

    Arguments:
      tx: an optimizer with one `learning_rate`, a number or a schedule.
      layers: the patterns of the layers, as in `groups`, from the input to the output; or a function from the
        path to the number of the layer, 0 first, or None for none. Other parameters have the whole rate.
      decay: the factor of the rate from a layer to the one below, between 0 and 1; 0.65 to 0.9.
      num_layers: the number of layers, if `layers` is a function.

    Weight decay is left to `tx`: `adamw(..., mask="no_bias_or_norm")` spares the biases of all layers.
    Raises the errors of `groups`, say for `layer_1`, which matches layer_10 too: write `layer_1/`.

    >>> import gradx
    >>> layers = ["^embed/", *(f"^layer_{i}/" for i in range(12)), "^head/"]
    >>> tx = gradx.layerwise_decay(gradx.adamw(1e-3), layers, decay=0.75)
    """
    check_number("layerwise_decay", decay=decay)
    if callable(layers):
        if num_layers is None:
            raise TypeError("layerwise_decay: layers is a function: give num_layers too")
        positive_integer("layerwise_decay", num_layers=num_layers)
        patterns: list[Pattern] = [Layer(layers, i, num_layers) for i in range(num_layers)]
    else:
        if num_layers is not None or isinstance(layers, str):
            raise TypeError(
                "layerwise_decay: layers must be a list of patterns, or a function with num_layers"
            )
        patterns = list(layers)
    if len(set(patterns)) < len(patterns):
        raise ValueError(f"layerwise_decay: a pattern occurs twice in {text(patterns)}")
    above = range(len(patterns) - 1, -1, -1)
    return groups(tx, {p: {"learning_rate": scaled(decay**n)} for p, n in zip(patterns, above, strict=True)})


class Layer:
    """The pattern of one layer, from a function from paths to the numbers of layers."""

    def __init__(self, layer_of: Callable[[str], int | None], number: int, num_layers: int) -> None:
        self.layer_of, self.number, self.num_layers = layer_of, number, num_layers
        self.__name__ = f"layer_{number}"

    def __call__(self, path: str, x: Leaf) -> bool:
        number = self.layer_of(path)
        if number is not None and number not in range(self.num_layers):
            raise ValueError(
                f"layerwise_decay: {text(self.layer_of)} must give the number of a layer, below "
                f"{self.num_layers}, or None, and gave {number!r} for {path!r}"
            )
        return number == self.number
