"""The group of each parameter, the links that it goes through, and their hyperparameters."""

import html
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.tree_util import tree_leaves_with_path

from gradx.core.chain import chain, named_chain
from gradx.core.display import text
from gradx.core.factory import Made, hashable
from gradx.core.foreign import check_transformation
from gradx.core.tree import Tree, slash_path
from gradx.selection.masking import Selecting, cut
from gradx.selection.overrides import hyperparameters, links_in
from gradx.selection.stacked import Stacked

__all__ = ["Explanation", "explain"]


class Row(NamedTuple):
    """A link that a parameter goes through; `group` is empty outside of groups."""

    parameter: str
    shape: tuple[int, ...]
    dtype: str
    group: str
    link: str
    hyperparameters: dict[str, Any]


class Explanation:
    """The result of `explain`: a table as text, and in a notebook; `rows` holds the same as tuples."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def table(self) -> list[list[str]]:
        """The cells, headings first; a cell is empty where it would repeat the line above."""
        lines, last = [list(Row._fields)], ""
        for row in self.rows:
            values = ", ".join(f"{k}={shown(v)}" for k, v in row.hyperparameters.items())
            place = [row.parameter, str(row.shape), row.dtype]
            lines.append([*(place if row.parameter != last else [""] * 3), row.group, row.link, values])
            last = row.parameter
        columns = [column for column in zip(*lines, strict=True) if any(column[1:]) or column[0] != "group"]
        return [list(cells) for cells in zip(*columns, strict=True)]

    def __str__(self) -> str:
        table = self.table()
        width = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(map(str.ljust, cells, width)).rstrip() for cells in table)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *lines = self.table()
        left = 'style="text-align: left"'  # words: notebooks align cells as numbers
        cells = lambda tag, line: "".join(f"<{tag} {left}>{html.escape(cell)}</{tag}>" for cell in line)
        rows = "".join(f"<tr>{cells('td', line)}</tr>" for line in lines)
        return f"<table><tr>{cells('th', head)}</tr>{rows}</table>"


def explain(tx: optax.GradientTransformation, params: Tree) -> Explanation:
    """Tell for each parameter its group, the links that it goes through, and their hyperparameters.

    Arguments:
      tx: any transformation of gradx or Optax; it must be one for these parameters.
      params: arrays, or abstract ones, such as `jax.ShapeDtypeStruct`s.

    A masked link is listed for the parameters that it applies to, a wrapper before what it wraps. It shows
    numbers, schedules, and arguments that differ from their defaults; of foreign links the name alone.

    >>> import gradx, jax
    >>> params = jax.eval_shape(lambda: {"kernel": jax.numpy.ones((2, 3)), "bias": jax.numpy.ones(3)})
    >>> decay = gradx.add_decayed_weights(0.1, mask="matrices_only")
    >>> gradx.explain(gradx.chain(gradx.trace(0.9), decay, gradx.scale(-0.01)), params)
    parameter  shape   dtype    link                 hyperparameters
    bias       (3,)    float32  trace                decay=0.9
                                scale                step_size=-0.01
    kernel     (2, 3)  float32  trace                decay=0.9
                                add_decayed_weights  weight_decay=0.1, mask='matrices_only'
                                scale                step_size=-0.01
    """
    check_transformation("tx of explain", tx)
    try:
        shapes = jax.eval_shape(lambda tree: tree, params)
    except TypeError as e:
        raise TypeError(f"explain: params must hold arrays, or objects with a shape and a dtype: {e}") from e
    jax.eval_shape(tx.init, shapes)  # raises where tx is not for these parameters
    found = {path: (x, []) for path, x in tree_leaves_with_path(shapes)}
    for path, group, link in links_of(tx, shapes):
        found[path][1].append((group, *described(link)))
    rows = []
    for path, (x, links) in found.items():
        place = slash_path(path), x.shape, x.dtype.name
        rows += [Row(*place, *link) for link in links or [("", "", {})]]
    return Explanation(rows)


def links_of(tx: Any, like: Tree, group: str = "") -> Iterator[tuple[tuple, str, Any]]:
    """(path, group, link) for each link that a leaf goes through, in order for each leaf."""
    call = getattr(tx, "_call", None)
    inner = list(links_in(list(call.bound.arguments.values()))) if call else []
    if isinstance(tx, Selecting):
        for name, part in tx.parts(like).items():
            here = cut(like, part.mask)
            within = " > ".join(str(label) for label in (group, name) if label != "")
            # A link that masks itself, such as add_decayed_weights: no factory made the inside.
            if isinstance(part.tx, Made) and part.tx._call is None and all(part.tx is not x for x in inner):
                yield from ((path, within, tx) for path, _ in tree_leaves_with_path(here))
            else:
                yield from links_of(part.tx, here, within)
        return
    if call is None or call.function not in (chain, named_chain):
        yield from ((path, group, tx) for path, _ in tree_leaves_with_path(like))
    like = tx.as_layers(like) if isinstance(tx, Stacked) else like
    for link in inner:
        yield from links_of(link, like, group)


def described(link: Any) -> tuple[str, dict[str, Any]]:
    """The name of a link, and the hyperparameters worth showing."""
    call = getattr(link, "_call", None)
    if call is None:
        return text(link), {}
    parameters = call.bound.signature.parameters
    is_shown = lambda k, v: is_number(v) or hashable(v) != hashable(parameters[k].default)
    return text(call.function), {k: v for k, v in hyperparameters(call).items() if is_shown(k, v)}


def is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | np.bool_)


def shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else text(value)
