"""The field, the link and the parameter that each array of a state belongs to."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import GetAttrKey, all_leaves, keystr, tree_flatten_with_path

from gradx.codecs.stored import Codec, is_stored
from gradx.core.tree import (
    PART_KEYS,
    Leaf,
    MaskedNode,
    State,
    Tree,
    Treedef,
    flatten,
    is_missing,
    slash_paths,
)
from gradx.wrappers.complex_parts import ComplexParts
from gradx.wrappers.packing import Packed, PackedState, pack_state, unpack_state

__all__ = []  # internal: `slots`, `migrate` and the checkpoints use it

# Fields that hold numbers by name, whatever names the parameters have.
NUMBERS = {"hyperparams", "hyperparams_states"}


class Entry(NamedTuple):
    """An array of a state.

    `owner` is the class of the link's state, `field` the array's place in it, and `part` the names of the
    groups and links around it. `link` is where that state is, by keys. `i` and `path` are the parameter's, or
    None. `codec` is how a stored slot holds it.
    """

    part: str
    owner: str
    field: str
    link: tuple
    i: int | None
    path: str | None
    array: Leaf  # a `Stored` too
    codec: Codec | None = None


def entries(state: State, params: Tree, *, whole: bool = False) -> list[Entry]:
    """The arrays of a state, in the order of its leaves.

    Where a part of it has the structure of the parameters, its arrays belong to them, whatever their shapes.
    A parameter may have a container of arrays there, as in SM3. A stored slot gives an entry for each of its
    arrays, such as codes and scales; or, if `whole`, one entry, whose array is the `Stored`.
    """
    paths = slash_paths(params)
    found: list[Entry] = []

    def add(keys: tuple, owners: tuple, i: int | None, array: Leaf, codec: Codec | None = None) -> None:
        if is_stored(array) and not whole:
            for key, x in tree_flatten_with_path(array.arrays)[0]:
                add((*keys, *key), (*owners, ""), i, x, array.codec)
            return
        fields = [k for k, key in enumerate(keys) if isinstance(key, GetAttrKey) and key not in PART_KEYS]
        last = fields[-1] if fields else 0
        names = [keystr((key,), simple=True) for key in keys]
        outside = [name for name, key in zip(names[:last], keys, strict=False) if is_name(key)]
        owner = owners[last] if fields else ""
        field = "/".join(names[last:]) or "state"
        path = None if i is None else paths[i]
        found.append(Entry("/".join(outside), owner, field, keys[:last], i, path, array, codec))

    def walk(node: Tree, keys: tuple, owners: tuple) -> None:
        is_number = any(isinstance(k, GetAttrKey) and k.name in NUMBERS for k in keys)
        pieces = None if is_number else pieces_of(node, params)
        for i, piece in enumerate(pieces or []):
            for below, x in tree_flatten_with_path(piece, is_leaf=is_stored)[0]:
                add((*keys, *below), (*owners, *[""] * len(below)), i, x)
        if pieces is None:
            if is_leaf(node):
                add(keys, owners, None, node)
                return
            owner = type(node).__name__.removesuffix("State")
            for key, child in tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]:
                walk(child, (*keys, *key), (*owners, *[owner] * len(key)))

    walk(state, (), ())
    return found


def is_name(key: object) -> bool:
    """Whether a key is the name of a group or link: a string in a dict, not a position."""
    return isinstance(getattr(key, "key", None), str)


def pieces_of(node: Tree, params: Tree) -> list[Tree] | None:
    """The subtree of `node` for each parameter, if it has the structure of the parameters; else None."""
    if is_leaf(params):  # one bare array, whose structure every leaf has
        is_float = jnp.issubdtype(getattr(node, "dtype", bool), jnp.inexact)
        return [node] if is_float and bool(node.shape) == bool(params.shape) else None
    pieces = subtrees_at(node, params)
    here = [x for x in pieces or [] if not is_absent(x)]
    return pieces if here and all(map(is_piece, here)) else None


def is_absent(x: Tree) -> bool:
    """Whether there is no array; for a complex parameter, none of either part."""
    return is_missing(x) or (isinstance(x, ComplexParts) and not jax.tree.leaves(x))


def subtrees_at(node: Tree, params: Tree) -> list[Tree] | None:
    """The subtrees of `node` at the parameters; where a whole branch is masked out, MaskedNode."""
    if is_missing(node):
        return [MaskedNode()] * len(flatten(params)[0])
    if is_missing(params) or is_leaf(params):
        return [node]
    (ours, structure), (theirs, other) = one_level(params), one_level(node)
    if structure != other:
        return None
    below = [subtrees_at(x, p) for x, p in zip(theirs, ours, strict=True)]
    return None if any(x is None for x in below) else [x for pieces in below for x in pieces or []]


def one_level(node: Tree) -> tuple[list[Tree], Treedef]:
    """The children of a node, and its structure one level deep."""
    return jax.tree.flatten(node, is_leaf=lambda x: x is not node)


def is_leaf(x: Tree) -> bool:
    return is_stored(x) or all_leaves([x])


def is_piece(x: Tree) -> bool:
    """Whether this is an array or a plain container of arrays; for a complex parameter, one for each part."""
    if isinstance(x, Mapping):
        x = list(x.values())
    if isinstance(x, ComplexParts):
        return is_piece(x.real) and is_piece(x.imag)
    return all(map(is_leaf, x)) if type(x) in (list, tuple) else is_leaf(x)


def with_arrays(state: State, arrays: list[Leaf]) -> State:
    """A state with other arrays, in the order of its leaves; a stored slot counts as one."""
    return jax.tree.unflatten(jax.tree.structure(state, is_leaf=is_stored), arrays)


def full_names(found: list[Entry]) -> list[str]:
    """A name for each entry, from part, owner and field; it does not depend on the other links."""
    return numbered(found, ["/".join(filter(None, (e.part, e.owner, e.field))) for e in found])


def short_names(found: list[Entry]) -> list[str]:
    """The field, with part and owner before it only where one parameter has two such arrays."""
    names = [e.field for e in found]
    for field in clashing(found, names):
        own = [k for k, e in enumerate(found) if e.field == field]
        varied = [len({getattr(found[k], what) for k in own}) > 1 for what in ("part", "owner")]
        for k in own:
            outside = [x for x, v in zip(found[k][:2], varied, strict=True) if v and x]
            names[k] = "/".join([*outside, field])
    return numbered(found, names)


def clashing(found: list[Entry], names: list[str]) -> set[str]:
    """The names that two arrays of one parameter share, or two that belong to none."""
    seen = defaultdict(int)
    for e, name in zip(found, names, strict=True):
        seen[name, e.i] += 1
    return {name for (name, _), n in seen.items() if n > 1}


def numbered(found: list[Entry], names: list[str]) -> list[str]:
    """`names`, with [0], [1], … after names that are still equal."""
    links = {name: {} for name in clashing(found, names)}
    for e, name in zip(found, names, strict=True):
        if name in links:
            links[name].setdefault(e.link, len(links[name]))
    return [
        f"{name}[{links[name][e.link]}]" if name in links else name
        for e, name in zip(found, names, strict=True)
    ]


def unpacked(owner: str, tx: optax.GradientTransformation, state: State, params: Tree) -> State:
    """The ordinary state, where `tx` is `packed`; an error where a packed one lies deeper."""
    return check_unpacked(owner, unpack_state(tx, state, params) if isinstance(tx, Packed) else state)


def repacked(tx: optax.GradientTransformation, state: State, params: Tree) -> State:
    """The state of `tx`, packed again where `tx` is `packed`."""
    return pack_state(tx, state, params) if isinstance(tx, Packed) else state


def check_unpacked(owner: str, state: State) -> State:
    """The state; raises if a part of it is packed."""
    is_packed = lambda x: isinstance(x, PackedState)
    if any(map(is_packed, jax.tree.leaves(state, is_leaf=is_packed))):
        raise ValueError(
            f"{owner}: a part of the state is packed, and its buffers hold slots of many parameters: put "
            "packed around the whole transformation, and call unpack_state(tx, state, params)"
        )
    return state
