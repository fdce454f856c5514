"""Slots in smaller formats, for any transformation."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Var

from gradx.codecs.exact import is_exact
from gradx.codecs.rounded import Rounded
from gradx.codecs.squares import is_positive
from gradx.codecs.stored import Codec, Stored, is_stored
from gradx.core.display import text
from gradx.core.factory import factory
from gradx.core.foreign import observe_of, wrapper
from gradx.core.ranges import positive_integer
from gradx.core.transformation import HINT, GradientTransformation, Init, check_state
from gradx.core.tree import Leaf, State, Tree, aligned, flatten, slash_paths
from gradx.engine.layers import as_layers, axes_here
from gradx.numerics.arrays import increment
from gradx.numerics.rounding import Salt, dither, salts
from gradx.selection.groups import Pattern, matcher
from gradx.states.entries import Entry, entries, short_names
from gradx.states.slots import full_name
from gradx.transforms.noise import check_key, new_key

__all__ = ["StoreState", "store"]

Codecs: TypeAlias = Codec | dict[str, Codec]  # one for all slots, or by name
Seed: TypeAlias = jax.Array | int | None


class StoreState(NamedTuple):
    """The number of steps, which sets the random bits; the inner state, with a `Stored` for some arrays."""

    steps: jax.Array  # not `count`, which tools look for in the state of an optimizer, and find once
    inner_state: State


@factory
def store(
    tx: optax.GradientTransformation,
    codecs: Codecs,
    *,
    where: Pattern | None = None,
    min_size: int = 4096,
    seed: Seed = None,
) -> GradientTransformation:
    """Hold the slots of a transformation in fewer bytes: 16, 8 or 4 bits for each element.

        slots    = decode(stored)
        u, slots = tx(g, slots)
        stored   = encode(slots)

    `tx` computes in float32 as before. Under jit the three lines are fused: on a GPU into one pass over
    memory, or into two for blocks, whose scales come first. Put `store` around the optimizer, and put
    accumulation, skipping, `packed` and the like around `store`.

    Arguments:
      tx: any transformation, of Optax too.
      codecs: the format of all slots, or formats by name, `{"nu": Rounded("bfloat16")}`. The names are those
        of `slots`; an unambiguous suffix is enough.
      where: the parameters whose slots are stored: a regular expression that is searched for in the path, or
        a function (path, array) -> bool; None for all. "^(?!embed/)" leaves out embeddings, whose rare and
        large gradients are the hardest to hold in few bits.
      min_size: the fewest elements of an array that is stored, at least 1.
      seed: an integer or a random key, another for each store. Codecs that round by chance need it: all
        codecs but those with rounding="nearest".

    Smaller arrays and vectors are not stored. With one codec for all slots, neither are integers, complex
    numbers, arrays that the codec cannot hold, and copies of the parameters, such as averages of them or
    L-BFGS's; name such a slot to store it. It is no error if all slots are too small, or if `tx` has no slots
    for one codec. Stores may nest: each slot is stored once, by the innermost.

    Raises TypeError for a missing seed, and for named integers or complex numbers; KeyError, with the names
    that exist, for a slot that `tx` does not have; ValueError for a `where` that matches no parameter, for a
    block that does not divide, for a named slot that the codec cannot hold, and for averages of squares in
    float16, or in bfloat16 by nearest rounding, where they stall: give `rounding="stochastic"`, 8 bits, or
    `force=True`.

    >>> import gradx, jax
    >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), "float32")}
    >>> tx = gradx.store(gradx.adamw(1e-3), gradx.Rounded("bfloat16"), seed=0)
    >>> round(gradx.summarize(tx, params).bytes_per_parameter, 2)
    4.0
    """
    inner_observe = observe_of("the inner transformation of store", tx)
    positive_integer("store", min_size=min_size)
    check_codecs(codecs, seed)
    named = isinstance(codecs, dict)
    matches = matcher("store: where", every if where is None else where)

    def init(params):
        state = tx.init(params)
        if jax.tree.leaves(params):  # else nothing to store; optax.tree_map_params comes this way
            leaves, treedef = jax.tree.flatten(state, is_leaf=is_own)
            for k, like in chosen(state, params).items():
                # The barrier keeps XLA from encoding zeros when it compiles, which takes it minutes.
                leaves[k] = encoded(like, jax.lax.optimization_barrier(leaves[k]))
            state = treedef.unflatten(leaves)
        return StoreState(jnp.zeros((), jnp.int32), state)

    def chosen(state, params):
        """The `Stored` of each stored slot, still without arrays, by its position among the leaves."""
        leaves, treedef = jax.tree.flatten(state, is_leaf=is_own)
        places = [k for k, x in enumerate(leaves) if not isinstance(x, StoreState)]
        without = [() if isinstance(x, StoreState) else x for x in leaves]
        found = entries(treedef.unflatten(without), params)
        copies = set() if named else copied(tx.init, params)
        theirs, layers, out = selected(params), axes_here(params), {}
        for k, e, (name, codec) in zip(places, found, with_codecs(codecs, found), strict=True):
            is_left = k in copies or (not named and is_exact(e.owner, e.field))
            if codec is not None and e.i in theirs and not is_left:
                positive = is_positive(e.owner, e.field)
                what, ndim = f"store: {name} of {e.path}", e.array.ndim - len(layers.get(e.i, ()))
                if is_held(what, codec, e.array, ndim, positive, min_size, named):
                    out[k] = Stored({}, codec, positive, e.array.dtype)
        return out

    def selected(params):
        """The positions of the parameters whose slots are stored."""
        paths, ps = slash_paths(params), flatten(as_layers(params))[0]
        found = {i: matches(path, p) for i, (path, p) in enumerate(zip(paths, ps, strict=True))}
        if all(m is False for m in found.values()):  # None: unknown for a missing parameter
            raise ValueError(f"store: where={text(where)} matches none of the parameters {paths}")
        return {i for i, m in found.items() if m}

    def observe(updates, state, params=None, **extra):
        check_state("store", StoreState, state)
        state = whole(state, updates if params is None else params)
        old, treedef = jax.tree.flatten(state.inner_state, is_leaf=is_own)
        places = [k for k, x in enumerate(old) if is_stored(x)]
        check_formats([old[k].codec for k in places], codecs)
        inner = treedef.unflatten([decoded(x) if is_stored(x) else x for x in old])
        updates, inner, reports = inner_observe(updates, inner, params, **extra)
        new = aligned(treedef, inner, ("the inner state that was given", "the one returned"), HINT)
        for k, salt in zip(places, salts_for([old[k] for k in places], seed), strict=True):
            new[k] = encoded(old[k], new[k], salt, state.steps)
        return updates, StoreState(increment(state.steps), treedef.unflatten(new)), reports

    def whole(state, params):
        """The state with its `Stored` nodes: Flax NNX replaces them by other containers at every step."""
        if any(map(is_stored, jax.tree.leaves(state, is_leaf=is_stored))):
            return state
        likes, leaves = jax.tree.structure(jax.eval_shape(init, params)), jax.tree.leaves(state)
        return likes.unflatten(leaves) if likes.num_leaves == len(leaves) else state

    return wrapper(tx, init, observe)


def every(path: str, array: Leaf) -> bool:
    return True


def is_own(x: object) -> bool:
    """Whether a node counts as one leaf: a slot that is stored here, or the state of an inner store."""
    return is_stored(x) or isinstance(x, StoreState)


@jax.jit  # traced once for all slots of a shape and format
def decoded(slot: Stored) -> jax.Array:
    return slot.decode()


@jax.jit
def encoded(like: Stored, x: jax.Array, salt: Salt | None = None, steps: Any = None) -> Stored:
    return like.encode(x, None if salt is None else dither(salt, steps, x))


def salts_for(slots: list[Stored], seed: Seed) -> list[Salt | None]:
    """A salt for each slot whose codec rounds by chance, a constant of the program; the same at all steps."""
    n = sum(slot.codec.stochastic for slot in slots)
    if not n:
        return [None] * len(slots)
    with jax.ensure_compile_time_eval():
        rows = iter(salts(new_key(seed), 0, n))
    return [next(rows) if slot.codec.stochastic else None for slot in slots]


def check_codecs(codecs: Codecs, seed: Seed) -> None:
    """Raise unless there are formats, and a seed if one needs it."""
    is_dict = isinstance(codecs, dict)
    given = list(codecs.values()) if is_dict else [codecs]
    if not given or not all(isinstance(codec, Codec) for codec in given):
        raise TypeError(
            "store: codecs must be a codec, such as Rounded('bfloat16'), or a dict from the names of slots "
            f"to codecs, got {text(codecs)}"
        )
    if seed is not None:
        check_key("store", seed, "seed")
        return
    for codec in given:
        if codec.stochastic:
            raise TypeError(
                f"store: {codec!r} rounds by chance: give seed, an integer or a random key, another one to "
                "each store"
            )


def check_formats(held: list[Codec], codecs: Codecs) -> None:
    """Raise if a state holds a format that is not in `codecs`."""
    given = list(codecs.values()) if isinstance(codecs, dict) else [codecs]
    for codec in held:
        if codec not in given:
            raise ValueError(
                f"store: the state holds {codec!r}, and codecs is {text(codecs)}: use migrate to change the "
                "format"
            )


def with_codecs(codecs: Codecs, found: list[Entry]) -> list[tuple[str, Codec | None]]:
    """The name of each array of a state, and the codec of that name."""
    names = short_names(found)
    if not isinstance(codecs, dict):
        return [(name, codecs) for name in names]
    known = [name for name, e in zip(names, found, strict=True) if e.i is not None]
    by_name = {full_name("store", known, name): codec for name, codec in codecs.items()}
    return [(name, by_name.get(name)) for name in names]


def is_held(
    what: str, codec: Codec, x: jax.Array, ndim: int, positive: bool, min_size: int, named: bool
) -> bool:
    """Whether an array with `ndim` axes in a layer is stored; an error if it is named, but cannot be."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        if named:
            raise TypeError(
                f"{what} is {x.dtype}, and only real floating point can be stored: leave the slot out of "
                "codecs, or leave out the parameter by where"
            )
        return False
    if ndim < 2 or x.size < min_size:
        return False
    try:
        wrong = codec.check(x.shape, x.dtype)
    except ValueError as e:  # a mistake in the codec, whatever the array
        raise ValueError(f"{what}: {e}") from e
    if wrong and named:
        raise ValueError(f"{what}: {wrong}")
    if not wrong and positive and stalls(codec):
        raise ValueError(
            f"{what} holds no numbers below 0: averages of squares stall or underflow in {codec!r}; take "
            "Rounded('bfloat16', 'stochastic') or Blockwise(), or force=True to use it anyway"
        )
    return not wrong


def stalls(codec: Codec) -> bool:
    """Whether an average of squares would not move in this format, or fall out of its range."""
    if not isinstance(codec, Rounded) or codec.force or codec.dtype == "float32":
        return False
    return codec.rounding == "nearest" or codec.dtype == "float16"


def copied(init: Init, params: Tree) -> set[int]:
    """The leaves of a fresh state that depend on the parameters' values: copies do, and zeros do not."""
    with jax.disable_jit(False):  # else no equation has a name
        program, state = jax.make_jaxpr(init, return_shape=True)(params)
    reached = set(program.jaxpr.invars)
    for eqn in program.jaxpr.eqns:
        is_zero = eqn.params.get("name") == "traced_zeros"  # these have a parameter's sharding only
        if not is_zero and any(isinstance(v, Var) and v in reached for v in eqn.invars):
            reached.update(eqn.outvars)
    flags = [isinstance(v, Var) and v in reached for v in program.jaxpr.outvars]
    leaves = jax.tree.leaves(jax.tree.unflatten(jax.tree.structure(state), flags), is_leaf=is_own)
    return {k for k, flag in enumerate(leaves) if flag is True}
